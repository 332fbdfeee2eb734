"""The primitives between threads and tasks, and between the tasks of several event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rig
import ropewalk.threading as ours

pytestmark = pytest.mark.parametrize("new_loop", rig.LOOPS)

# For each: how to make it, how to wait for it in a thread and in a task, how to let one waiter go, and what it gets.
WAITS: dict[str, tuple[Callable[[], Any], Callable[..., Any], Callable[..., Any], Callable[[Any], Any], Any]] = {
    "Event": (ours.Event, lambda e, *t: e.wait(*t), lambda e, *t: e.wait_async(*t), lambda e: e.set(), True),
    "Semaphore": (
        lambda: ours.Semaphore(0),
        lambda s, *t: s.acquire(True, *t),
        lambda s, *t: s.acquire_async(True, *t),
        lambda s: s.release(),
        True,
    ),
    "BoundedSemaphore": (
        lambda: [s := ours.BoundedSemaphore(1), s.acquire()][0],
        lambda s, *t: s.acquire(True, *t),
        lambda s, *t: s.acquire_async(True, *t),
        lambda s: s.release(),
        True,
    ),
    "Barrier": (
        lambda: ours.Barrier(2),
        lambda b, *t: b.wait(*t),
        lambda b, *t: b.wait_async(*t),
        lambda b: b.wait(),
        0,
    ),
    "Lock": (
        lambda: [lock := ours.Lock(), lock.acquire()][0],
        lambda lock, *t: lock.acquire(True, *t),
        lambda lock, *t: lock.acquire_async(True, *t),
        lambda lock: lock.release(),
        True,
    ),
}


@pytest.fixture(params=list(WAITS))
def primitive(request: pytest.FixtureRequest) -> Any:
    return request.param


@contextlib.contextmanager
def loop_in_a_thread(new_loop: Callable[[], Any]) -> Iterator[Any]:
    loop = new_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(rig.PATIENCE)
        loop.close()


def waits(thing: Any, count: int = 1) -> None:
    rig.until_sync(lambda: len(thing.statistics().waiters) == count)


def test_a_task_waits_and_a_thread_lets_it_go(new_loop: Callable[[], Any], primitive: str) -> None:
    make, _, wait_async, release, result = WAITS[primitive]
    thing = make()

    async def main() -> None:
        helper = threading.Thread(target=lambda: [waits(thing), release(thing)])
        helper.start()
        assert await wait_async(thing) == result
        helper.join(rig.PATIENCE)

    with rig.borrowed(new_loop) as loop:
        rig.run(loop, main())
    assert thing.statistics().waiters == ()


def test_a_thread_waits_and_a_task_lets_it_go(new_loop: Callable[[], Any], primitive: str) -> None:
    make, wait, _, release, result = WAITS[primitive]
    thing, got = make(), []

    async def main() -> None:
        helper = threading.Thread(target=lambda: got.append(wait(thing)))
        helper.start()
        await rig.until(lambda: thing.statistics().waiters == (helper,))
        release(thing)
        await rig.until(lambda: got)
        helper.join(rig.PATIENCE)

    with rig.borrowed(new_loop) as loop:
        rig.run(loop, main())
    assert got == [result]


def test_two_loops_in_two_threads(new_loop: Callable[[], Any], primitive: str) -> None:
    make, _, wait_async, release, result = WAITS[primitive]
    thing = make()

    async def here() -> Any:
        return await wait_async(thing)

    async def there() -> None:
        release(thing)

    with loop_in_a_thread(new_loop) as one, loop_in_a_thread(new_loop) as other:
        for first, second in [(one, other), (other, one)]:
            waiting = asyncio.run_coroutine_threadsafe(here(), first)
            waits(thing)
            asyncio.run_coroutine_threadsafe(there(), second).result(rig.PATIENCE)
            assert waiting.result(rig.PATIENCE) == result
            if primitive == "Event":
                thing.clear()
            one, other = other, one


def test_first_come_first_served_whoever_it_is(new_loop: Callable[[], Any]) -> None:
    semaphore, order = ours.Semaphore(0), []

    def in_thread(name: int) -> None:
        semaphore.acquire()
        order.append(name)

    async def in_task(name: int) -> None:
        await semaphore.acquire_async()
        order.append(name)

    threads = []
    with loop_in_a_thread(new_loop) as loop:
        for name in range(0, 8, 2):
            threads.append(threading.Thread(target=in_thread, args=(name,)))
            threads[-1].start()
            waits(semaphore, name + 1)
            asyncio.run_coroutine_threadsafe(in_task(name + 1), loop)
            waits(semaphore, name + 2)
        for served in range(8):
            semaphore.release()
            rig.until_sync(lambda: len(order) > served)  # noqa: B023
    assert order == [*range(8)]


@pytest.mark.parametrize("timeout", [0, -1, 0.0, 0.02])
def test_the_twins_timeouts_are_seconds(new_loop: Callable[[], Any], primitive: str, timeout: float) -> None:
    make, _, wait_async, _, _ = WAITS[primitive]
    if primitive == "Lock" and timeout == -1:
        pytest.skip("is for ever")
    thing = make()

    async def main() -> None:
        began = time.monotonic()
        if primitive == "Barrier":
            with pytest.raises(ours.BrokenBarrierError):
                await wait_async(thing, timeout)
            assert thing.broken
        else:
            assert await wait_async(thing, timeout) is False
        assert time.monotonic() - began >= timeout
        assert thing.statistics().waiters == ()

    with rig.borrowed(new_loop) as loop:
        rig.run(loop, main())


def test_the_twins_raise_what_the_methods_raise(new_loop: Callable[[], Any], primitive: str) -> None:
    make, wait, wait_async, _, _ = WAITS[primitive]

    async def main() -> None:
        for timeout in ("1", [], 1e20, float("inf"), 1j):
            with pytest.raises((TypeError, OverflowError, ValueError)) as there:
                wait(make(), timeout)
            with pytest.raises(there.type) as here:
                await wait_async(make(), timeout)
            assert str(here.value) == str(there.value)
        with pytest.raises(ValueError, match="can't specify timeout"):
            await ours.Semaphore().acquire_async(False, 1)

    with rig.borrowed(new_loop) as loop:
        rig.run(loop, main())


def test_a_task_that_is_cancelled_leaves_the_line(new_loop: Callable[[], Any], primitive: str) -> None:
    make, _, wait_async, release, result = WAITS[primitive]
    thing = make()

    async def main() -> None:
        tasks = [asyncio.ensure_future(wait_async(thing)) for _ in range(3 if primitive != "Barrier" else 1)]
        await rig.until(lambda: len(thing.statistics().waiters) == len(tasks))
        assert thing.statistics().waiters == tuple(tasks)
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        if primitive == "Barrier":
            assert thing.broken  # as if its time had been up
            return
        for task in tasks[1:]:
            release(thing)
            assert await task == result
            if primitive == "Lock":
                assert thing.locked()

    with rig.borrowed(new_loop) as loop:
        rig.run(loop, main())


def test_async_with(new_loop: Callable[[], Any]) -> None:
    semaphore, most, inside = ours.Semaphore(2), 0, 0

    async def work() -> None:
        nonlocal most, inside
        async with semaphore as taken:
            assert taken is None, "as of asyncio's own"
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(10)))
        with pytest.raises(ZeroDivisionError):
            async with ours.BoundedSemaphore(1):
                _ = 1 / 0

    with rig.borrowed(new_loop) as loop:
        rig.run(loop, main())
    assert (most, inside, semaphore._value) == (2, 0, 2)


def test_a_barrier_of_threads_and_tasks(new_loop: Callable[[], Any]) -> None:
    rounds, parties = 5, 6
    ran: list[int] = []
    barrier = ours.Barrier(parties, action=lambda: ran.append(barrier.n_waiting))
    numbers: list[list[int]] = [[] for _ in range(rounds)]

    def in_thread() -> None:
        for places in numbers:
            places.append(barrier.wait())

    async def in_task() -> None:
        for places in numbers:
            places.append(await barrier.wait_async())

    with loop_in_a_thread(new_loop) as one, loop_in_a_thread(new_loop) as other:
        tasks = [asyncio.run_coroutine_threadsafe(in_task(), loop) for loop in (one, one, other, other)]
        threads = [threading.Thread(target=in_thread) for _ in range(2)]
        for thread in threads:
            thread.start()
        for task in tasks:
            task.result(rig.PATIENCE)
        for thread in threads:
            thread.join(rig.PATIENCE)
    assert [sorted(places) for places in numbers] == [[*range(parties)]] * rounds
    assert ran == [parties] * rounds


def test_an_action_that_fails_breaks_the_barrier_for_all(new_loop: Callable[[], Any]) -> None:
    barrier = ours.Barrier(2, action=lambda: 1 / 0)

    async def main() -> None:
        results = await asyncio.gather(barrier.wait_async(), barrier.wait_async(), return_exceptions=True)
        assert [type(result) for result in results] == [ours.BrokenBarrierError, ZeroDivisionError]
        assert barrier.broken
        barrier.reset()
        assert not barrier.broken

    with rig.borrowed(new_loop) as loop:
        rig.run(loop, main())


def test_time_that_is_up_while_the_action_runs_breaks_nothing(new_loop: Callable[[], Any]) -> None:
    """All have come, so the original lets everybody pass, whatever the clock says."""
    limit = 0.5  # long enough for all to come
    going = threading.Event()
    barrier = ours.Barrier(3, action=lambda: going.wait(rig.PATIENCE))
    got: list[Any] = []
    early = threading.Thread(target=lambda: got.append(barrier.wait(limit)))
    early.start()
    waits(barrier)

    async def main() -> None:
        task = asyncio.ensure_future(barrier.wait_async(limit))
        await rig.until(lambda: barrier.n_waiting == 2)
        last = threading.Thread(target=lambda: got.append(barrier.wait()))
        last.start()
        await rig.until(lambda: barrier.n_waiting == 3)
        await asyncio.sleep(limit)
        assert not task.done() and got == []
        going.set()
        got.append(await task)
        await rig.until(lambda: len(got) == 3)
        last.join(rig.PATIENCE)

    with rig.borrowed(new_loop) as loop:
        rig.run(loop, main())
    early.join(rig.PATIENCE)
    assert sorted(got) == [0, 1, 2] and not barrier.broken


def test_who_comes_while_the_action_runs_is_of_the_next_round(new_loop: Callable[[], Any]) -> None:
    going = threading.Event()
    barrier = ours.Barrier(1, action=lambda: going.wait(rig.PATIENCE))
    first = threading.Thread(target=barrier.wait)
    first.start()
    rig.until_sync(lambda: barrier.n_waiting == 1)

    async def main() -> None:
        tasks = [asyncio.ensure_future(barrier.wait_async()) for _ in range(2)]
        await rig.until(lambda: len(barrier.statistics().waiters) == 2)
        going.set()
        assert await asyncio.gather(*tasks) == [0, 0]

    with rig.borrowed(new_loop) as loop:
        rig.run(loop, main())
    first.join(rig.PATIENCE)


def test_an_event_that_is_cleared_at_once_has_let_everybody_go(new_loop: Callable[[], Any]) -> None:
    event, got = ours.Event(), []
    thread = threading.Thread(target=lambda: got.append(event.wait()))
    thread.start()

    async def main() -> None:
        tasks = [asyncio.ensure_future(event.wait_async(rig.PATIENCE)) for _ in range(3)]
        await rig.until(lambda: len(event.statistics().waiters) == 4)
        event.set()
        event.clear()
        assert await asyncio.gather(*tasks) == [True] * 3
        assert await event.wait_async(0) is False

    with rig.borrowed(new_loop) as loop:
        rig.run(loop, main())
    thread.join(rig.PATIENCE)
    assert got == [True]


def test_a_call_that_nobody_awaits_warns_and_takes_nothing(new_loop: Callable[[], Any]) -> None:
    semaphore = ours.Semaphore(1)
    with pytest.warns(RuntimeWarning, match="'Semaphore.acquire_async' was never awaited"):
        semaphore.acquire_async()
        gc.collect()
    assert semaphore._value == 1


def test_a_twin_that_need_not_wait_needs_no_loop(new_loop: Callable[[], Any]) -> None:
    call: Any = ours.Semaphore(1).acquire_async()
    with pytest.raises(StopIteration) as ended:
        call.send(None)
    assert ended.value.value is True


def test_a_loop_that_is_closed_with_tasks_waiting(new_loop: Callable[[], Any]) -> None:
    """Whoever is let go next is somebody who can be reached."""
    semaphore, got = ours.Semaphore(0), []
    loop = new_loop()

    async def waiting() -> None:
        await semaphore.acquire_async()

    task = loop.create_task(waiting())
    loop.run_until_complete(rig.until(lambda: semaphore.statistics().waiters))
    task._log_destroy_pending = False
    loop.close()
    thread = threading.Thread(target=lambda: got.append(semaphore.acquire(timeout=rig.PATIENCE)))
    thread.start()
    waits(semaphore, 2)
    semaphore.release()
    thread.join(rig.PATIENCE)
    assert got == [True]
    reference = weakref.ref(task)
    del task
    gc.collect()
    assert reference() is None and semaphore.statistics() == (0, None, ())


def test_threads_can_be_joined_by_tasks(new_loop: Callable[[], Any]) -> None:
    going = ours.Event()

    async def main() -> None:
        thread = ours.Thread(target=going.wait)
        with pytest.raises(RuntimeError, match="cannot join thread before it is started"):
            await thread.join_async()
        thread.start()
        await thread.join_async(0)
        await thread.join_async(-1)
        await thread.join_async(0.01)
        assert thread.is_alive()
        joins = [asyncio.ensure_future(thread.join_async()) for _ in range(3)]
        await asyncio.sleep(0)
        joins[0].cancel()
        going.set()
        await asyncio.gather(*joins[1:])
        assert not thread.is_alive() and joins[0].cancelled()
        await thread.join_async()

    with rig.borrowed(new_loop) as loop:
        rig.run(loop, main())


def test_no_thread_joins_itself(new_loop: Callable[[], Any]) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="cannot join current thread"):
            await threading.current_thread().join_async()  # type: ignore[attr-defined]

    with rig.borrowed(new_loop) as loop:
        rig.run(loop, main())
