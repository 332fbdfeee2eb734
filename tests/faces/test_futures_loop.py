"""``run_in_executor`` and ``to_thread`` on our loop: its default executor is our pool, and asyncio's rules hold."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
import time
from typing import Any

import pytest
import rig
import ropewalk.futures

BOTH = pytest.mark.parametrize("factory", rig.LOOPS)
EXECUTORS = pytest.mark.parametrize(
    "executors",
    [
        pytest.param(lambda: None, id="default"),
        pytest.param(lambda: ropewalk.futures.ThreadPoolExecutor(1), id="ours"),
        pytest.param(lambda: concurrent.futures.ThreadPoolExecutor(1), id="original"),
    ],
)


@BOTH
@EXECUTORS
def test_calls(factory: Any, executors: Any) -> None:
    async def main() -> None:
        loop, executor = asyncio.get_running_loop(), executors()
        for count in range(6):
            assert await loop.run_in_executor(executor, lambda *args: args, *range(count)) == tuple(range(count))
        future = loop.run_in_executor(executor, divmod, 1, 0)
        assert isinstance(future, asyncio.Future) and future.get_loop() is loop
        with pytest.raises(ZeroDivisionError):
            await future
        assert await loop.run_in_executor(executor, threading.get_ident) != threading.get_ident()
        many = [loop.run_in_executor(executor, abs, -number) for number in range(500)]
        assert await asyncio.gather(*many) == list(range(500))
        if executor is not None:
            executor.shutdown()

    with rig.borrowed(factory) as loop:
        rig.run(loop, main())


@BOTH
@EXECUTORS
def test_exceptions_that_asyncio_has_its_own_of(factory: Any, executors: Any) -> None:
    def fails(error: Any) -> None:
        raise error

    async def main() -> None:
        loop, executor = asyncio.get_running_loop(), executors()
        with pytest.raises(asyncio.CancelledError):
            await loop.run_in_executor(executor, fails, concurrent.futures.CancelledError())
        with pytest.raises(asyncio.InvalidStateError):
            await loop.run_in_executor(executor, fails, concurrent.futures.InvalidStateError())
        with pytest.raises(TimeoutError):
            await loop.run_in_executor(executor, fails, TimeoutError())
        if executor is not None:
            executor.shutdown()

    with rig.borrowed(factory) as loop:
        rig.run(loop, main())


@BOTH
@EXECUTORS
def test_one_that_is_cancelled_in_time_is_never_called(factory: Any, executors: Any) -> None:
    async def main() -> None:
        loop, executor = asyncio.get_running_loop(), executors()
        go, called = threading.Event(), []
        width = 1 if executor is not None else 64
        running = [loop.run_in_executor(executor, go.wait, rig.PATIENCE) for _ in range(width)]
        queued = loop.run_in_executor(executor, called.append, 1)
        queued.cancel()
        await asyncio.sleep(0.01)
        go.set()
        assert await asyncio.gather(*running) == [True] * width
        assert await loop.run_in_executor(executor, abs, -1) == 1
        assert called == [] and queued.cancelled()
        if executor is not None:
            executor.shutdown()

    with rig.borrowed(factory) as loop:
        rig.run(loop, main())


@BOTH
def test_one_that_is_cancelled_too_late(factory: Any) -> None:
    async def main() -> None:
        go, begun = threading.Event(), threading.Event()

        def call() -> None:
            begun.set()
            go.wait(rig.PATIENCE)

        future = asyncio.get_running_loop().run_in_executor(None, call)
        await rig.until(begun.is_set)
        future.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await future

    with rig.borrowed(factory) as loop:
        rig.run(loop, main())
        assert not loop.reports


@BOTH
def test_to_thread(factory: Any) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def main() -> None:
        variable.set("task")
        assert await asyncio.to_thread(variable.get) == "task"
        assert await asyncio.to_thread(dict, a=1) == {"a": 1}

    with rig.borrowed(factory) as loop:
        rig.run(loop, main())


def test_the_default_is_ours() -> None:
    async def main() -> str:
        loop: Any = asyncio.get_running_loop()
        name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
        assert type(loop._default_executor) is ropewalk.futures.ThreadPoolExecutor
        return str(name)

    with rig.borrowed(ropewalk.new_event_loop) as loop:
        assert rig.run(loop, main()) == "asyncio_0"


def test_who_replaces_the_standard_library_s_class_gets_that(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs(concurrent.futures.thread.ThreadPoolExecutor):
        pass

    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", Theirs)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, abs, -1) == 1
        assert type(loop._default_executor) is Theirs

    with rig.borrowed(ropewalk.new_event_loop) as loop:
        rig.run(loop, main())


@BOTH
def test_another_default(factory: Any) -> None:
    with rig.borrowed(factory) as loop:
        with pytest.raises(TypeError, match="executor must be ThreadPoolExecutor instance"):
            loop.set_default_executor(object())
        loop.set_default_executor(ropewalk.futures.ThreadPoolExecutor(1, "mine"))

        async def main() -> None:
            name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
            assert name == "mine_0"

        rig.run(loop, main())


@BOTH
def test_after_its_shutdown(factory: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, abs, 1)
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
            loop.run_in_executor(None, abs, 1)
        with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
            loop.run_in_executor(None, abs, 1)

    with rig.borrowed(factory) as loop:
        rig.run(loop, main())


@BOTH
def test_a_closed_loop(factory: Any) -> None:
    loop = factory()
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_in_executor(None, abs, 1)


@BOTH
def test_a_loop_that_closes_before_the_call_ends(factory: Any) -> None:
    go, ended = threading.Event(), threading.Event()

    def call() -> None:
        go.wait(rig.PATIENCE)
        ended.set()

    loop = factory()
    pool = ropewalk.futures.ThreadPoolExecutor(1)
    loop.run_in_executor(pool, call)
    loop.close()
    go.set()
    pool.shutdown()
    assert ended.is_set()


@BOTH
def test_debug_mode_refuses_coroutines(factory: Any) -> None:
    async def coroutine() -> None:
        pass

    with rig.borrowed(factory) as loop:
        loop.set_debug(True)
        with pytest.raises(TypeError, match="coroutines cannot be used with run_in_executor"):
            loop.run_in_executor(None, coroutine)
        assert rig.run(loop, loop.run_in_executor(None, abs, -1)) == 1


@pytest.mark.skipif(not hasattr(asyncio, "timeout"), reason="timeout is new in Python 3.12")
def test_shutdown_with_a_timeout() -> None:
    import sys

    if sys.version_info < (3, 12):
        pytest.skip("timeout is new in Python 3.12")
    go = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, go.wait, rig.PATIENCE)
        with pytest.warns(RuntimeWarning, match="did not finishing joining"):
            await loop.shutdown_default_executor(timeout=0.01)
        go.set()

    with rig.borrowed(ropewalk.new_event_loop) as loop:
        rig.run(loop, main())
        rig.run(loop, asyncio.sleep(0.01))


def test_a_broken_pool() -> None:
    def initialize() -> None:
        time.sleep(0.01)
        raise ValueError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = ropewalk.futures.ThreadPoolExecutor(1, initializer=initialize)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            await loop.run_in_executor(pool, abs, 1)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            loop.run_in_executor(pool, abs, 1)

    with rig.borrowed(ropewalk.new_event_loop) as loop:
        rig.run(loop, main())


def test_a_pool_that_is_shut_down_and_cancels() -> None:
    async def main() -> None:
        loop, go = asyncio.get_running_loop(), threading.Event()
        pool = ropewalk.futures.ThreadPoolExecutor(1)
        running = loop.run_in_executor(pool, go.wait, rig.PATIENCE)
        queued = loop.run_in_executor(pool, abs, 1)
        await rig.until(lambda: pool.statistics().running)
        pool.shutdown(wait=False, cancel_futures=True)
        go.set()
        assert await running is True
        with pytest.raises(asyncio.CancelledError):
            await queued

    with rig.borrowed(ropewalk.new_event_loop) as loop:
        rig.run(loop, main())
