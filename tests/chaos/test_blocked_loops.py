"""A thread blocks where tasks of its own event loop wait: for the same lock, for the same queue.

The tasks cannot go on before their thread does. Nothing may be kept for them meanwhile that it waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rig
import ropewalk.queue
import ropewalk.threading as ours

pytestmark = pytest.mark.parametrize("new_loop", rig.LOOPS)

KINDS = [ours.Lock, ours.RLock, ours.Semaphore, ours.BoundedSemaphore, ours.Condition]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def lock(request: pytest.FixtureRequest) -> Any:
    return request.param()


def in_line(lock: Any) -> int:
    """How many wait for the lock itself."""
    if isinstance(lock, ours.Condition):
        lock = lock._lock  # type: ignore[attr-defined]
    return len(lock.statistics().waiters)


@contextlib.contextmanager
def held_until(lock: Any, enough: Callable[[], bool]) -> Iterator[None]:
    """Another thread holds the lock until `enough()`."""
    held = threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            rig.until_sync(enough)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    yield
    thread.join()


def run(new_loop: Callable[[], Any], main: Any) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(main, rig.PATIENCE))


def test_the_thread_is_called_before_its_tasks(new_loop: Callable[[], Any], lock: Any) -> None:
    order = []

    async def wait() -> None:
        async with lock:
            order.append("task")

    async def main() -> None:
        task = asyncio.create_task(wait())
        await rig.until(lambda: in_line(lock) == 1)
        with lock:
            order.append("thread")
        await task

    with held_until(lock, lambda: in_line(lock) == 2):
        run(new_loop, main())
    assert order == ["thread", "task"]


def test_what_was_given_to_a_task_is_taken_back(new_loop: Callable[[], Any], lock: Any) -> None:
    async def wait() -> None:
        async with lock:
            pass

    async def main() -> None:
        lock.acquire()
        tasks = [asyncio.create_task(wait()) for _ in range(3)]
        await rig.until(lambda: in_line(lock) == 3)
        # Woken for nothing once, the first of them is given the lock the next time.
        lock.release()
        lock.acquire()
        for _ in range(10):
            await asyncio.sleep(0.001)
        for _ in range(3):
            lock.release()
            lock.acquire()
        assert in_line(lock) == 3
        lock.release()
        await asyncio.gather(*tasks)

    run(new_loop, main())


def test_one_that_gives_up_lets_the_tasks_go_on(new_loop: Callable[[], Any]) -> None:
    lock = ours.Lock()
    let_go = threading.Event()

    async def main() -> None:
        tasks = [asyncio.create_task(lock.acquire_async()) for _ in range(2)]
        await rig.until(lambda: in_line(lock) == 2)
        assert not lock.acquire(timeout=0.02)
        let_go.set()
        for task in tasks:
            assert await task
            lock.release()

    with held_until(lock, let_go.is_set):
        run(new_loop, main())


def test_a_queues_mutex(new_loop: Callable[[], Any]) -> None:
    q = ropewalk.queue.Queue[int]()

    async def main() -> None:
        task = asyncio.create_task(q.get_async())
        await rig.until(lambda: in_line(q.mutex) == 1)
        q.put(1)
        assert await task == 1

    with held_until(q.mutex, lambda: in_line(q.mutex) == 2):
        run(new_loop, main())


def test_an_item_for_a_task_is_seen_by_its_thread(new_loop: Callable[[], Any]) -> None:
    q = ropewalk.queue.SimpleQueue[int]()

    def put() -> None:
        rig.until_sync(lambda: len(q.statistics().getting) == 2)
        q.put(1)

    async def main() -> None:
        task = asyncio.create_task(q.get_async())
        await rig.until(lambda: len(q.statistics().getting) == 1)
        thread = threading.Thread(target=put)
        thread.start()
        assert q.get() == 1
        thread.join()
        q.put(2)
        assert await task == 2

    run(new_loop, main())


def test_callbacks_tasks_and_other_threads_use_one_lock(new_loop: Callable[[], Any], lock: Any) -> None:
    stop = False
    count = 0

    def compete() -> None:
        while not stop:
            with lock:
                pass

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def one_more() -> None:
            nonlocal count
            with lock:
                count += 1

        async def by_turns() -> None:
            for _ in range(300):
                async with lock:
                    one_late = loop.call_soon(one_more)
                assert not one_late.cancelled()
                await asyncio.sleep(0)

        async def at_once() -> None:
            for _ in range(300):
                one_more()
                await asyncio.sleep(0)

        await asyncio.gather(by_turns(), by_turns(), at_once(), at_once())
        await rig.until(lambda: count == 1200)

    threads = [threading.Thread(target=compete) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        run(new_loop, main())
    finally:
        stop = True
        for thread in threads:
            thread.join()
