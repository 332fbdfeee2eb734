"""Scheduling as asyncio documents it: handles, timers, contexts, debug mode, tasks. On both loops alike."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import fractions
import functools
import gc
import logging
import sys
import threading
import time
import weakref
from typing import Any

import pytest
import rig
import ropewalk

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def turn(loop: Any) -> None:
    rig.run(loop, asyncio.sleep(0))


def messages(calls: Any) -> list[tuple[type, str]]:
    """What each call raises."""
    caught = []
    for call in calls:
        with pytest.raises(Exception) as error:
            call()
        caught.append((error.type, str(error.value)))
    return caught


# Handles -----------------------------------------------------------------------------------------------------------


def callback(*args: Any) -> None:
    pass


def test_handles_are_asyncios(loop: Any) -> None:
    soon, later, at = loop.call_soon(callback, 1), loop.call_later(5, callback, 2), loop.call_at(1e9, callback)
    safe = loop.call_soon_threadsafe(callback)
    for handle in (soon, later, at, safe):
        assert isinstance(handle, asyncio.Handle)
    assert isinstance(later, asyncio.TimerHandle) and isinstance(at, asyncio.TimerHandle)
    assert not isinstance(soon, asyncio.TimerHandle)


def test_attributes_of_handles(loop: Any) -> None:
    loop.set_debug(False)
    context = contextvars.copy_context()
    handle = loop.call_soon(callback, 1, "two", context=context)
    assert handle._callback is callback
    assert handle._args == (1, "two")
    if sys.version_info >= (3, 12):
        assert handle.get_context() is context
    assert handle._context is context
    assert handle._loop is loop
    assert handle._source_traceback is None
    assert handle.cancelled() is False
    handle.cancel()
    assert handle.cancelled() is True and handle._cancelled
    assert handle._callback is None and handle._args is None
    handle.cancel()
    bare = loop.call_soon(callback)
    assert bare._args == ()


def test_attributes_of_timers(loop: Any) -> None:
    now = loop.time()
    timer = loop.call_later(10, callback, 1)
    assert now + 10 <= timer.when() <= loop.time() + 10
    assert timer._when == timer.when()
    assert timer._scheduled
    assert timer._callback is callback and timer._args == (1,)
    timer.cancel()
    assert timer.cancelled()
    assert loop.call_at(1e9 + 0.25, callback).when() == 1e9 + 0.25


def test_timers_compare_and_hash(loop: Any) -> None:
    one, same, two = loop.call_at(1e9, callback), loop.call_at(1e9, callback), loop.call_at(2e9, callback)
    assert one < two and two > one and one <= same and one >= same
    assert one == same and one != two
    assert hash(one) == hash(1e9)
    assert sorted([two, one]) == [one, two]
    assert one != 5
    with pytest.raises(TypeError):
        one < 5  # noqa: B015


def test_reprs_of_handles_are_those_of_asyncio() -> None:
    def shown(factory: Any) -> list[str]:
        loop = factory()
        handles = [
            loop.call_soon(callback, 1, "two"),
            loop.call_at(5.5, callback),
            loop.call_soon(functools.partial(callback, 1), 2),
            loop.call_soon(print),
            loop.call_soon("".join, []),
        ]
        texts = [repr(handle) for handle in handles]
        for handle in handles:
            handle.cancel()
        texts += [repr(handle) for handle in handles]
        loop.close()
        return texts

    assert shown(ropewalk.new_event_loop) == shown(asyncio.SelectorEventLoop)


def test_the_loops_repr(loop: Any) -> None:
    loop.set_debug(False)
    assert "running=False closed=False debug=False" in repr(loop)

    async def main() -> str:
        return repr(loop)

    assert "running=True" in rig.run(loop, main())


def test_handles_can_be_referred_to_weakly(loop: Any) -> None:
    loop.set_debug(False)
    handle = loop.call_later(100, callback)
    ref = weakref.ref(handle)
    assert ref() is handle
    handle.cancel()
    del handle
    turn(loop)
    gc.collect()
    if type(loop) is not asyncio.SelectorEventLoop:  # asyncio's heap keeps cancelled timers for a while
        assert ref() is None


def test_a_cancelled_handle_does_not_run(loop: Any) -> None:
    ran: list[str] = []
    later = loop.call_later(0.001, ran.append, "later")
    soon = loop.call_soon(ran.append, "soon")
    safe = loop.call_soon_threadsafe(ran.append, "safe")
    inner = loop.call_soon(ran.append, "inner")
    loop.call_soon(lambda: None)
    for handle in (later, soon, safe, inner):
        handle.cancel()
    rig.run(loop, asyncio.sleep(0.005))
    assert ran == []


def test_a_handle_cancelled_by_a_callback_of_the_same_turn(loop: Any) -> None:
    ran: list[str] = []
    handles: list[Any] = []
    loop.call_soon(lambda: handles[0].cancel())
    handles.append(loop.call_soon(ran.append, "second"))
    turn(loop)
    assert ran == []


def test_callbacks_with_many_arguments(loop: Any) -> None:
    got: list[Any] = []
    for count in range(12):
        loop.call_soon(lambda *args: got.append(args), *range(count))
        loop.call_soon_threadsafe(lambda *args: got.append(args), *range(count))
    turn(loop)
    turn(loop)
    assert sorted(got) == sorted([tuple(range(count)) for count in range(12)] * 2)


def test_callbacks_of_every_kind(loop: Any) -> None:
    got: list[Any] = []

    class Callable:
        def __call__(self, value: Any) -> None:
            got.append(("object", value))

        def method(self, value: Any) -> None:
            got.append(("method", value))

        @classmethod
        def of_class(cls, value: Any) -> None:
            got.append(("classmethod", value))

    loop.call_soon(Callable(), 1)
    loop.call_soon(Callable().method, 2)
    loop.call_soon(Callable.of_class, 3)
    loop.call_soon(functools.partial(got.append), ("partial", 4))
    loop.call_soon(got.append, ("builtin", 5))
    turn(loop)
    assert got == [("object", 1), ("method", 2), ("classmethod", 3), ("partial", 4), ("builtin", 5)]


# Arguments ---------------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_refused_as_by_asyncio() -> None:
    def refusals(factory: Any) -> list[Any]:
        loop = factory()
        try:
            return messages(
                [
                    lambda: loop.call_soon(),
                    lambda: loop.call_soon_threadsafe(),
                    lambda: loop.call_later(1),
                    lambda: loop.call_at(1),
                    lambda: loop.call_soon(callback, wrong=1),
                    lambda: loop.call_later(None, callback),
                    lambda: loop.call_at(None, callback),
                    lambda: loop.call_later("1", callback),
                    lambda: loop.run_until_complete(5),
                    lambda: loop.create_task(5),
                    lambda: loop.set_exception_handler(5),
                    lambda: loop.set_task_factory(5),
                    lambda: loop.set_default_executor(5),
                    lambda: loop.add_signal_handler(9999, callback),
                    lambda: loop.add_signal_handler("TERM", callback),
                    lambda: loop.add_signal_handler(9, callback),
                    lambda: loop.remove_signal_handler(9999),
                ]
            )
        finally:
            loop.close()

    theirs, ours = refusals(asyncio.SelectorEventLoop), refusals(ropewalk.new_event_loop)
    for their, our in zip(theirs, ours, strict=True):
        assert our[0] is their[0]
        # The class's name is in some of them.
        assert our[1].split("EventLoop.")[-1] == their[1].split("EventLoop.")[-1]


@pytest.mark.parametrize("delay", [0, 0.0, -1, -1e9, False, 1e-9, float("-inf")], ids=repr)
def test_delays_that_are_due(loop: Any, delay: float) -> None:
    ran: list[int] = []
    loop.call_later(delay, ran.append, 1)
    rig.run(loop, rig.until(lambda: ran))


def test_delays_of_odd_types(loop: Any) -> None:
    ran: list[int] = []

    class Float(float):
        pass

    loop.call_later(Float(0.001), ran.append, 1)
    loop.call_later(fractions.Fraction(1, 1000), ran.append, 2)
    with pytest.raises(TypeError):
        loop.call_later(decimal.Decimal("0.001"), ran.append, 3)
    with pytest.raises((TypeError, OverflowError)):
        loop.call_later(10**400, ran.append, 4)
    rig.run(loop, rig.until(lambda: sorted(ran) == [1, 2]))


@pytest.mark.parametrize("delay", [float("inf"), 1e18, 1e300], ids=repr)
def test_delays_without_end(our_loop: Any, delay: float) -> None:
    timer = our_loop.call_later(delay, callback)
    rig.run(our_loop, asyncio.sleep(0.005))
    assert not timer.cancelled() and timer._scheduled
    timer.cancel()


def test_sleep_sleeps(loop: Any) -> None:
    for seconds in (0.0, 0.001, 0.01, 0.05):
        began = time.monotonic()
        rig.run(loop, asyncio.sleep(seconds))
        assert seconds <= time.monotonic() - began < seconds + 5


def test_the_clock(loop: Any) -> None:
    before, now, after = time.monotonic(), loop.time(), time.monotonic()
    assert before <= now <= after


# Contexts ----------------------------------------------------------------------------------------------------------


def test_callbacks_run_in_a_copy_of_the_context(loop: Any) -> None:
    seen: list[str] = []

    def look(name: str) -> None:
        seen.append(f"{name}={variable.get()}")
        variable.set("changed in the callback")

    token = variable.set("at the call")
    loop.call_soon(look, "soon")
    loop.call_later(0.001, look, "later")
    loop.call_soon_threadsafe(look, "safe")
    variable.set("after the call")
    rig.run(loop, rig.until(lambda: len(seen) == 3))
    assert sorted(seen) == [f"{name}=at the call" for name in ("later", "safe", "soon")]
    assert variable.get() == "after the call"
    variable.reset(token)


def test_callbacks_run_in_the_context_given(loop: Any) -> None:
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    seen: list[str] = []

    def look() -> None:
        seen.append(variable.get())
        variable.set("kept")

    loop.call_soon(look, context=context)
    turn(loop)
    assert context.run(variable.get) == "kept"
    loop.call_later(0, look, context=context)
    loop.call_at(0, look, context=context)
    loop.call_soon_threadsafe(look, context=context)
    rig.run(loop, rig.until(lambda: len(seen) == 4))
    assert seen == ["given", "kept", "kept", "kept"]
    assert variable.get() == "unset"


def test_a_context_of_none_is_a_copy(loop: Any) -> None:
    seen: list[str] = []
    loop.call_soon(lambda: seen.append(variable.get()), context=None)
    turn(loop)
    assert seen == ["unset"]


def test_readers_run_in_the_context_of_their_registration(loop: Any) -> None:
    seen: list[str] = []
    with rig.pair() as (ours, theirs):
        token = variable.set("registered")
        loop.add_reader(ours, lambda: (seen.append(variable.get()), ours.recv(1)))
        variable.reset(token)
        theirs.send(b"x")
        rig.run(loop, rig.until(lambda: seen))
        loop.remove_reader(ours)
    assert seen == ["registered"]


def test_protocols_run_in_one_context_of_their_connection(loop: Any) -> None:
    seen: list[str] = []

    class Protocol(asyncio.Protocol):
        def note(self, name: str) -> None:
            seen.append(f"{name}={variable.get()}")
            variable.set(name)

        def connection_made(self, transport: Any) -> None:
            self.note("made")

        def data_received(self, data: bytes) -> None:
            self.note("data")

        def eof_received(self) -> None:
            self.note("eof")

        def connection_lost(self, exc: BaseException | None) -> None:
            self.note("lost")

    async def main() -> None:
        with rig.pair() as (ours, theirs):
            token = variable.set("captured")
            await loop.connect_accepted_socket(Protocol, ours)
            variable.reset(token)
            theirs.send(b"x")
            await rig.until(lambda: len(seen) > 1)
            theirs.close()
            await rig.until(lambda: len(seen) == 4)

    rig.run(loop, main())
    names = [text.split("=")[0] for text in seen]
    assert names == ["made", "data", "eof", "lost"]
    assert seen[0] == "made=captured"
    # A value that one callback leaves is never another connection's; here nobody else's is to be seen.
    assert all(text.split("=")[1] in ("captured", "made", "data", "eof") for text in seen)


def test_connections_of_one_server_do_not_share_a_context(loop: Any) -> None:
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(variable.get())
        variable.set("another connection's")
        writer.close()

    async def main() -> None:
        token = variable.set("the server's")
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        variable.reset(token)
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
        server.close()

    rig.run(loop, main())
    assert seen == ["the server's"] * 3


def test_tasks_take_context_and_name(loop: Any) -> None:
    context = contextvars.copy_context()
    context.run(variable.set, "given")

    async def look() -> str:
        return variable.get()

    task = loop.create_task(look(), name="named", context=context)
    assert task.get_name() == "named"
    assert rig.run(loop, task) == "given"
    assert isinstance(task, asyncio.Task)
    assert isinstance(loop.create_future(), asyncio.Future)


# Debug mode --------------------------------------------------------------------------------------------------------


def test_debug_reports_slow_callbacks(loop: Any, caplog: pytest.LogCaptureFixture) -> None:
    loop.set_debug(True)
    assert loop.get_debug()
    loop.slow_callback_duration = 0.01

    def slow() -> None:
        time.sleep(0.02)

    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.call_soon(slow)
        loop.call_later(0, slow)
        loop.call_soon_threadsafe(slow)
        rig.run(loop, asyncio.sleep(0.05))
    lines = [message for message in caplog.messages if message.startswith("Executing <") and "slow" in message]
    assert len(lines) == 3
    assert all("created at" in line and "took 0.0" in line for line in lines)


def test_debug_reports_slow_tasks(loop: Any, caplog: pytest.LogCaptureFixture) -> None:
    loop.set_debug(True)
    loop.slow_callback_duration = 0.01

    async def slow_task() -> None:
        time.sleep(0.02)

    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.run_until_complete(slow_task())
    assert any("Executing <Task" in message and "slow_task" in message for message in caplog.messages)


def test_debug_keeps_where_handles_were_made(loop: Any) -> None:
    loop.set_debug(True)
    for handle in (loop.call_soon(callback), loop.call_later(5, callback), loop.call_at(1e9, callback)):
        assert handle._source_traceback[-1].name == "test_debug_keeps_where_handles_were_made"
        assert "created at" in repr(handle)
        handle.cancel()
        assert "callback" in repr(handle)


def test_debug_refuses_other_threads(loop: Any) -> None:
    loop.set_debug(True)

    async def main() -> list[str]:
        def intrude() -> list[str]:
            texts = []
            for call in (
                lambda: loop.call_soon(callback),
                lambda: loop.call_later(1, callback),
                lambda: loop.call_at(1, callback),
            ):
                with pytest.raises(RuntimeError) as caught:
                    call()
                texts.append(str(caught.value))
            loop.call_soon_threadsafe(callback)
            return texts

        return await asyncio.to_thread(intrude)

    text = "Non-thread-safe operation invoked on an event loop other than the current one"
    assert rig.run(loop, main()) == [text] * 3


def test_debug_refuses_what_cannot_be_called(loop: Any) -> None:
    loop.set_debug(True)

    async def coroutine() -> None:
        pass

    coro = coroutine()
    for thing in (5, coroutine, coro):
        for call in (
            lambda thing=thing: loop.call_soon(thing),
            lambda thing=thing: loop.call_later(1, thing),
            lambda thing=thing: loop.call_at(1, thing),
            lambda thing=thing: loop.call_soon_threadsafe(thing),
        ):
            with pytest.raises(TypeError, match="callable object was expected|coroutines cannot be used"):
                call()
    coro.close()


def test_debug_can_change_while_the_loop_runs(loop: Any) -> None:
    ran: list[int] = []

    async def main() -> None:
        for debug in (True, False) * 3:
            loop.set_debug(debug)
            loop.call_soon(ran.append, 1)
            loop.call_later(0.001, ran.append, 2)
            await asyncio.sleep(0.002)
        await rig.until(lambda: len(ran) == 12)

    rig.run(loop, main())
    assert not loop.reports


def test_debug_works_as_a_whole(loop: Any) -> None:
    """A server, clients, threads, children in debug mode."""
    loop.set_debug(True)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x")
        assert await reader.read() == b"x"
        writer.close()
        assert await asyncio.to_thread(int) == 0
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
        server.close()

    rig.run(loop, main())
    assert not loop.reports


def test_debug_comes_from_the_environment() -> None:
    code = "import ropewalk; loop = ropewalk.new_event_loop(); print(loop.get_debug()); loop.close()"
    assert rig.script(code, env={"PYTHONASYNCIODEBUG": "1"}).stdout == "True\n"
    assert rig.script(code, flags=("-X", "dev")).stdout == "True\n"


# The rest ----------------------------------------------------------------------------------------------------------


def test_exception_handlers(loop: Any) -> None:
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None

    def handler(loop: Any, context: Any) -> None:
        told.append(context)

    told: list[Any] = []
    loop.set_exception_handler(handler)
    assert loop.get_exception_handler() is handler
    loop.call_exception_handler({"message": "hello"})
    assert told == [{"message": "hello"}]


def test_a_future_whose_exception_nobody_saw_is_reported(loop: Any) -> None:
    future = loop.create_future()
    future.set_exception(ValueError("unseen"))
    del future
    gc.collect()
    turn(loop)
    assert [report["message"] for report in loop.reports] == ["Future exception was never retrieved"]


def test_task_factories(loop: Any) -> None:
    made: list[Any] = []

    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        made.append(kwargs)
        return asyncio.Task(coro, loop=loop, **kwargs)

    assert loop.get_task_factory() is None
    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory

    async def main() -> None:
        await asyncio.create_task(asyncio.sleep(0), name="x")

    rig.run(loop, main())
    loop.set_task_factory(None)
    count = len(made)
    assert count >= 2
    turn(loop)
    assert len(made) == count


def test_overriding_methods_in_a_subclass() -> None:
    from ropewalk.asyncio import EventLoop

    class Mine(EventLoop):
        calls: list[str] = []

        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            self.calls.append("call_soon")
            return super().call_soon(callback, *args, context=context)

        def time(self) -> float:
            return super().time()

    with rig.borrowed(Mine) as loop:
        loop.call_soon(callback)
        turn(loop)
        assert "call_soon" in Mine.calls


def test_a_thread_may_run_a_loop_made_in_another(loop: Any) -> None:
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(rig.run(loop, asyncio.sleep(0.001, 5))))
    thread.start()
    thread.join(rig.PATIENCE)
    assert got == [5]


def test_async_generators_are_shut_down(loop: Any) -> None:
    closed: list[int] = []

    async def numbers(number: int) -> Any:
        try:
            while True:
                yield number
        finally:
            await asyncio.sleep(0)
            closed.append(number)

    async def main() -> None:
        for number in range(3):
            generator = numbers(number)
            generators.append(generator)
            await anext(generator)

    generators: list[Any] = []
    rig.run(loop, main())
    rig.run(loop, loop.shutdown_asyncgens())
    assert sorted(closed) == [0, 1, 2]

    async def late() -> None:
        generator = numbers(9)
        await anext(generator)
        await generator.aclose()

    with pytest.warns(ResourceWarning, match="was scheduled after loop.shutdown_asyncgens"):
        rig.run(loop, late())


def test_run_until_complete(loop: Any) -> None:
    with pytest.raises(RuntimeError, match=r"Event loop stopped before Future completed\."):
        loop.call_soon(loop.stop)
        loop.run_until_complete(loop.create_future())
    other = asyncio.SelectorEventLoop()
    future = other.create_future()
    with pytest.raises(ValueError, match="belongs to a different loop"):
        loop.run_until_complete(future)
    other.close()
    assert loop.run_until_complete(asyncio.sleep(0, 3)) == 3
