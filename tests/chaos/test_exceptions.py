"""An exception in user code, wherever it is raised, never ends or hangs the process.

It reaches the loop's exception handler (or, from a finaliser, the unraisable hook), the connection that it
concerns ends or goes on, and everything else goes on. `SystemExit` and `KeyboardInterrupt` leave `run_forever`,
and the loop can be run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import threading
import weakref
from typing import Any

import pytest
import rig

CHUNK = bytes(1 << 20)


class Oops(Exception):
    pass


class Party:
    """A server's protocol that fails once, at one place."""

    def __init__(self, place: str, error: BaseException) -> None:
        self.place = place
        self.error: BaseException | None = error
        self.transport: Any = None
        self.heard: list[str] = []

    def at(self, place: str) -> None:
        self.heard.append(place)
        if place == self.place and self.error is not None:
            error, self.error = self.error, None
            raise error

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.at("connection_made")

    def pause_writing(self) -> None:
        self.at("pause_writing")

    def resume_writing(self) -> None:
        self.at("resume_writing")

    def eof_received(self) -> None:
        self.at("eof_received")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.at("connection_lost")

    def answer(self) -> None:
        # So much that it cannot be written at once.
        for _ in range(16):
            self.transport.write(CHUNK)


class Plain(Party, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.at("data_received")
        self.answer()


class Buffered(Party, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint: int) -> Any:
        self.at("get_buffer")
        self.buffer = bytearray(1024)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.at("buffer_updated")
        self.answer()


COMMON = ["connection_made", "eof_received", "connection_lost", "pause_writing", "resume_writing"]
PLACES = [
    *[pytest.param(Plain, place, id=place) for place in ["factory", "data_received", *COMMON]],
    *[pytest.param(Buffered, place, id=f"buffered-{place}") for place in ["get_buffer", "buffer_updated", *COMMON]],
]


class Meeting:
    """A server whose first connection fails at `place`, and a client that sees it through to its end."""

    def __init__(self, loop: Any, kind: Any, place: str, error: BaseException) -> None:
        self.loop = loop
        self.kind = kind
        self.place = place
        self.error: BaseException | None = error
        self.parties: list[Any] = []

    def factory(self) -> Any:
        if self.place == "factory" and self.error is not None:
            error, self.error = self.error, None
            raise error
        # Later connections do not fail.
        place = self.place if self.error is not None and not self.parties else ""
        party = self.kind(place, self.error)
        self.parties.append(party)
        return party

    async def visit(self) -> int:
        """Connect, send a byte and the end, and count what comes back."""
        count = 0
        with socket.socket() as client:
            client.setblocking(False)
            await self.loop.sock_connect(client, self.address)
            with contextlib.suppress(OSError):  # reset by the other side already
                await self.loop.sock_sendall(client, b"x")
                client.shutdown(socket.SHUT_WR)
            # A late reader, so that the other side's writing pauses.
            await asyncio.sleep(0)
            with contextlib.suppress(ConnectionError):
                while data := await self.loop.sock_recv(client, 1 << 18):
                    count += len(data)
        return count

    async def open(self) -> None:
        self.server = await self.loop.create_server(self.factory, "127.0.0.1", 0)
        self.address = self.server.sockets[0].getsockname()

    async def close(self) -> None:
        self.server.close()
        await rig.until(lambda: all("connection_lost" in party.heard for party in self.parties))


@pytest.mark.parametrize(("kind", "place"), PLACES[1:])
def test_an_exception_in_a_protocol_is_reported_and_others_are_served(loop: Any, kind: Any, place: str) -> None:
    error = Oops(place)
    meeting = Meeting(loop, kind, place, error)

    async def main() -> None:
        await meeting.open()
        await meeting.visit()
        await rig.until(lambda: loop.reports)
        assert await meeting.visit() == 16 * len(CHUNK)
        await meeting.close()

    rig.run(loop, main())
    assert [report["exception"] for report in loop.reports] == [error]
    assert loop.reports[0]["message"]
    for party in meeting.parties:
        assert party.heard.count("connection_made") == 1
        assert party.heard.count("connection_lost") == 1
        assert party.heard[-1] == "connection_lost"


def test_an_exception_in_a_factory_closes_the_connection(our_loop: Any) -> None:
    """asyncio's own loop leaves it open until its garbage is collected."""
    test_an_exception_in_a_protocol_is_reported_and_others_are_served(our_loop, Plain, "factory")


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize(("kind", "place"), PLACES)
def test_an_exit_in_a_protocol_leaves_the_run_and_the_loop_runs_again(
    our_loop: Any, kind: Any, place: str, ending: type[BaseException]
) -> None:
    """asyncio's own loop keeps this since Python 3.14; before, a transport's second end was an AttributeError."""
    loop = our_loop
    meeting = Meeting(loop, kind, place, ending(place))
    rig.run(loop, meeting.open())
    visit = loop.create_task(meeting.visit())
    with pytest.raises(ending, match=place):
        rig.run(loop, visit)
    assert not loop.is_running()
    visit = loop.create_task(meeting.visit())
    assert rig.run(loop, visit) == 16 * len(CHUNK)
    # The connection that was left goes on and ends as any other.
    rig.run(loop, rig.until(lambda: all("connection_lost" in party.heard for party in meeting.parties)))
    rig.run(loop, meeting.close())
    assert not [report for report in loop.reports if isinstance(report.get("exception"), ending)]


@pytest.mark.parametrize(
    "buffer",
    [None, 5, "text", b"", bytearray(), b"read-only", memoryview(bytearray(8))[::2], memoryview(b"read-only")],
    ids=["None", "int", "str", "empty", "empty bytearray", "bytes", "strided", "read-only view"],
)
def test_a_buffer_of_no_use_ends_the_connection_alone(loop: Any, buffer: Any) -> None:
    class Useless(Buffered):
        def get_buffer(self, sizehint: int) -> Any:
            self.at("get_buffer")
            return buffer

    meeting = Meeting(loop, Useless, "", Oops())

    async def main() -> None:
        await meeting.open()
        assert await meeting.visit() == 0
        await rig.until(lambda: "connection_lost" in meeting.parties[0].heard)
        await meeting.close()

    rig.run(loop, main())
    assert len(loop.reports) == 1
    assert isinstance(loop.reports[0]["exception"], (TypeError, RuntimeError, BufferError, ValueError))
    assert loop.reports[0]["protocol"] is meeting.parties[0]
    assert "buffer_updated" not in meeting.parties[0].heard


def test_a_buffer_that_shrinks_or_changes_hands_is_no_danger(our_loop: Any) -> None:
    """The buffer is ours only while it is filled: afterwards its owner may resize it."""

    class Reuser(Buffered):
        got = b""

        def get_buffer(self, sizehint: int) -> Any:
            self.buffer = bytearray(4)
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            assert 0 < nbytes <= 4
            self.got += bytes(self.buffer[:nbytes])
            self.buffer.clear()  # BufferError if somebody still exports it
            self.buffer.extend(b"0123456789" * 100)

    loop = our_loop

    async def main() -> None:
        with rig.pair() as (ours, theirs):
            _, protocol = await loop.connect_accepted_socket(lambda: Reuser("", Oops()), ours)
            await loop.sock_sendall(theirs, b"abcdefghijklmnop" * 100)
            await rig.until(lambda: len(protocol.got) == 1600)
            assert protocol.got == b"abcdefghijklmnop" * 100
            protocol.transport.abort()
            await rig.until(lambda: "connection_lost" in protocol.heard)

    rig.run(loop, main())
    assert not loop.reports


def test_what_eof_received_returns_may_refuse_to_be_true_or_false(loop: Any) -> None:
    class Neither:
        def __bool__(self) -> bool:
            raise Oops("neither")

    class Odd(Plain):
        def eof_received(self) -> Any:
            self.at("eof_received")
            return Neither()

    meeting = Meeting(loop, Odd, "", Oops())
    rig.run(loop, meeting.open())
    # asyncio tests the answer where it catches nothing of the protocol's: what matters is that somebody is told.
    visit = loop.create_task(meeting.visit())
    rig.run(loop, rig.until(lambda: loop.reports))
    assert "neither" in str(loop.reports[0]["exception"])
    meeting.parties[0].transport.abort()
    rig.run(loop, visit)
    rig.run(loop, meeting.close())


def test_an_exception_in_a_clients_connection_made(loop: Any) -> None:
    async def main() -> None:
        with rig.listening() as server:
            transport, protocol = await loop.create_connection(
                lambda: Plain("connection_made", Oops()), *server.getsockname()
            )
            transport.abort()
            await rig.until(lambda: "connection_lost" in protocol.heard)

    rig.run(loop, main())
    assert [type(report["exception"]) for report in loop.reports] == [Oops]


def test_an_exception_in_a_clients_factory(loop: Any) -> None:
    def factory() -> Any:
        raise Oops("factory")

    async def main() -> None:
        with rig.listening() as server:
            with pytest.raises(Oops):
                await loop.create_connection(factory, *server.getsockname())

    rig.run(loop, main())


@pytest.mark.parametrize("thing", [None, 5, object(), "protocol"], ids=repr)
def test_a_factory_that_makes_no_protocol(our_loop: Any, thing: Any) -> None:
    """The connection ends, as it does not on asyncio's own loop, and others are served."""
    loop = our_loop

    async def main() -> None:
        made: list[Any] = [thing]
        kept: list[Any] = []

        def factory() -> Any:
            kept.append(made.pop() if made else Plain("", Oops()))
            return kept[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        for _ in range(2):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            with contextlib.suppress(ConnectionError):
                writer.write(b"x")
                writer.write_eof()
                last = len(await reader.read())
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        assert last == 16 * len(CHUNK)
        server.close()
        await rig.until(lambda: "connection_lost" in kept[-1].heard)

    rig.run(loop, main())
    assert loop.reports


# Callbacks -----------------------------------------------------------------------------------------------------


def schedule_soon(loop: Any, callback: Any) -> None:
    loop.call_soon(callback)


def schedule_later(loop: Any, callback: Any) -> None:
    loop.call_later(0.001, callback)


def schedule_at_once(loop: Any, callback: Any) -> None:
    loop.call_at(loop.time() - 1, callback)


def schedule_threadsafe(loop: Any, callback: Any) -> None:
    loop.call_soon_threadsafe(callback)


def schedule_from_thread(loop: Any, callback: Any) -> None:
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(callback,))
    thread.start()
    thread.join()


def schedule_done_callback(loop: Any, callback: Any) -> None:
    future = loop.create_future()
    future.add_done_callback(lambda _: callback())
    future.set_result(None)


SCHEDULES = [
    schedule_soon,
    schedule_later,
    schedule_at_once,
    schedule_threadsafe,
    schedule_from_thread,
    schedule_done_callback,
]


def raiser(error: BaseException) -> Any:
    def callback() -> None:
        raise error

    return callback


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_exception_in_a_callback_is_reported(loop: Any, schedule: Any) -> None:
    error = Oops()
    schedule(loop, raiser(error))
    rig.run(loop, rig.until(lambda: loop.reports))
    (report,) = loop.reports
    assert report["exception"] is error
    assert report["message"].startswith("Exception in callback")
    assert isinstance(report["handle"], asyncio.Handle)


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_exit_in_a_callback_leaves_the_run(loop: Any, schedule: Any, ending: type[BaseException]) -> None:
    behind: list[str] = []
    schedule(loop, raiser(ending("here")))
    loop.call_later(0.002, behind.append, "timer")
    with pytest.raises(ending, match="here"):
        loop.run_forever()
    assert not loop.is_running()
    assert asyncio._get_running_loop() is None
    loop.call_soon(behind.append, "soon")
    rig.run(loop, rig.until(lambda: len(behind) == 2))
    assert not loop.reports


def test_an_exit_loses_no_callback_of_the_same_turn(loop: Any) -> None:
    ran: list[int] = []
    for i in range(10):
        loop.call_soon(ran.append, i)
        loop.call_soon(raiser(SystemExit(i)))
    for i in range(10):
        with pytest.raises(SystemExit) as left:
            loop.run_forever()
        assert left.value.code == i
        assert ran == list(range(i + 1))
    rig.run(loop, asyncio.sleep(0))
    assert ran == list(range(10))


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
def test_an_exit_loses_no_readiness_of_the_same_turn(loop: Any, ending: type[BaseException]) -> None:
    """Several connections are ready at once and each callback leaves the run: all their bytes still arrive."""
    got: dict[int, bytes] = {}

    class Leaver(asyncio.Protocol):
        def __init__(self, number: int) -> None:
            self.number = number

        def data_received(self, data: bytes) -> None:
            got[self.number] = got.get(self.number, b"") + data
            if len(got[self.number]) == 1:
                raise ending(self.number)

    async def open_all() -> None:
        for number, (ours, _) in enumerate(pairs):
            await loop.connect_accepted_socket(lambda number=number: Leaver(number), ours)

    pairs = [socket.socketpair() for _ in range(20)]
    rig.run(loop, open_all())
    for _, theirs in pairs:
        theirs.send(b"1")
    for _ in pairs:
        with pytest.raises(ending):
            loop.run_forever()
    for _, theirs in pairs:
        theirs.send(b"2")
    rig.run(loop, rig.until(lambda: all(got[number] == b"12" for number in range(20))))
    for _, theirs in pairs:
        theirs.close()
    rig.run(loop, rig.until(lambda: all(ours.fileno() == -1 for ours, _ in pairs)))


@pytest.mark.parametrize("side", ["reader", "writer"])
def test_an_exception_in_a_reader_or_writer_is_reported_each_time(loop: Any, side: str) -> None:
    with rig.pair() as (ours, theirs):
        theirs.send(b"x")

        def callback() -> None:
            if len(loop.reports) == 2:
                getattr(loop, f"remove_{side}")(ours)
            raise Oops(side)

        getattr(loop, f"add_{side}")(ours, callback)
        rig.run(loop, rig.until(lambda: len(loop.reports) == 3))
        assert not getattr(loop, f"remove_{side}")(ours)
    assert {str(report["exception"]) for report in loop.reports} == {side}


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_a_reader_leaves_the_run(loop: Any, ending: type[BaseException]) -> None:
    with rig.pair() as (ours, theirs):
        theirs.send(b"x")
        loop.add_reader(ours, raiser(ending()))
        for _ in range(3):  # nobody reads the byte, so it is ready again
            with pytest.raises(ending):
                loop.run_forever()
        assert loop.remove_reader(ours)
    rig.run(loop, asyncio.sleep(0))


@pytest.mark.parametrize("error", [Oops("job"), SystemExit("job"), KeyboardInterrupt("job")], ids=repr)
def test_an_exception_in_an_executors_function_goes_to_who_waits(loop: Any, error: BaseException) -> None:
    with pytest.raises(type(error), match="job"):
        rig.run(loop, loop.run_in_executor(None, raiser(error)))
    assert rig.run(loop, loop.run_in_executor(None, lambda: 1)) == 1


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_a_task_leaves_the_run(loop: Any, ending: type[BaseException]) -> None:
    async def leave() -> None:
        await asyncio.sleep(0)
        raise ending("task")

    task = loop.create_task(leave())
    with pytest.raises(ending, match="task"):
        loop.run_forever()
    assert task.done() and isinstance(task.exception(), ending)
    rig.run(loop, asyncio.sleep(0))


def test_an_exception_in_a_signal_handler_is_reported(loop: Any) -> None:
    loop.add_signal_handler(signal.SIGUSR1, raiser(Oops("signal")))
    try:
        signal.raise_signal(signal.SIGUSR1)
        rig.run(loop, rig.until(lambda: loop.reports))
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
    assert isinstance(loop.reports[0]["exception"], Oops)


def test_an_exception_in_a_handler_of_the_signal_module_leaves_the_run(loop: Any) -> None:
    """It is raised between two callbacks, or out of the sleep: the program's own wish."""

    def handler(number: int, frame: Any) -> None:
        raise Oops("handler")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        # Long enough for the callback that starts it to be done: what is raised in there is the callback's.
        timer = threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
        loop.call_soon(timer.start)
        with pytest.raises(Oops):
            loop.run_forever()
        timer.join()
        rig.run(loop, asyncio.sleep(0))
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_exception_in_an_async_generators_finaliser(loop: Any) -> None:
    async def numbers() -> Any:
        try:
            yield 1
        finally:
            raise Oops("finaliser")

    async def main() -> None:
        async for _ in numbers():
            break
        gc.collect()
        await rig.until(lambda: loop.reports)

    rig.run(loop, main())
    assert isinstance(loop.reports[0]["exception"], Oops)


def test_an_exception_in_shutdown_asyncgens(loop: Any) -> None:
    async def numbers() -> Any:
        try:
            yield 1
        finally:
            raise Oops("shutdown")

    async def main() -> Any:
        generator = numbers()
        await anext(generator)
        return generator

    generator = rig.run(loop, main())
    rig.run(loop, loop.shutdown_asyncgens())
    assert isinstance(loop.reports[0]["exception"], Oops)
    del generator


# Exception handlers ---------------------------------------------------------------------------------------------


def test_an_exception_handler_may_fail(loop: Any, caplog: pytest.LogCaptureFixture) -> None:
    def handler(loop: Any, context: Any) -> None:
        raise Oops("handler")

    loop.set_exception_handler(handler)
    loop.call_soon(raiser(ValueError("callback")))
    rig.run(loop, asyncio.sleep(0))
    assert "Unhandled error in exception handler" in caplog.text
    assert "handler" in caplog.text
    rig.run(loop, asyncio.sleep(0))


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
def test_an_exception_handler_may_exit(loop: Any, ending: type[BaseException]) -> None:
    def handler(loop: Any, context: Any) -> None:
        raise ending("handler")

    loop.set_exception_handler(handler)
    loop.call_soon(raiser(ValueError("callback")))
    with pytest.raises(ending, match="handler"):
        loop.run_forever()
    rig.run(loop, asyncio.sleep(0))


def test_an_overridden_exception_handler_may_fail(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`call_exception_handler` itself fails, in a program's subclass: there is no one left to tell but stderr."""
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: unraisable.append(what.exc_value))

    def fail(context: Any) -> None:
        raise Oops("overridden")

    ran: list[int] = []
    loop.call_exception_handler = fail
    loop.call_soon(raiser(ValueError("callback")))
    loop.call_soon(ran.append, 1)
    with contextlib.suppress(Oops):  # asyncio's own loop is left by it
        rig.run(loop, asyncio.sleep(0))
    del loop.call_exception_handler
    rig.run(loop, asyncio.sleep(0))
    assert ran == [1]
    unraisable.clear()


@pytest.mark.parametrize("where", ["callback", "argument", "exception", "exception str"])
def test_a_repr_may_fail(where: str) -> None:
    """What is shown of a failed callback is made of reprs, any of which may fail in its turn."""
    done = rig.script(
        """
        import asyncio, sys, ropewalk
        where = sys.argv[1]
        class Bad:
            def __repr__(self): raise ZeroDivisionError("repr")
            def __call__(self, *args): raise ValueError("call")
        class BadError(Exception):
            def __repr__(self): raise ZeroDivisionError("repr")
        class BadText(Exception):
            def __str__(self): raise ZeroDivisionError("str")
        def fail(*args):
            raise {"exception": BadError, "exception str": BadText}.get(where, ValueError)("call")
        loop = ropewalk.new_event_loop()
        loop.call_soon(Bad() if where == "callback" else fail, *([Bad()] if where == "argument" else []))
        loop.run_until_complete(asyncio.sleep(0.001))
        print("goes on")
        loop.close()
        """,
        where,
    )
    assert done.stdout == "goes on\n"
    # Somebody is told, if not of the call then of the repr.
    assert "Exception" in done.stderr or "Error" in done.stderr


def test_a_protocols_repr_may_fail() -> None:
    done = rig.script(
        """
        import asyncio, ropewalk
        class Bad(asyncio.Protocol):
            def __repr__(self): raise ZeroDivisionError("repr")
            def connection_made(self, transport): raise ValueError("made")
            def data_received(self, data): raise ValueError("data")
        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Bad, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x")
            print(await reader.read())
            writer.close()
            server.close()
        ropewalk.run(main())
        """
    )
    assert done.stdout == "b''\n"


# Finalisers -------------------------------------------------------------------------------------------------------


class Fragile:
    """Its finaliser fails; that is told to `sys.unraisablehook`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any) -> None:
        pass

    def __del__(self) -> None:
        raise Oops(self.name)


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> Any:
    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(str(what.exc_value)))
    return told


@pytest.mark.parametrize("end", ["run", "cancel", "close"])
@pytest.mark.parametrize("call", ["call_soon", "call_later", "call_soon_threadsafe"])
def test_finalisers_of_callbacks_and_arguments_may_fail(unraisable: list[str], call: str, end: str) -> None:
    with rig.borrowed(rig.ropewalk.new_event_loop) as loop:
        delay = [0.001] if call == "call_later" else []
        handle = getattr(loop, call)(*delay, Fragile("callback"), Fragile("argument"))
        if end == "cancel":
            handle.cancel()
            assert sorted(unraisable) == ["argument", "callback"]
        elif end == "close":
            loop.close()
        del handle
        if end != "close":
            rig.run(loop, rig.until(lambda: len(unraisable) == 2))
            rig.run(loop, asyncio.sleep(0))
    gc.collect()
    assert sorted(unraisable) == ["argument", "callback"]


def test_finalisers_of_readers_may_fail(our_loop: Any, unraisable: list[str]) -> None:
    with rig.pair() as (ours, _):
        our_loop.add_reader(ours, Fragile("first"))
        our_loop.add_reader(ours, Fragile("second"))
        gc.collect()
        assert unraisable == ["first"]
        assert our_loop.remove_reader(ours)
        gc.collect()
        assert unraisable == ["first", "second"]


def test_finalisers_of_protocols_and_contexts_may_fail(our_loop: Any, unraisable: list[str]) -> None:
    class Mortal(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.close()

        def __del__(self) -> None:
            raise Oops("protocol")

    async def main() -> None:
        server = await our_loop.create_server(Mortal, "127.0.0.1", 0)
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()
        gc.collect()
        await rig.until(lambda: len(unraisable) == 3)

    rig.run(our_loop, main())
    assert unraisable == ["protocol"] * 3


@pytest.mark.parametrize("end", ["run", "cancel", "replace", "close"])
def test_a_finaliser_may_use_the_loop(end: str) -> None:
    """It runs in the middle of the loop's own work: whatever it calls there must find the loop whole."""
    done = rig.script(
        """
        import asyncio, gc, socket, sys, ropewalk
        end = sys.argv[1]
        loop = ropewalk.new_event_loop()
        one, other = socket.socketpair()
        heard = []
        class Busy:
            def __init__(self, depth=3): self.depth = depth
            def __call__(self, *args): pass
            def __del__(self):
                heard.append(self.depth)
                if self.depth and not loop.is_closed():
                    try:
                        loop.call_soon(Busy(self.depth - 1)).cancel()
                        loop.call_later(100, Busy(self.depth - 1))
                        loop.call_soon_threadsafe(Busy(self.depth - 1))
                        loop.add_reader(other, Busy(self.depth - 1))
                        loop.remove_reader(other)
                        loop.time()
                        repr(loop)
                    except RuntimeError as error:
                        assert "closed" in str(error), error
        loop.call_soon(Busy())
        timer = loop.call_later(50, Busy())
        loop.add_reader(one, Busy())
        if end == "cancel":
            timer.cancel()
            loop.remove_reader(one)
        if end == "replace":
            loop.add_reader(one, Busy())
        for _ in range(10):
            loop.run_until_complete(asyncio.sleep(0))
            gc.collect()
        del timer
        loop.close()
        gc.collect()
        assert 3 in heard and 2 in heard, heard
        print(len(heard) > 3)
        """,
        end,
    )
    assert done.stdout == "True\n"


def test_a_finaliser_may_exit(unraisable: list[str], our_loop: Any) -> None:
    """An exit from a finaliser goes where CPython sends it: to the unraisable hook."""

    class Leaver:
        def __del__(self) -> None:
            raise SystemExit("del")

    our_loop.call_soon(lambda _: None, Leaver())
    rig.run(our_loop, asyncio.sleep(0))
    assert unraisable == ["del"]


# Weird ------------------------------------------------------------------------------------------------------------


def test_a_task_factory_may_fail(loop: Any) -> None:
    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        coro.close()
        raise Oops("factory")

    loop.set_task_factory(factory)
    with pytest.raises(Oops):
        loop.create_task(asyncio.sleep(0))
    loop.set_task_factory(None)
    rig.run(loop, asyncio.sleep(0))


def test_recursion_without_end_in_a_callback(loop: Any) -> None:
    def recurse() -> None:
        recurse()

    loop.call_soon(recurse)
    rig.run(loop, rig.until(lambda: loop.reports))
    assert isinstance(loop.reports[0]["exception"], RecursionError)


def test_out_of_memory_in_a_callback(loop: Any) -> None:
    loop.call_soon(raiser(MemoryError()))
    rig.run(loop, rig.until(lambda: loop.reports))
    assert isinstance(loop.reports[0]["exception"], MemoryError)


def test_a_base_exception_of_ones_own_is_reported(loop: Any) -> None:
    class Own(BaseException):
        pass

    loop.call_soon(raiser(Own()))
    rig.run(loop, rig.until(lambda: loop.reports))
    assert isinstance(loop.reports[0]["exception"], Own)


@pytest.mark.parametrize("error", [StopIteration(1), GeneratorExit(), asyncio.CancelledError()], ids=repr)
def test_an_exception_that_means_something_elsewhere(loop: Any, error: BaseException) -> None:
    loop.call_soon(raiser(error))
    rig.run(loop, rig.until(lambda: loop.reports))
    assert loop.reports[0]["exception"] is error


def test_a_waiter_that_is_cancelled_while_a_connection_is_made(loop: Any) -> None:
    async def main() -> None:
        with rig.listening() as server:
            for turns in range(6):
                connecting = loop.create_task(loop.create_connection(lambda: Plain("", Oops()), *server.getsockname()))
                for _ in range(turns):
                    await asyncio.sleep(0)
                connecting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    transport, _ = await connecting
                    transport.abort()
                await asyncio.sleep(0)
                peer, _ = await loop.run_in_executor(None, accept_or_none, server)
                if peer is not None:
                    peer.close()

    def accept_or_none(server: socket.socket) -> Any:
        server.settimeout(0.05)
        try:
            return server.accept()
        except TimeoutError:
            return None, None

    rig.run(loop, main())
    assert not loop.reports


def test_nothing_keeps_what_failed_alive(our_loop: Any) -> None:
    class Thing:
        pass

    def fail(thing: Any) -> None:
        raise Oops

    def failing() -> weakref.ref[Thing]:
        thing = Thing()
        our_loop.call_soon(fail, thing)
        return weakref.ref(thing)

    thing = failing()
    rig.run(our_loop, rig.until(lambda: our_loop.reports))
    our_loop.reports.clear()
    gc.collect()
    assert thing() is None


def test_the_exit_status_is_the_programs_own() -> None:
    for place in ("data_received", "callback", "task"):
        rig.script(
            """
            import asyncio, sys, ropewalk
            place = sys.argv[1]
            class Leaver(asyncio.Protocol):
                def data_received(self, data): sys.exit(41)
            async def main():
                loop = asyncio.get_running_loop()
                if place == "callback":
                    loop.call_soon(sys.exit, 41)
                if place == "task":
                    sys.exit(41)
                server = await loop.create_server(Leaver, "127.0.0.1", 0)
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                writer.write(b"x")
                await reader.read()
            ropewalk.run(main())
            """,
            place,
            expect=41,
        )


def test_an_uncaught_exception_ends_run_with_its_traceback() -> None:
    done = rig.script(
        """
        import ropewalk
        async def main(): raise ValueError("the reason")
        ropewalk.run(main())
        """,
        expect=1,
    )
    assert done.stderr.rstrip().endswith("ValueError: the reason")


def test_the_default_exception_handler_writes_the_traceback() -> None:
    done = rig.script(
        """
        import asyncio, ropewalk
        def guilty(): raise ValueError("the reason")
        async def main():
            asyncio.get_running_loop().call_soon(guilty)
            await asyncio.sleep(0)
        ropewalk.run(main())
        """
    )
    assert "Exception in callback guilty()" in done.stderr
    assert "ValueError: the reason" in done.stderr
    assert "in guilty" in done.stderr
