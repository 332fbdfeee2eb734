"""What may go wrong around a primitive: waits that end in the moment they are served, signals, forks, threads that
die, interpreters that exit.

Programs of their own run on ropewalk's primitives and, where the original makes the same promise, on the original's.
A few rounds find what is likely; ``ROPEWALK_ROUNDS=100 ./dev test tests/chaos/test_locks.py`` looks for what is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rig
import ropewalk
import ropewalk.threading as ours

ROUNDS = int(os.environ.get("ROPEWALK_ROUNDS", "2"))

pytestmark = pytest.mark.timeout(60 + 30 * ROUNDS)

MODULES = ["threading", "ropewalk.threading"]

# What blocks in each, given that nobody lets it go, and how to let it go.
BLOCKS = {
    "Event.wait": ("x = T.Event()", "x.wait({})", "x.wait_async({})", "x.set()"),
    "Semaphore.acquire": ("x = T.Semaphore(0)", "x.acquire(True, {})", "x.acquire_async(True, {})", "x.release()"),
    "BoundedSemaphore.acquire": (
        "x = T.BoundedSemaphore(1); x.acquire()",
        "x.acquire(True, {})",
        "x.acquire_async(True, {})",
        "x.release()",
    ),
    "Barrier.wait": ("x = T.Barrier(2)", "x.wait({})", "x.wait_async({})", "x.wait()"),
    "Lock.acquire": ("x = T.Lock(); x.acquire()", "x.acquire(True, {})", "x.acquire_async(True, {})", "x.release()"),
    "Condition.wait": (
        "x = T.Condition(); x.acquire()",
        "x.wait({})",
        "x.wait_async({})",
        "[x.acquire(), x.notify(), x.release()]",
    ),
}
ENDLESS = {"Lock.acquire": "-1"}


def blocking(name: str, timeout: float | None = None, twin: bool = False) -> str:
    seconds = ENDLESS.get(name, "None") if timeout is None else str(timeout)
    return BLOCKS[name][2 if twin else 1].format(seconds)


PRELUDE = """
import asyncio, os, signal, sys, threading, time
import ropewalk, {module} as T
def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.001)
def asleep(thread):
    "Wait until a thread sleeps in the kernel, and has for a while."
    path = "/proc/self/task/%d/stat" % thread.native_id
    for _ in range(3):
        until(lambda: open(path).read().rsplit(")", 1)[1].split()[0] == "S")
        time.sleep(0.005)
"""


def program(module: str, code: str) -> str:
    return PRELUDE.format(module=module) + textwrap.dedent(code)


# --- Signals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("module", MODULES)
def test_ctrl_c_ends_what_blocks(module: str, name: str, timeout: float | None) -> None:
    code = program(
        module,
        f"""
        {BLOCKS[name][0]}
        threading.Thread(target=lambda: (asleep(threading.main_thread()), print("ready", flush=True)), daemon=True).start()
        try:
            {blocking(name, timeout)}
        except KeyboardInterrupt:
            print("interrupted")
        """,
    )
    process = subprocess.Popen([*rig.command(), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=rig.PATIENCE)
        assert (output, process.returncode) == ("interrupted\n", 0), errors
        assert time.monotonic() - began < 5
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("module", MODULES)
def test_a_handler_that_returns_lets_the_wait_go_on(module: str, name: str) -> None:
    """And what it does to the primitive that is being waited for is heard."""
    release = "x.notify()" if name == "Condition.wait" else BLOCKS[name][3]
    if name == "Barrier.wait":
        release = "threading.Thread(target=x.wait).start()"
    if name == "Condition.wait" or (module == "threading" and name != "Lock.acquire"):
        # The original's own lock may be held by the very call that is interrupted: from another thread, then.
        release = f"threading.Thread(target=lambda: {BLOCKS[name][3]}).start()"
    done = rig.script(
        program(
            module,
            f"""
            {BLOCKS[name][0]}
            heard = []
            def handler(*_):
                heard.append(1)
                if len(heard) == 3:
                    {release}
            signal.signal(signal.SIGUSR1, handler)
            def send():
                for _ in range(3):
                    asleep(threading.main_thread())
                    os.kill(os.getpid(), signal.SIGUSR1)
            sender = threading.Thread(target=send)
            sender.start()
            got = {blocking(name, 20)}
            sender.join()
            print(got, len(heard))
            """,
        )
    )
    assert done.stdout in ("True 3\n", "0 3\n")


def test_a_handler_that_raises_takes_nothing_with_it() -> None:
    """Interrupted in the moment it is served, a wait has either taken its permit or left it to others."""
    semaphore, taken = ours.Semaphore(0), 0

    class Interrupted(Exception):
        pass

    def handler(*_: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    given = 0
    try:
        for round_ in range(100 * ROUNDS):
            helper = threading.Timer(0.0008, semaphore.release)
            helper.start()
            given += 1
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0006 + 0.00004 * (round_ % 20))
                if semaphore.acquire(timeout=rig.PATIENCE):
                    taken += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                # It may have come behind the acquire: what the statement after it would have counted.
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            helper.join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert taken + semaphore._value <= given
    assert semaphore.statistics().waiters == ()
    # And nobody who waits is forgotten.
    while semaphore.acquire(False):
        pass
    thread = threading.Thread(target=semaphore.acquire)
    thread.start()
    rig.until_sync(lambda: semaphore.statistics().waiters)
    semaphore.release()
    thread.join(rig.PATIENCE)
    assert not thread.is_alive()


# --- Ends in the same moment ----------------------------------------------------------------------------------


@contextlib.contextmanager
def loops(count: int) -> Iterator[list[Any]]:
    """Event loops in threads of their own, ours and asyncio's."""
    factories: list[Callable[[], Any]] = [ropewalk.new_event_loop, asyncio.SelectorEventLoop]
    made = [factories[number % 2]() for number in range(count)]
    threads = [threading.Thread(target=loop.run_forever) for loop in made]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        for loop, thread in zip(made, threads, strict=True):
            loop.call_soon_threadsafe(loop.stop)
            thread.join(rig.PATIENCE)
            loop.close()


