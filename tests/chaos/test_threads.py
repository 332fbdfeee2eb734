"""Other threads call the loop while it works, rests, stops and closes; and very many timers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import threading
import time
from collections import defaultdict
from typing import Any

import pytest
import rig
import ropewalk

THREADS = 8


def spawn(count: int, target: Any) -> list[threading.Thread]:
    threads = [threading.Thread(target=target, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(rig.PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


def test_threadsafe_calls_all_arrive_in_each_threads_order(our_loop: Any) -> None:
    each = 5000
    got: defaultdict[int, list[int]] = defaultdict(list)

    def call(number: int) -> None:
        for i in range(each):
            our_loop.call_soon_threadsafe(got[number].append, i)

    for number in range(THREADS):
        got[number] = []

    async def main() -> None:
        threads = spawn(THREADS, call)
        await rig.until(lambda: all(len(calls) == each for calls in got.values()))
        await asyncio.to_thread(join, threads)

    rig.run(our_loop, main())
    assert all(calls == list(range(each)) for calls in got.values())


def test_threadsafe_calls_wake_a_loop_that_sleeps(our_loop: Any) -> None:
    """One call at a time, each while the loop sleeps for ever: a wake-up lost is a hang."""
    rounds = 2000
    back = threading.Semaphore(0)

    def call(_: int) -> None:
        for _ in range(rounds):
            our_loop.call_soon_threadsafe(back.release)
            assert back.acquire(timeout=rig.PATIENCE)
        our_loop.call_soon_threadsafe(our_loop.stop)

    threads = spawn(1, call)
    our_loop.run_forever()
    join(threads)


def test_threadsafe_calls_before_and_between_runs(our_loop: Any) -> None:
    got: list[int] = []
    for round_ in range(5):
        join(spawn(1, lambda _, round_=round_: our_loop.call_soon_threadsafe(got.append, round_)))
        rig.run(our_loop, asyncio.sleep(0))
        rig.run(our_loop, rig.until(lambda round_=round_: len(got) == round_ + 1))
    assert got == list(range(5))


def test_threadsafe_calls_while_the_loop_closes() -> None:
    """Each call is accepted or refused with RuntimeError; nothing else, and nothing crashes."""
    for _ in range(20):
        loop = ropewalk.new_event_loop()
        errors: list[BaseException] = []
        refused = threading.Barrier(THREADS + 1)

        def call(_: int, loop: Any = loop, errors: Any = errors, refused: Any = refused) -> None:
            try:
                for i in itertools.count():
                    loop.call_soon_threadsafe(int)
                    if i % 100 == 0:
                        time.sleep(0)  # without a GIL held for long, the loop gets its turn
            except RuntimeError as error:
                if str(error) != "Event loop is closed":
                    errors.append(error)
            except BaseException as error:
                errors.append(error)
            refused.wait(rig.PATIENCE)

        threads = spawn(THREADS, call)
        loop.run_until_complete(asyncio.sleep(0.005))
        loop.close()
        refused.wait(rig.PATIENCE)
        join(threads)
        assert errors == []


def test_cancelling_from_other_threads_what_runs_or_ran(our_loop: Any) -> None:
    ran: list[int] = []

    def call(number: int) -> None:
        for i in range(2000):
            handle = our_loop.call_soon_threadsafe(ran.append, i)
            if i % 2:
                handle.cancel()
                handle.cancelled()
        our_loop.call_soon_threadsafe(done.append, number)

    done: list[int] = []

    async def main() -> None:
        threads = spawn(THREADS, call)
        await rig.until(lambda: len(done) == THREADS)
        await asyncio.to_thread(join, threads)

    rig.run(our_loop, main())
    assert sum(not i % 2 for i in ran) == THREADS * 1000
    assert not our_loop.reports


def test_stop_from_another_thread(loop: Any) -> None:
    for _ in range(20):
        thread = threading.Timer(0.002, loop.call_soon_threadsafe, (loop.stop,))
        thread.start()
        loop.run_forever()
        thread.join()
    assert not loop.is_running()


def test_stop_before_the_run_makes_one_turn(loop: Any) -> None:
    ran: list[int] = []
    loop.call_soon(ran.append, 1)
    loop.call_soon(lambda: loop.call_soon(ran.append, 2))
    loop.stop()
    loop.run_forever()
    assert ran == [1]
    loop.stop()
    loop.run_forever()
    assert ran == [1, 2]


def test_a_running_loop_cannot_be_run_again(loop: Any) -> None:
    other = asyncio.SelectorEventLoop()

    async def main() -> None:
        with pytest.raises(RuntimeError, match="This event loop is already running"):
            loop.run_forever()
        with pytest.raises(RuntimeError, match="Cannot run the event loop while another loop is running"):
            other.run_forever()

    try:
        rig.run(loop, main())
        rig.run(loop, main())
    finally:
        other.close()


def test_a_running_loop_cannot_be_run_by_another_thread(our_loop: Any) -> None:
    caught: list[str] = []

    def intrude(_: int) -> None:
        for _ in range(100):
            try:
                our_loop.run_forever()
            except RuntimeError as error:
                caught.append(str(error))

    async def main() -> None:
        await asyncio.to_thread(lambda: join(spawn(4, intrude)))

    rig.run(our_loop, main())
    assert caught == ["This event loop is already running"] * 400


def test_one_loop_is_run_by_one_thread_after_the_other() -> None:
    loop = ropewalk.new_event_loop()
    got: list[int] = []

    def run(number: int) -> None:
        got.append(loop.run_until_complete(asyncio.sleep(0.001, number)))

    for number in range(20):
        thread = threading.Thread(target=run, args=(number,))
        thread.start()
        join([thread])
    loop.close()
    assert got == list(range(20))


def test_run_coroutine_threadsafe(our_loop: Any) -> None:
    results: list[int] = []

    def call(number: int) -> None:
        async def work(i: int) -> int:
            await asyncio.sleep(0)
            return i

        futures = [asyncio.run_coroutine_threadsafe(work(i), our_loop) for i in range(100)]
        results.append(sum(future.result(rig.PATIENCE) for future in futures))

    rig.run(our_loop, asyncio.to_thread(lambda: join(spawn(THREADS, call))))
    assert results == [4950] * THREADS


def test_executor_results_from_many_threads(our_loop: Any) -> None:
    async def main() -> None:
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            got = await asyncio.gather(*(our_loop.run_in_executor(pool, divmod, i, 7) for i in range(2000)))
        assert got == [divmod(i, 7) for i in range(2000)]

    rig.run(our_loop, main())


def test_loops_in_threads_talk_to_one_another(our_loop: Any) -> None:
    """Each loop passes a token to the next one, by the thread-safe call alone."""
    loops = [ropewalk.new_event_loop() for _ in range(4)]
    laps = 500
    done = threading.Event()

    def arrive(position: int, lap: int) -> None:
        if lap == laps:
            done.set()
            return
        position = (position + 1) % len(loops)
        loops[position].call_soon_threadsafe(arrive, position, lap + (position == 0))

    threads = spawn(len(loops), lambda number: loops[number].run_forever())
    loops[0].call_soon_threadsafe(arrive, 0, 0)
    assert done.wait(rig.PATIENCE)
    for loop in loops:
        loop.call_soon_threadsafe(loop.stop)
    join(threads)
    for loop in loops:
        loop.close()


# Timers ------------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_timers_set_and_cancelled(our_loop: Any) -> None:
    """What a cancelled timer held is let go at once, not when it would have been due."""

    class Thing:
        count = 0

        def __init__(self) -> None:
            Thing.count += 1

        def __del__(self) -> None:
            Thing.count -= 1

    began = time.process_time()
    for _ in range(10):
        handles = [our_loop.call_later(3600 + i % 977, print, Thing()) for i in range(10_000)]
        assert Thing.count == 10_000
        for handle in handles[::-1]:
            handle.cancel()
            handle.cancel()
        assert Thing.count == 0
        assert all(handle.cancelled() for handle in handles)
    assert time.process_time() - began < 10
    del handles, handle
    gc.collect()
    began = time.process_time()
    rig.run(our_loop, asyncio.sleep(0.01))
    assert time.process_time() - began < 1


def test_timers_fire_in_the_order_of_their_deadlines(loop: Any) -> None:
    fired: list[tuple[float, int]] = []
    start = loop.time()
    deadlines = [start + 0.01 + (i * 7919 % 1000) / 100_000 for i in range(1000)]
    for i, when in enumerate(deadlines):
        loop.call_at(when, lambda when=when, i=i: fired.append((when, i)))
    rig.run(loop, rig.until(lambda: len(fired) == 1000))
    # asyncio's heap does not keep the order of equal deadlines; ours does.
    order = [when for when, _ in fired]
    assert order == sorted(deadlines)
    if type(loop) is not asyncio.SelectorEventLoop:
        assert fired == sorted(fired)


def test_no_timer_fires_early(loop: Any) -> None:
    early: list[float] = []
    left = [0]

    def check(when: float) -> None:
        left[0] -= 1
        if loop.time() < when - loop._clock_resolution:
            early.append(when - loop.time())

    for i in range(300):
        when = loop.time() + i / 10_000
        loop.call_at(when, check, when)
        left[0] += 1
    rig.run(loop, rig.until(lambda: left[0] == 0))
    assert early == []


def test_a_timer_cancelled_by_one_that_is_due_with_it(loop: Any) -> None:
    ran: list[int] = []
    when = loop.time() + 0.005
    handles: list[Any] = []
    loop.call_at(when, lambda: [handle.cancel() for handle in handles])
    handles += [loop.call_at(when + 1e-6, ran.append, i) for i in range(50)]
    rig.run(loop, asyncio.sleep(0.02))
    assert ran == []


def test_a_timer_that_sets_itself_again_starves_nobody(our_loop: Any) -> None:
    with rig.pair() as (ours, theirs):
        got: list[bytes] = []
        our_loop.add_reader(ours, lambda: got.append(ours.recv(1)))

        def again() -> None:
            our_loop.call_at(our_loop.time() - 1, again)
            our_loop.call_soon(int)

        again()
        theirs.send(b"x")
        rig.run(our_loop, rig.until(lambda: got))
        our_loop.remove_reader(ours)


def test_callbacks_that_breed_starve_neither_sockets_nor_timers_nor_threads(our_loop: Any) -> None:
    with rig.pair() as (ours, theirs):
        got: list[bytes] = []
        timer: list[int] = []
        our_loop.add_reader(ours, lambda: got.append(ours.recv(1)))

        def breed() -> None:
            our_loop.call_soon(breed)

        for _ in range(50):
            breed()
        our_loop.call_later(0.01, timer.append, 1)
        thread = threading.Timer(0.02, our_loop.call_soon_threadsafe, (timer.append, 2))
        thread.start()
        theirs.send(b"x")
        rig.run(our_loop, rig.until(lambda: got and timer == [1, 2]))
        thread.join()
        our_loop.remove_reader(ours)


def test_a_callback_of_one_turn_runs_before_those_it_schedules(loop: Any) -> None:
    order: list[str] = []
    loop.call_soon(lambda: (order.append("a"), loop.call_soon(order.append, "c")))
    loop.call_soon(order.append, "b")
    rig.run(loop, asyncio.sleep(0.001))
    assert order == ["a", "b", "c"]
