"""``ropewalk.futures.Future``. What the original promises is held against the original as well (``BOTH``)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import math
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import GenericAlias
from typing import Any

import pytest
import rig
import ropewalk.futures
from ropewalk.futures import Future

BOTH = pytest.mark.parametrize(
    "make", [pytest.param(concurrent.futures.Future, id="original"), pytest.param(Future, id="ours")]
)
Make = Callable[[], Any]


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A thread that makes the call, and where its result or exception will be."""
    out: list[Any] = []

    def run() -> None:
        try:
            out.append(call())
        except BaseException as error:
            out.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, out


def waits(future: Any) -> bool:
    return bool(future.statistics().waiters)


@BOTH
def test_its_life(make: Make) -> None:
    future = make()
    assert (future.done(), future.running(), future.cancelled()) == (False, False, False)
    assert future.set_running_or_notify_cancel() is True
    assert (future.done(), future.running(), future.cancelled()) == (False, True, False)
    assert future.cancel() is False
    future.set_result("x")
    assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
    assert future.cancel() is False
    assert (future.result(), future.exception()) == ("x", None)


@BOTH
def test_cancelled(make: Make) -> None:
    future = make()
    assert future.cancel() is True
    assert future.cancel() is True
    assert (future.done(), future.cancelled()) == (True, True)
    for call in (future.result, future.exception):
        with pytest.raises(concurrent.futures.CancelledError):
            call()
    assert future.set_running_or_notify_cancel() is False
    with pytest.raises(RuntimeError, match="Future in unexpected state"):
        future.set_running_or_notify_cancel()


@BOTH
def test_an_outcome_is_set_once(make: Make) -> None:
    future = make()
    future.set_result(1)
    with pytest.raises(concurrent.futures.InvalidStateError) as caught:
        future.set_result(2)
    assert str(caught.value) == f"FINISHED: {future!r}"
    future = make()
    future.cancel()
    with pytest.raises(concurrent.futures.InvalidStateError, match=r"^CANCELLED: <Future at 0x[0-9a-f]+ state=canc"):
        future.set_exception(ValueError())


@BOTH
def test_an_exception_is_raised_as_it_is(make: Make) -> None:
    future, error = make(), ValueError("x")
    future.set_exception(error)
    assert future.exception() is error
    with pytest.raises(ValueError, match="x") as caught:
        future.result()
    assert caught.value is error


@BOTH
def test_what_is_no_exception(make: Make) -> None:
    future = make()
    future.set_exception(None)
    assert (future.result(), future.exception(), future._state) == (None, None, "FINISHED")
    future = make()
    future.set_exception("text")
    assert future.exception() == "text"
    with pytest.raises(TypeError, match="exceptions must derive from BaseException"):
        future.result()


@BOTH
def test_repr(make: Make) -> None:
    future = make()
    assert repr(future) == f"<Future at {id(future):#x} state=pending>"
    future.set_running_or_notify_cancel()
    assert repr(future) == f"<Future at {id(future):#x} state=running>"
    future.set_result([])
    assert repr(future) == f"<Future at {id(future):#x} state=finished returned list>"
    future = make()
    future.set_exception(KeyError())
    assert repr(future) == f"<Future at {id(future):#x} state=finished raised KeyError>"
    assert type(future)[int] == GenericAlias(type(future), int)


@BOTH
@pytest.mark.parametrize("timeout", [0, -1, -math.inf, math.nan, 0.001, True])
def test_a_timeout_that_passes(make: Make, timeout: float) -> None:
    if timeout is True:
        timeout = 0.001
    for call in (make().result, make().exception):
        with pytest.raises(TimeoutError):
            call(timeout)
        with pytest.raises(TimeoutError):
            call(timeout=timeout)


@BOTH
def test_what_is_no_timeout(make: Make) -> None:
    with pytest.raises(TypeError):
        make().result("soon")
    for huge in (math.inf, 1e300, 2**80):
        with pytest.raises(OverflowError):
            make().result(huge)
    done = make()
    done.set_result(1)
    assert done.result("soon") == 1, "not looked at"
    with pytest.raises(TypeError):
        done.result(1, 2)
    with pytest.raises(TypeError):
        done.result(patience=1)


@BOTH
def test_callbacks_in_order_and_at_once(make: Make) -> None:
    future, seen = make(), []
    for number in range(4):
        future.add_done_callback(lambda done, number=number: seen.append((number, done)))
    future.set_result(None)
    future.add_done_callback(fn=lambda done: seen.append((4, done)))
    assert seen == [(number, future) for number in range(5)]
    seen.clear()
    future = make()
    future.add_done_callback(seen.append)
    future.cancel()
    future.cancel()
    assert seen == [future]


