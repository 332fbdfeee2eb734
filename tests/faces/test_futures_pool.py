"""``ropewalk.futures.ThreadPoolExecutor``, held against the original where that promises the same (``BOTH``)."""

from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import itertools
import logging
import sys
import threading
import time
import weakref
from typing import Any

import pytest
import rig
import ropewalk.futures as ours
from ropewalk.futures import ThreadPoolExecutor

BOTH = pytest.mark.parametrize(
    "pools",
    [pytest.param(concurrent.futures.ThreadPoolExecutor, id="original"), pytest.param(ThreadPoolExecutor, id="ours")],
)


class Held:
    """Calls that last until they are let go."""

    def __init__(self) -> None:
        self._begun: list[None] = []  # appended to, which no thread can come between
        self.go = threading.Event()

    @property
    def begun(self) -> int:
        return len(self._begun)

    def __call__(self, *_: Any) -> str:
        self._begun.append(None)
        assert self.go.wait(rig.PATIENCE)
        return "held"


@BOTH
def test_calls_of_every_shape(pools: Any) -> None:
    def capture(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    with pools(2) as pool:
        for count in range(7):
            assert pool.submit(capture, *range(count)).result() == (tuple(range(count)), {})
            assert pool.submit(capture, *range(count), self=1, fn=2).result() == (
                tuple(range(count)),
                {"self": 1, "fn": 2},
            )
        assert pool.submit(dict, [], a=1).result() == {"a": 1}
        for wrong in ({}, {"fn": capture}, {"arg": 1}):
            with pytest.raises(TypeError, match="missing 1 required positional argument"):
                pool.submit(**wrong)
        assert isinstance(pool.submit(5).exception(), TypeError)
        assert isinstance(pool.submit(len).exception(), TypeError)


@BOTH
@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(1)]
)
def test_whatever_is_raised_is_the_future_s(pools: Any, error: BaseException) -> None:
    def fails() -> None:
        raise error

    with pools(1) as pool:
        assert pool.submit(fails).exception() is error
        assert pool.submit(int).result() == 0, "and the worker goes on"


@BOTH
def test_first_come_first_served(pools: Any) -> None:
    seen: list[int] = []
    with pools(1) as pool:
        for number in range(100):
            pool.submit(seen.append, number)
    assert seen == list(range(100))


@BOTH
def test_a_thread_for_each_call_that_needs_one(pools: Any) -> None:
    held = Held()
    pool = pools(4, "name")
    for count in range(1, 7):
        pool.submit(held)
        assert len(pool._threads) == min(count, 4)
    rig.until_sync(lambda: held.begun == 4)
    assert sorted(thread.name for thread in pool._threads) == [f"name_{number}" for number in range(4)]
    assert not any(thread.daemon for thread in pool._threads)
    assert pool._work_queue.qsize() == 2
    held.go.set()
    pool.shutdown()
    assert held.begun == 6 and not any(thread.is_alive() for thread in pool._threads)


def test_an_idle_thread_is_used_again() -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(50):
            assert pool.submit(abs, -number).result() == number
            rig.until_sync(lambda: pool.statistics().idle == pool.statistics().workers)
        assert len(pool._threads) == 1
        assert pool._idle_semaphore._value == 1


@BOTH
def test_arguments_of_the_class(pools: Any) -> None:
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            pools(wrong)
    with pytest.raises(TypeError, match="initializer must be a callable"):
        pools(initializer=5)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        pools(nonsense=5)
    assert pools()._max_workers == concurrent.futures.ThreadPoolExecutor()._max_workers
    assert pools(max_workers=3, thread_name_prefix="x", initializer=int, initargs=())._max_workers == 3
    assert pools()._thread_name_prefix.startswith("ThreadPoolExecutor-")


def test_it_is_the_original_as_well() -> None:
    pool = ThreadPoolExecutor()
    assert isinstance(pool, concurrent.futures.ThreadPoolExecutor)
    assert ThreadPoolExecutor.__module__ == "ropewalk.futures"
    pool._max_workers = 7
    assert pool._max_workers == pool._max_workers == 7
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        pool._max_workers = 0
    with pytest.raises(AttributeError, match="hint:"):
        pool._work_queue = None


@BOTH
def test_after_shutdown(pools: Any) -> None:
    pool = pools(1)
    pool.submit(int)
    pool.shutdown()
    pool.shutdown(wait=False, cancel_futures=True)
    assert pool._shutdown
    with pytest.raises(RuntimeError, match="^cannot schedule new futures after shutdown$"):
        pool.submit(int)
    with pytest.raises(RuntimeError, match="^cannot schedule new futures after shutdown$"):
        pool.map(int, [1])
    assert pool.map(int, []) is not None