async def cancelled_or(result: Any, wait: Any, after: float) -> Any:
    """Wait in a task that is cancelled after a while."""
    task = asyncio.ensure_future(wait)
    asyncio.get_running_loop().call_later(after, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return result


class Room:
    """A place behind a semaphore: who is inside, and how many ever were at once."""

    def __init__(self, semaphore: Any) -> None:
        self.semaphore = semaphore
        self.lock = threading.Lock()
        self.inside = self.most = self.served = 0

    def enter(self) -> None:
        with self.lock:
            self.inside += 1
            self.served += 1
            self.most = max(self.most, self.inside)

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
        self.semaphore.release()

    def in_thread(self, seed: int) -> None:
        pick = random.Random(seed)
        for _ in range(150):
            if self.semaphore.acquire(timeout=pick.choice([0, 0.0001, 0.001, None])):
                self.enter()
                if pick.random() < 0.3:
                    time.sleep(0.0002)
                self.leave()

    async def in_task(self, seed: int) -> None:
        pick = random.Random(seed)
        for _ in range(60):
            wait = self.semaphore.acquire_async(timeout=pick.choice([0.0005, 0.002, None]))
            if await cancelled_or(False, wait, pick.choice([0, 0.0005, 0.002, 5])):
                self.enter()
                if pick.random() < 0.3:
                    await asyncio.sleep(0)
                self.leave()


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
def test_permits_are_conserved(kind: str) -> None:
    """Threads with timeouts, tasks with timeouts, tasks that are cancelled, on as few permits as there can be."""
    for round_ in range(ROUNDS):
        permits = 1 + round_ % 2
        room = Room(getattr(ours, kind)(permits))
        with loops(2) as running:
            threads = [threading.Thread(target=room.in_thread, args=(seed,)) for seed in range(3)]
            tasks = [asyncio.run_coroutine_threadsafe(room.in_task(seed), running[seed % 2]) for seed in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(rig.PATIENCE)
                assert not thread.is_alive(), room.semaphore.statistics()
            for task in tasks:
                task.result(rig.PATIENCE)
        assert room.most <= permits and room.inside == 0 and room.served > 0
        gc.collect()
        assert (room.semaphore._value, room.semaphore.statistics().waiters) == (permits, ())


def test_no_release_is_lost_on_a_task_that_is_cancelled_in_the_same_turn() -> None:
    async def main() -> None:
        semaphore = ours.Semaphore(0)
        for cancel_first in (False, True):
            doomed = asyncio.ensure_future(semaphore.acquire_async())
            heir = asyncio.ensure_future(semaphore.acquire_async())
            await rig.until(lambda: len(semaphore.statistics().waiters) == 2)
            if cancel_first:
                doomed.cancel()
            semaphore.release()
            doomed.cancel()
            async with asyncio.timeout(rig.PATIENCE):
                assert await heir is True
            with contextlib.suppress(asyncio.CancelledError):
                await doomed
                semaphore.release()
            assert semaphore._value == 0 and semaphore.statistics().waiters == ()

    with rig.borrowed(ropewalk.new_event_loop) as loop:
        rig.run(loop, main())


def test_no_setting_of_an_event_is_missed() -> None:
    """Each round all who wait see the event set, or leave by their own will."""
    event, round_, stop = ours.Event(), [0], [False]
    seen: list[int] = [0] * 6

    def in_thread(number: int) -> None:
        while not stop[0]:
            if event.wait(0.5):
                seen[number] += 1
            time.sleep(0)

    async def in_task(number: int) -> None:
        pick = random.Random(number)
        while not stop[0]:
            if await cancelled_or(False, event.wait_async(0.5), pick.choice([0.0005, 1])):
                seen[number] += 1
            await asyncio.sleep(0)

    with loops(2) as running:
        threads = [threading.Thread(target=in_thread, args=(number,)) for number in range(2)]
        tasks = [asyncio.run_coroutine_threadsafe(in_task(2 + n), running[n % 2]) for n in range(4)]
        for thread in threads:
            thread.start()
        for round_[0] in range(30 * ROUNDS):
            before = list(seen)
            event.set()
            rig.until_sync(lambda: all(now > then for now, then in zip(seen, before, strict=True)), "a waiter slept on")  # noqa: B023
            event.clear()
        stop[0] = True
        event.set()
        for thread in threads:
            thread.join(rig.PATIENCE)
        for task in tasks:
            task.result(rig.PATIENCE)
    assert event.statistics() == (True, ())


def test_a_barrier_whose_parties_give_up_at_any_moment() -> None:
    """Whatever happens to a round, it happens to all of it."""
    long = 0.1  # of those who are left when the others have done their rounds, nobody waits for ever
    barrier = ours.Barrier(3)
    lock, results = threading.Lock(), {"passed": 0, "broken": 0}

    def note(kind: str) -> None:
        with lock:
            results[kind] += 1

    def in_thread(seed: int) -> None:
        pick = random.Random(seed)
        for _ in range(60 * ROUNDS):
            try:
                barrier.wait(pick.choice([0.0005, 0.002, long]))
                note("passed")
            except ours.BrokenBarrierError:
                note("broken")
                if pick.random() < 0.7:
                    barrier.reset()

    async def in_task(seed: int) -> None:
        pick = random.Random(seed)
        for _ in range(60 * ROUNDS):
            try:
                wait = barrier.wait_async(pick.choice([0.0005, 0.002, long]))
                got = await cancelled_or(None, wait, pick.choice([0.0005, 0.005, long]))
                note("passed" if got is not None else "broken")
            except ours.BrokenBarrierError:
                note("broken")
                barrier.reset()

    with loops(1) as (loop,):
        threads = [threading.Thread(target=in_thread, args=(seed,)) for seed in range(2)]
        tasks = [asyncio.run_coroutine_threadsafe(in_task(seed), loop) for seed in (7, 8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(rig.PATIENCE)
            assert not thread.is_alive(), barrier.statistics()
        for task in tasks:
            task.result(rig.PATIENCE)
    assert sum(results.values()) == 4 * 60 * ROUNDS
    barrier.reset()
    assert barrier.statistics() == (3, 0, False, ())
    assert results["passed"] > 0 and results["broken"] > 0


@pytest.mark.parametrize("name", BLOCKS)
def test_a_loop_that_is_closed_while_its_tasks_wait(name: str) -> None:
    """Whoever comes after them is served."""
    done = rig.script(
        program(
            "ropewalk.threading",
            f"""
            {BLOCKS[name][0]}
            if {name!r} == "Condition.wait": x.release()
            async def wait():
                if {name!r} == "Condition.wait":
                    async with x: await {blocking(name, twin=True)}
                else:
                    await {blocking(name, twin=True)}
            for factory in (ropewalk.new_event_loop, asyncio.SelectorEventLoop):
                loop = factory()
                task = loop.create_task(wait())
                task._log_destroy_pending = False
                loop.run_until_complete(asyncio.sleep(0.01))
                assert task in x.statistics().waiters
                loop.close()
                del task, loop
                if {name!r} == "Barrier.wait": x.reset()
            got = []
            def block():
                if {name!r} == "Condition.wait":
                    with x: got.append({blocking(name)})
                else:
                    got.append({blocking(name)})
            thread = threading.Thread(target=block, daemon=True)
            thread.start()
            asleep(thread)
            {BLOCKS[name][3]}
            thread.join(20)
            print(got)
            """,
        )
    )
    assert done.stdout in ("[True]\n", "[0]\n", "[1]\n")


# --- Threads and processes that end ---------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_a_thread_that_dies_with_a_permit_or_a_lock(module: str) -> None:
    """What it held stays held, as in the original; it can be let go by others."""
    done = rig.script(
        program(
            module,
            """
            semaphore, lock = T.Semaphore(1), T.Lock()
            thread = threading.Thread(target=lambda: (semaphore.acquire(), lock.acquire()))
            thread.start(); thread.join()
            assert not semaphore.acquire(timeout=0.01) and not lock.acquire(timeout=0.01)
            semaphore.release(); lock.release()
            print(semaphore.acquire(timeout=1), lock.acquire(timeout=1))
            """,
        )
    )
    assert done.stdout == "True True\n"


@pytest.mark.parametrize("name", BLOCKS)
def test_a_child_of_a_fork_waits_and_is_woken(name: str) -> None:
    """While other threads of the parent waited: they are not in the child, where the originals wait for them."""
    done = rig.script(
        program(
            "ropewalk.threading",
            f"""
            {BLOCKS[name][0]}
            if {name!r} == "Condition.wait": x.release()
            def block():
                if {name!r} == "Condition.wait":
                    with x: return {blocking(name)}
                return {blocking(name)}
            waiting = threading.Thread(target=block, daemon=True)
            waiting.start()
            asleep(waiting)
            if (child := os.fork()) == 0:
                if {name!r} == "Barrier.wait": x.reset()
                got = []
                other = threading.Thread(target=lambda: got.append(block()), daemon=True)
                other.start()
                asleep(other)
                assert x.statistics().waiters == (other,), x.statistics()
                {BLOCKS[name][3]}
                other.join(10)
                os._exit(0 if got else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            {BLOCKS[name][3]}
            waiting.join(20)
            print(waiting.is_alive())
            """,
        ),
        flags=("-W", "ignore::DeprecationWarning"),
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("module", MODULES)
def test_an_interpreter_that_exits_beside_threads_that_wait(module: str, name: str) -> None:
    done = rig.script(
        program(
            module,
            f"""
            {BLOCKS[name][0]}
            if {name!r} == "Condition.wait": x.release()
            def block(timeout):
                def once():
                    if {name!r} == "Condition.wait":
                        with x: return x.wait(timeout)
                    return {blocking(name)} if timeout is None else {blocking(name, 0.001)}
                while True:
                    try: once()
                    except threading.BrokenBarrierError: pass
            for timeout in (None, None, 0.001, 0.001):
                thread = threading.Thread(target=block, args=(timeout,), daemon=True)
                thread.start()
            time.sleep(0.02)
            print("ends")
            """,
        )
    )
    assert (done.stdout, done.stderr) == ("ends\n", "")


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("how", ["asyncio.run", "a daemon's loop", "left alone"])
def test_an_interpreter_that_exits_beside_tasks_that_wait(name: str, how: str) -> None:
    done = rig.script(
        program(
            "ropewalk.threading",
            f"""
            {BLOCKS[name][0]}
            if {name!r} == "Condition.wait": x.release()
            async def wait():
                if {name!r} == "Condition.wait":
                    async with x: await {blocking(name, twin=True)}
                else:
                    await {blocking(name, twin=True)}
            async def main(seconds):
                global task
                task = asyncio.ensure_future(wait())
                task._log_destroy_pending = False
                await asyncio.sleep(seconds)
            if {how!r} == "asyncio.run":
                ropewalk.run(main(0.01))
            elif {how!r} == "left alone":
                loop = ropewalk.new_event_loop()
                loop.run_until_complete(main(0.01))
            else:
                threading.Thread(target=lambda: ropewalk.run(main(100)), daemon=True).start()
                time.sleep(0.05)
            print("ends")
            """,
        ),
        flags=("-W", "ignore::ResourceWarning"),
    )
    assert done.stdout == "ends\n"


def test_locks_of_threads_that_fork_at_any_moment() -> None:
    """`threading` itself resets what its threads wait for: on our events, as on its own."""
    done = rig.script(
        program(
            "ropewalk.threading",
            """
            for name in ("Lock", "RLock", "Condition", "Event", "Semaphore", "Barrier", "Thread", "Timer"):
                setattr(threading, name, getattr(T, name))
            over = threading.Event()
            def busy():
                while not over.is_set():
                    thread = threading.Thread(target=int); thread.start(); thread.join()
            threads = [threading.Thread(target=busy, daemon=True) for _ in range(2)]
            for thread in threads: thread.start()
            for _ in range(20):
                if (child := os.fork()) == 0:
                    assert threading.active_count() == 1
                    thread = threading.Thread(target=int); thread.start(); thread.join(10)
                    os._exit(thread.is_alive())
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            over.set()
            for thread in threads: thread.join(20)
            print("well")
            """,
        ),
        flags=("-W", "ignore::DeprecationWarning"),
    )
    assert done.stdout == "well\n"