@BOTH
def test_a_callback_that_raises(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    future, seen = make(), []

    def fails(done: Any) -> None:
        raise ValueError("of the callback")

    future.add_done_callback(fails)
    future.add_done_callback(seen.append)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        future.set_result(None)
    assert seen == [future]
    (record,) = caplog.records
    assert record.getMessage() == f"exception calling callback for {future!r}"
    assert record.exc_info is not None and str(record.exc_info[1]) == "of the callback"


@BOTH
def test_a_callback_that_ends_the_program(make: Make) -> None:
    def fails(done: Any) -> None:
        raise SystemExit(3)

    future = make()
    future.add_done_callback(fails)
    with pytest.raises(SystemExit):
        future.set_result(None)
    assert future.result() is None


@BOTH
def test_no_cycle_is_left_of_an_exception(make: Make) -> None:
    class Local(Exception):
        pass

    gc.collect()
    gc.disable()
    try:
        future = make()
        error = Local()
        future.set_exception(error)
        gone = weakref.ref(future)
        try:
            future.result()
        except Local as caught:
            caught.__traceback__ = None
        del future, error
        assert gone() is None
    finally:
        gc.enable()


@BOTH
def test_a_cycle_is_collected(make: Make) -> None:
    class Node:
        future: Any

    gone = []
    for finish in (lambda future, node: future.set_result(node), lambda future, node: future.add_done_callback(node)):
        node = Node()
        node.future = make()
        finish(node.future, node)
        gone.append(weakref.ref(node))
        del node
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


@BOTH
def test_what_other_code_reaches_into(make: Make) -> None:
    future = make()
    future.add_done_callback(print)
    assert (future._state, future._result, future._exception) == ("PENDING", None, None)
    assert future._waiters == [] and future._done_callbacks == [print]
    assert future._condition is future._condition and future._waiters is future._waiters
    future._done_callbacks.clear()
    seen: list[Any] = []
    future._done_callbacks.append(seen.append)
    future.set_result(5)
    assert seen == [future] and (future._state, future._result) == ("FINISHED", 5)
    future = make()
    future._state, future._exception = "FINISHED", OSError()
    assert isinstance(future.exception(), OSError)
    with pytest.raises(OSError):
        future.result()


@BOTH
def test_who_holds_the_condition_excludes_changes(make: Make) -> None:
    future = make()
    with future._condition:
        thread, out = in_thread(lambda: future.set_result(1))
        reader, read = in_thread(future.done)
        time.sleep(0.05)
        assert not out and not read and future._state == "PENDING"
    thread.join(rig.PATIENCE)
    reader.join(rig.PATIENCE)
    assert out == [None] and future.result() == 1


@BOTH
def test_set_by_hand_under_the_condition(make: Make) -> None:
    future = make()
    thread, out = in_thread(lambda: future.result(rig.PATIENCE))
    time.sleep(0.02)
    with future._condition:
        future._state, future._result = "FINISHED", "by hand"
        future._condition.notify_all()
    thread.join(rig.PATIENCE)
    assert out == ["by hand"]


def test_it_is_the_original_as_well() -> None:
    future = Future()
    assert isinstance(future, concurrent.futures.Future)
    assert Future.__module__ == "ropewalk.futures" and Future.__name__ == "Future"
    with pytest.raises(TypeError, match=r"Future.__init__\(\) takes 1 positional argument but 2 were given"):
        Future(1)
    weakref.ref(future)
    future.anything = 1
    assert vars(future) == {"anything": 1}


def test_a_subclass() -> None:
    class Mine(Future):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def _invoke_callbacks(self) -> None:
            self.invoked = True
            super()._invoke_callbacks()

    future, seen = Mine("x"), []
    future.add_done_callback(seen.append)
    future.set_result(1)
    assert (future.name, future.invoked, seen) == ("x", True, [future])
    assert repr(future).startswith("<Mine at 0x")


def test_many_threads_wait_for_one() -> None:
    future = Future()
    threads = [in_thread(future.result) for _ in range(8)]
    rig.until_sync(lambda: len(future.statistics().waiters) == 8)
    future.set_result("x")
    for thread, out in threads:
        thread.join(rig.PATIENCE)
        assert out == ["x"]
    assert future.statistics().waiters == ()


def test_cancelling_wakes_who_waits() -> None:
    future = Future()
    thread, out = in_thread(future.result)
    rig.until_sync(lambda: waits(future))
    assert future.cancel()
    thread.join(rig.PATIENCE)
    assert isinstance(out[0], concurrent.futures.CancelledError)


def test_one_whose_time_is_up_leaves_no_trace() -> None:
    future = Future()
    for _ in range(10):
        with pytest.raises(TimeoutError):
            future.result(0.001)
    assert future.statistics() == ("pending", (), 0)


def test_statistics() -> None:
    future = Future()
    future.add_done_callback(print)
    thread, _ = in_thread(future.result)
    rig.until_sync(lambda: waits(future))
    assert future.statistics() == ("pending", (thread,), 1)
    future._done_callbacks.clear()
    assert future.statistics() == ("pending", (thread,), 0)
    future.cancel()
    thread.join(rig.PATIENCE)
    assert future.statistics() == ("cancelled", (), 0)


@pytest.mark.skipif(sys.version_info < (3, 15), reason="new in Python 3.15")
@BOTH
def test_snapshot(make: Make) -> None:
    future = make()
    assert future._get_snapshot() == (False, False, None, None)
    future.set_result(1)
    assert future._get_snapshot() == (True, False, 1, None)
    future = make()
    future.cancel()
    assert future._get_snapshot() == (True, True, None, None)


# Awaited -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", rig.LOOPS)
def test_awaited_while_another_thread_works(factory: Any) -> None:
    async def main() -> None:
        future = Future()
        timer = threading.Timer(0.01, future.set_result, ["x"])
        timer.start()
        assert await future == "x"
        assert await future == "x", "again"
        assert await future.result_async() == "x"
        assert await future.exception_async(timeout=1) is None
        timer.join()

    with rig.borrowed(factory) as loop:
        rig.run(loop, main())


@pytest.mark.parametrize("factory", rig.LOOPS)
def test_many_tasks_and_threads_await_one(factory: Any) -> None:
    async def main() -> None:
        future = Future()
        tasks = [asyncio.create_task(future.result_async()) for _ in range(5)]
        thread, out = in_thread(future.result)
        await rig.until(lambda: len(future.statistics().waiters) == 6)
        assert set(tasks) | {thread} == set(future.statistics().waiters)
        tasks.pop().cancel()
        await rig.until(lambda: len(future.statistics().waiters) == 5, "the cancelled one has left")
        setter = threading.Thread(target=future.set_exception, args=[KeyError("x")])
        setter.start()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, KeyError)
        thread.join(rig.PATIENCE)
        setter.join()
        assert isinstance(out[0], KeyError)

    with rig.borrowed(factory) as loop:
        rig.run(loop, main())