@BOTH
def test_shutdown_without_waiting_does_what_is_queued(pools: Any) -> None:
    held = Held()
    pool = pools(1)
    futures = [pool.submit(held), *(pool.submit(int) for _ in range(5))]
    pool.shutdown(wait=False)
    assert not futures[-1].done()
    held.go.set()
    assert [future.result(rig.PATIENCE) for future in futures] == ["held", 0, 0, 0, 0, 0]


@BOTH
def test_shutdown_that_cancels(pools: Any) -> None:
    held, seen = Held(), []
    pool = pools(1)
    running = pool.submit(held)
    queued = [pool.submit(int) for _ in range(5)]
    for future in queued:
        future.add_done_callback(seen.append)
    rig.until_sync(lambda: held.begun)
    pool.shutdown(wait=False, cancel_futures=True)
    assert seen == queued and all(future.cancelled() for future in queued)
    held.go.set()
    assert running.result(rig.PATIENCE) == "held"
    pool.shutdown()


@BOTH
def test_cancelling_what_has_not_begun(pools: Any) -> None:
    held, called = Held(), []
    with pools(1) as pool:
        running = pool.submit(held)
        queued = pool.submit(called.append, 1)
        rig.until_sync(lambda: held.begun)
        assert running.running() and not running.cancel()
        assert queued.cancel() and queued.cancelled()
        held.go.set()
        assert concurrent.futures.wait([running, queued]).not_done == set()
    assert called == []


@BOTH
def test_the_initializer(pools: Any) -> None:
    local = threading.local()
    names: list[str] = []

    def initialize(number: int) -> None:
        local.number = number
        names.append(threading.current_thread().name)

    with pools(3, "i", initialize, (5,)) as pool:
        assert {pool.submit(lambda: local.number).result() for _ in range(20)} == {5}
    assert sorted(names) == [f"i_{number}" for number in range(len(names))]


@BOTH
def test_an_initializer_that_raises(pools: Any, caplog: pytest.LogCaptureFixture) -> None:
    go = threading.Event()

    def initialize() -> None:
        assert go.wait(rig.PATIENCE)
        raise ValueError("of the initializer")

    with caplog.at_level(logging.CRITICAL, "concurrent.futures"), pools(1, initializer=initialize) as pool:
        futures = [pool.submit(int) for _ in range(3)]
        go.set()
        for future in futures:
            with pytest.raises(concurrent.futures.thread.BrokenThreadPool, match="A thread initializer failed, the"):
                future.result(rig.PATIENCE)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            pool.submit(int)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            pool.map(int, [1])
        assert pool._broken == "A thread initializer failed, the thread pool is not usable anymore"
    assert caplog.records[0].getMessage() == "Exception in initializer:"
    assert caplog.records[0].exc_info is not None


@BOTH
def test_submitting_from_a_call(pools: Any) -> None:
    with pools(2) as pool:

        def fibonacci(n: int) -> int:
            if n < 2:
                return n
            return sum(future.result() for future in [pool.submit(pow, n, 1)]) + n

        assert pool.submit(fibonacci, 9).result(rig.PATIENCE) == 18
        chain = itertools.count()
        done = threading.Event()

        def again() -> None:
            if next(chain) < 1000:
                pool.submit(again)
            else:
                done.set()

        pool.submit(again)
        assert done.wait(rig.PATIENCE)


@BOTH
def test_arguments_are_let_go(pools: Any) -> None:
    class Thing:
        def method(self) -> None:
            pass

    with pools(1) as pool:
        thing = Thing()
        gone = weakref.ref(thing)
        pool.submit(thing.method).result()
        pool.submit(isinstance, thing, Thing).result()
        del thing
        pool.submit(int).result()
        rig.until_sync(lambda: gc.collect() is not None and gone() is None)


@BOTH
def test_a_subclass_with_a_submit_of_its_own(pools: Any) -> None:
    class Doubling(pools):  # type: ignore[misc]
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            return super().submit(lambda: 2 * fn(*args, **kwargs))

    with Doubling(2) as pool:
        assert pool.submit(abs, -3).result() == 6
        assert list(pool.map(abs, [-1, 2])) == [2, 4]
        with pytest.raises(ZeroDivisionError):
            list(pool.map(divmod, [1], [0]))


