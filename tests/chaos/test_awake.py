"""Who waits looks for a moment before it sleeps, while that pays: bursts in which it does, and pauses in which it does not."""

from __future__ import annotations

import asyncio
import threading
import time

import rig
import ropewalk
import ropewalk.threading as ours


def test_turns_are_taken_by_whoever_looks_and_whoever_sleeps() -> None:
    """Looking or not, from burst to burst: nobody misses a turn."""
    turns = [ours.Semaphore(1), ours.Semaphore(0)]
    taken: list[int] = []

    def play(me: int) -> None:
        for number in range(3000):
            turns[me].acquire()
            taken.append(me)
            if number % 500 == 499:
                time.sleep(0.002)  # the other one looks in vain
            turns[1 - me].release()

    threads = [threading.Thread(target=play, args=(me,)) for me in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == [0, 1] * 3000


def test_a_loop_and_its_workers_take_turns() -> None:
    async def main() -> list[int]:
        done = []
        for number in range(3000):
            done.append(await asyncio.to_thread(lambda number=number: number))  # type: ignore[misc]
            if number % 500 == 499:
                await asyncio.sleep(0.002)
        return done

    assert ropewalk.run(main()) == list(range(3000))


def test_a_loop_is_closed_whoever_has_promised_it_something() -> None:
    """Who posts to a loop that looks may sleep elsewhere later, and keeps nothing of the loop open."""
    with rig.nothing_left_open():
        loop = ropewalk.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        heard = threading.Semaphore(0)
        for _ in range(1000):
            loop.call_soon_threadsafe(heard.release)
            heard.acquire()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        del loop