@pytest.mark.parametrize("factory", rig.LOOPS)
def test_awaited_in_vain(factory: Any) -> None:
    async def main() -> None:
        future = Future()
        for timeout in (0, -1, 0.005):
            with pytest.raises(TimeoutError):
                await future.result_async(timeout)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future.result_async(), 0.005)
        assert future.statistics() == ("pending", (), 0), "who stops awaiting leaves it alone"
        future.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            await future
        with pytest.raises(concurrent.futures.CancelledError):
            await future.exception_async()

    with rig.borrowed(factory) as loop:
        rig.run(loop, main())


@pytest.mark.parametrize("factory", rig.LOOPS)
def test_wrapped_by_asyncio(factory: Any) -> None:
    async def main() -> None:
        future = Future()
        wrapped = asyncio.wrap_future(future)
        threading.Timer(0.01, future.set_result, [5]).start()
        assert await wrapped == 5
        future = Future()
        wrapped = asyncio.wrap_future(future)
        wrapped.cancel()
        await rig.until(future.cancelled, "asyncio passes it on")

    with rig.borrowed(factory) as loop:
        rig.run(loop, main())


def test_the_names_of_the_module() -> None:
    names = set(concurrent.futures.__all__)
    assert names <= set(ropewalk.futures.__all__)
    for name in ropewalk.futures.__all__:
        assert getattr(ropewalk.futures, name) is not None
    assert set(ropewalk.futures.__all__) <= set(dir(ropewalk.futures))
    assert ropewalk.futures.ProcessPoolExecutor is concurrent.futures.ProcessPoolExecutor
    assert ropewalk.futures.CancelledError is concurrent.futures.CancelledError
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = ropewalk.futures.nothing
    if sys.version_info < (3, 14):
        with pytest.raises(AttributeError):
            _ = ropewalk.futures.InterpreterPoolExecutor