def test_map_by_way_of_a_submit_of_its_own() -> None:
    class Mine(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            return super().submit(fn, *args, **kwargs)

    held = Held()
    with Mine(2) as pool:
        assert list(itertools.islice(pool.map(abs, itertools.count(), buffersize=2), 5)) == [0, 1, 2, 3, 4]
        assert sorted(pool.map(abs, [-3, 1, 2], ordered=False, timeout=rig.PATIENCE)) == [1, 2, 3]
        with pytest.raises(TimeoutError):
            list(pool.map(held, [1, 2, 3], item_timeout=0.01))
        held.go.set()
    assert held.begun == 2


@BOTH
def test_somebody_else_finishes_the_future(pools: Any, caplog: pytest.LogCaptureFixture) -> None:
    held = Held()
    with caplog.at_level(logging.CRITICAL, "concurrent.futures"), pools(1) as pool:
        future = pool.submit(held)
        rig.until_sync(lambda: held.begun)
        future.set_result("mine")
        held.go.set()
        assert future.result() == "mine"
        rig.until_sync(lambda: "Exception in worker" in caplog.messages)
        if pools is ThreadPoolExecutor:  # the original has lost its worker
            assert pool.submit(int).result(rig.PATIENCE) == 0


def test_statistics() -> None:
    held = Held()
    with ThreadPoolExecutor(2, "s") as pool:
        assert pool.statistics() == (0, 0, 0, 0, 0, {})
        for _ in range(3):
            pool.submit(held)
        pool.map(abs, range(10))
        rig.until_sync(lambda: held.begun == 2)
        assert pool.statistics() == (2, 0, 11, 2, 0, {"s_0": held, "s_1": held})
        held.go.set()
        rig.until_sync(lambda: pool.statistics().idle == 2)
        assert pool.statistics()[:4] == (2, 2, 0, 0)
    assert pool.statistics()[:4] == (0, 0, 0, 0)


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="default")


@BOTH
def test_the_context_is_the_thread_s(pools: Any) -> None:
    variable.set("submitter")
    with pools(1) as pool:
        inherits = getattr(sys.flags, "thread_inherit_context", False)
        expected = "submitter" if inherits else "default"
        assert pool.submit(variable.get).result() == expected
        pool.submit(variable.set, "worker").result()
        assert pool.submit(variable.get).result() == "worker", "it is kept from call to call"


def test_the_context_travels_when_asked_to() -> None:
    with ThreadPoolExecutor(1, context=True) as pool:
        for value in ("one", "two"):
            variable.set(value)
            assert pool.submit(variable.get).result() == value
            pool.submit(variable.set, "worker").result()
            assert pool.submit(variable.get).result() == value, "a copy each"
            assert list(pool.map(lambda _: variable.get(), range(3))) == [value] * 3
            assert list(pool.map(lambda _: variable.set("worker") and None, range(3), buffersize=1)) == [None] * 3
        variable.set("submitter")


@pytest.mark.skipif(sys.version_info < (3, 14), reason="new in Python 3.14")
def test_workers_with_contexts_of_their_own() -> None:
    class Context:
        log: list[Any] = []

        def initialize(self) -> None:
            self.log.append("initialize")

        def finalize(self) -> None:
            self.log.append("finalize")

        def run(self, task: Any) -> Any:
            return ("ran", *task)

    class Pool(ThreadPoolExecutor):
        @classmethod
        def prepare_context(cls, initializer: Any, initargs: Any, *, extra: Any) -> Any:
            return Context, lambda fn, args, kwargs: (extra, fn, args, kwargs)

    with Pool(1, extra="e") as pool:
        assert pool.submit(abs, 1, k=2).result() == ("ran", "e", abs, (1,), {"k": 2})
        assert list(pool.map(abs, [3], buffersize=1)) == [("ran", "e", abs, (3,), {})]
    assert Context.log == ["initialize", "finalize"]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="new in Python 3.14")
def test_interpreters() -> None:
    from concurrent.futures.interpreter import BrokenInterpreterPool

    with ours.InterpreterPoolExecutor(1) as pool:
        assert isinstance(pool, concurrent.futures.InterpreterPoolExecutor)
        assert isinstance(pool, ThreadPoolExecutor)
        assert pool.submit(pow, 2, 5).result(rig.PATIENCE) == 32
        assert list(pool.map(pow, [2, 3], [2, 2])) == [4, 9]
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result(rig.PATIENCE)
    with ours.InterpreterPoolExecutor(1, initializer=divmod, initargs=(1, 0)) as pool:
        future = pool.submit(pow, 2, 5)
        with pytest.raises(BrokenInterpreterPool):
            future.result(rig.PATIENCE)


@pytest.mark.skipif(not hasattr(sys, "_is_gil_enabled") or sys._is_gil_enabled(), reason="free-threaded only")
def test_calls_run_side_by_side_without_the_gil() -> None:
    meeting = threading.Barrier(2)

    def meet() -> None:
        end = time.monotonic() + 0.05
        meeting.wait(rig.PATIENCE)
        while time.monotonic() < end:
            pass

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: meet(), range(2))) == [None, None]
