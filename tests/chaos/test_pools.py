"""Thread pools under faults: interrupts, forks, exits, races, threads that cannot be had."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import gc
import os
import sys
import threading
import time
import warnings
import weakref
from typing import Any

import pytest
import rig
import ropewalk.futures as ours
from ropewalk.futures import Future, ThreadPoolExecutor

# Each is interrupted by Ctrl-C while it waits for what never comes.
BLOCKING = {
    "result": "future.result()",
    "result with a timeout": "future.result(1000)",
    "exception": "future.exception()",
    "wait": "wait([future, other])",
    "as_completed": "list(as_completed([future, other]))",
    "map": "list(pool.map(hold, [1, 2]))",
    "shutdown": "pool.submit(hold, 1); pool.shutdown()",
}


@pytest.mark.parametrize("call", BLOCKING.values(), ids=list(BLOCKING))
def test_interrupted(call: str) -> None:
    done = rig.script(
        f"""
        import os, signal, threading, time
        from ropewalk.futures import Future, ThreadPoolExecutor, as_completed, wait
        go = threading.Event()
        def hold(_): go.wait(30)
        pool, future, other = ThreadPoolExecutor(1), Future(), Future()
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
        began = time.monotonic()
        try:
            {call}
        except KeyboardInterrupt:
            print("interrupted", time.monotonic() - began < 10)
        assert future.statistics().waiters == ()
        go.set()
        """
    )
    assert done.stdout.split() == ["interrupted", "True"] and not done.stderr


def test_a_signal_handler_that_does_not_raise_does_not_end_the_wait() -> None:
    done = rig.script(
        """
        import os, signal, threading
        from ropewalk.futures import Future
        heard, future = [], Future()
        signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
        def act():
            os.kill(os.getpid(), signal.SIGUSR1)
            while not heard: pass
            future.set_result("x")
        threading.Timer(0.05, act).start()
        print(future.result(), heard)
        """
    )
    assert done.stdout == "x [1]\n"


# The end of the interpreter ------------------------------------------------------------------------------------


def test_at_exit_what_is_queued_is_done() -> None:
    done = rig.script(
        """
        import time
        from ropewalk.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(1)
        for number in range(3):
            pool.submit(lambda number=number: (time.sleep(0.02), print(number, flush=True)))
        pool.map(lambda n: print("map", n, flush=True), range(2))
        print("end", flush=True)
        """
    )
    assert done.stdout.split("\n") == ["end", "0", "1", "2", "map 0", "map 1", ""] and not done.stderr


def test_at_exit_parked_threads_end() -> None:
    done = rig.script(
        """
        import atexit
        from ropewalk.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(8)
        list(pool.map(abs, range(100)))
        [pool.submit(pow, 1, 2) for _ in range(20)]
        other = ThreadPoolExecutor(2)
        other.submit(abs, 1)
        other.shutdown(wait=False)
        def late():
            for one in (pool, other):
                try:
                    one.submit(abs, 1)
                except RuntimeError as error:
                    print(error)
        atexit.register(late)
        """
    )
    assert done.stdout == (
        "cannot schedule new futures after interpreter shutdown\ncannot schedule new futures after shutdown\n"
    )
    assert not done.stderr


def test_at_exit_a_call_that_submits() -> None:
    done = rig.script(
        """
        import threading, time
        from ropewalk.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(1)
        def call():
            time.sleep(0.1)
            try:
                pool.submit(abs, 1)
            except RuntimeError as error:
                print(error)
        pool.submit(call)
        """
    )
    assert done.stdout == "cannot schedule new futures after interpreter shutdown\n" and not done.stderr


def test_at_exit_somebody_still_waits() -> None:
    done = rig.script(
        """
        import threading
        from ropewalk.futures import Future, ThreadPoolExecutor
        future = Future()
        pool = ThreadPoolExecutor(2)
        threading.Thread(target=future.result, daemon=True).start()
        results = pool.map(abs, range(5))
        next(results)
        print("end")
        """
    )
    assert done.stdout == "end\n" and not done.stderr


# Pools that are dropped ----------------------------------------------------------------------------------------


def test_a_pool_that_is_dropped_does_what_is_queued_and_ends() -> None:
    go, seen = threading.Event(), []
    pool = ThreadPoolExecutor(2)
    pool.submit(go.wait, rig.PATIENCE)
    futures = [pool.submit(seen.append, number) for number in range(5)]
    threads = set(pool._threads)
    gone = weakref.ref(pool)
    del pool
    rig.until_sync(lambda: gc.collect() is not None and gone() is None)
    go.set()
    for thread in threads:
        thread.join(rig.PATIENCE)
        assert not thread.is_alive()
    assert sorted(seen) == list(range(5)) and all(future.done() for future in futures)


def test_idle_pools_that_are_dropped_end() -> None:
    threads = []
    for _ in range(20):
        pool = ThreadPoolExecutor(2)
        pool.submit(abs, 1).result()
        threads += pool._threads
        del pool
    gc.collect()
    for thread in threads:
        thread.join(rig.PATIENCE)
        assert not thread.is_alive()


def test_a_pool_in_a_cycle_with_its_calls() -> None:
    class Owner:
        def __init__(self) -> None:
            self.pool = ThreadPoolExecutor(1)
            self.future = self.pool.submit(self.method)

        def method(self) -> Any:
            return self

    owner = Owner()
    owner.future.result()
    gone, threads = weakref.ref(owner), set(owner.pool._threads)
    del owner
    rig.until_sync(lambda: gc.collect() is not None and gone() is None)
    for thread in threads:
        thread.join(rig.PATIENCE)
        assert not thread.is_alive()


# Threads that cannot be had --------------------------------------------------------------------------------------


def test_a_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def fails(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(threading.Thread, "start", fails)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pool.submit(abs, -1)
        assert not pool._threads and pool.statistics().workers == 0
        monkeypatch.setattr(threading.Thread, "start", start)
        assert pool.submit(abs, -2).result(rig.PATIENCE) == 2
        assert 1 <= len(pool._threads) <= 2
    pool = ThreadPoolExecutor(2)
    monkeypatch.setattr(threading.Thread, "start", fails)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        pool.map(abs, [1])
    pool.shutdown()


# Forks -----------------------------------------------------------------------------------------------------------


def in_child(call: Any) -> None:
    """Run the call in a forked child, which must end well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            call()
            status = 0
        finally:
            os._exit(status)
    end = time.monotonic() + rig.PATIENCE
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > end:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.005)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_child_s_pool_has_threads_of_its_own() -> None:
    with ThreadPoolExecutor(2) as pool:
        go = threading.Event()
        running = [pool.submit(go.wait, rig.PATIENCE) for _ in range(2)]
        queued = pool.submit(abs, -5)

        def child() -> None:
            assert pool.submit(abs, -1).result(5) == 1
            assert list(pool.map(abs, range(10))) == list(range(10))
            assert queued.cancelled(), "that one is the parent's to do"
            assert len(pool._threads) <= 2
            pool.shutdown()

        in_child(child)
        in_child(pool.shutdown)
        go.set()
        assert [future.result() for future in running] == [True, True]
        assert queued.result() == 5


def test_a_fork_inside_a_call() -> None:
    with ThreadPoolExecutor(1) as pool:

        def call() -> str:
            in_child(lambda: None)
            return "parent"

        for _ in range(5):
            assert pool.submit(call).result(rig.PATIENCE) == "parent"


def test_a_child_that_ends_as_usual() -> None:
    done = rig.script(
        """
        import os, warnings
        warnings.simplefilter("ignore")
        from ropewalk.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(2)
        pool.submit(abs, 1).result()
        if child := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert done.stdout == "0\n" and not done.stderr


# Races -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fast_switches() -> Any:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("fast_switches")
def test_cancel_races_with_the_start() -> None:
    called: list[int] = []
    with ThreadPoolExecutor(3) as pool:
        futures = []
        cancelled = set()
        for number in range(3000):
            futures.append(pool.submit(called.append, number))
            if number >= 2 and futures[number - number % 3].cancel():
                cancelled.add(number - number % 3)
        ours.wait(futures)
    assert {number for number, future in enumerate(futures) if future.cancelled()} == cancelled
    assert sorted(called) == [number for number in range(3000) if number not in cancelled]


@pytest.mark.usefixtures("fast_switches")
def test_only_one_sets_the_outcome() -> None:
    for _ in range(100):
        future, seen = Future(), []
        future.add_done_callback(seen.append)
        gate = threading.Barrier(3)
        won: list[Any] = []

        def settle(value: int, future: Any = future, gate: Any = gate, won: Any = won) -> None:
            gate.wait(rig.PATIENCE)
            try:
                future.set_result(value)
                won.append(value)
            except concurrent.futures.InvalidStateError:
                pass

        threads = [threading.Thread(target=settle, args=(value,)) for value in range(3)]
        for thread in threads:
            thread.start()
        value = future.result(rig.PATIENCE)
        for thread in threads:
            thread.join()
        assert won == [value] and seen == [future]


@pytest.mark.usefixtures("fast_switches")
def test_touching_races_with_finishing() -> None:
    for _ in range(200):
        future, seen = Future(), []
        future.add_done_callback(seen.append)
        thread = threading.Thread(target=future.set_result, args=(1,))
        thread.start()
        waiters = future._waiters
        future.add_done_callback(seen.append)
        assert concurrent.futures.wait([future], rig.PATIENCE).done == {future}
        thread.join()
        assert seen == [future, future] and waiters == []


@pytest.mark.usefixtures("fast_switches")
def test_no_wake_up_is_lost() -> None:
    with ThreadPoolExecutor(3) as pool:

        def submitter() -> None:
            for number in range(300):
                assert pool.submit(abs, -number).result(rig.PATIENCE) == number
                assert list(pool.map(abs, range(3))) == [0, 1, 2]

        threads = [threading.Thread(target=submitter) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(rig.PATIENCE)
            assert not thread.is_alive()
        rig.until_sync(lambda: pool.statistics().idle == pool.statistics().workers)


def test_shutdown_races_with_submit() -> None:
    for _ in range(30):
        pool, futures = ThreadPoolExecutor(2), []
        stopped = threading.Event()

        def submit(pool: Any = pool, futures: Any = futures, stopped: Any = stopped) -> None:
            try:
                while True:
                    futures.append(pool.submit(abs, -1))
            except RuntimeError:
                stopped.set()

        thread = threading.Thread(target=submit)
        thread.start()
        rig.until_sync(lambda futures=futures: len(futures) > 10)
        pool.shutdown()
        assert stopped.wait(rig.PATIENCE)
        thread.join()
        assert [future.result(rig.PATIENCE) for future in futures] == [1] * len(futures)


def test_calls_in_c_let_others_run() -> None:
    """A worker with nothing but calls of C functions never passes where the interpreter looks for other threads."""
    with ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(int) for _ in range(200_000)]
        began = time.monotonic()
        time.sleep(0)
        turns = 0
        while not futures[-1].done() and time.monotonic() - began < rig.PATIENCE:
            time.sleep(0.0001)
            turns += 1
        assert futures[-1].result() == 0
    results = None
    with ThreadPoolExecutor(1) as pool:
        results = pool.map(int, range(100_000))
        pool.submit(int)
        assert next(results) == 0
        assert sum(1 for _ in results) == 99_999


def test_a_loop_and_threads_share_a_pool() -> None:
    with ThreadPoolExecutor(4) as pool:

        async def main() -> None:
            loop = asyncio.get_running_loop()
            for _ in range(20):
                calls = [loop.run_in_executor(pool, abs, -number) for number in range(50)]
                futures = [pool.submit(abs, -number) for number in range(50)]
                for call in calls[::7]:
                    call.cancel()
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                assert [o for o in outcomes if isinstance(o, int)] == [n for n in range(50) if n % 7]
                assert [await future for future in futures] == list(range(50))

        with rig.borrowed(ropewalk_loop()) as loop:
            rig.run(loop, main())


def ropewalk_loop() -> Any:
    import ropewalk

    return ropewalk.new_event_loop


def test_nobody_is_kept_waiting_behind_the_next_call() -> None:
    """A worker puts wake-ups off, but not until it has made the next call, of whichever kind."""
    with ThreadPoolExecutor(1) as pool:
        for begin_next in ("submit", "map", "loop"):
            gate, go = threading.Event(), threading.Event()
            first = pool.submit(gate.wait, rig.PATIENCE)
            loop = ropewalk_loop()()
            if begin_next == "submit":
                pool.submit(go.wait, rig.PATIENCE)
            elif begin_next == "map":
                pool.map(go.wait, [rig.PATIENCE])
            else:
                loop.run_in_executor(pool, go.wait, rig.PATIENCE)
            threading.Timer(0.01, gate.set).start()
            assert first.result(rig.PATIENCE) is True
            go.set()
            pool.submit(int).result()
            loop.close()


# Memory ------------------------------------------------------------------------------------------------------------


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
def test_a_hundred_thousand_calls_leave_nothing() -> None:
    def some() -> None:
        for future in [pool.submit(abs, -number) for number in range(10_000)]:
            future.result()
        for _ in pool.map(abs, range(10_000)):
            pass
        ours.wait([pool.submit(divmod, 1, 0) for _ in range(1000)])
        list(ours.as_completed([pool.submit(divmod, 1, 1) for _ in range(1000)]))

    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            some()
        gc.collect()
        before = resident()
        for _ in range(7):
            some()
        gc.collect()
        assert resident() - before < 4 << 20


def test_arguments_and_results_are_released() -> None:
    class Thing:
        def __init__(self) -> None:
            made.append(weakref.ref(self))

    made: list[weakref.ref[Thing]] = []
    with ThreadPoolExecutor(2) as pool:
        for call in (lambda thing: thing, lambda thing: 1 / 0):
            futures = [pool.submit(call, Thing()) for _ in range(100)]
            ours.wait(futures)
            del futures
            results = pool.map(call, [Thing() for _ in range(100)])
            with contextlib.suppress(ZeroDivisionError):
                collections.deque(results, maxlen=0)
            del results
        futures = [pool.submit(abs, Thing()) for _ in range(10)]
        for future in futures:
            future.cancel()
        del futures, future
    rig.until_sync(lambda: gc.collect() is not None and not any(ref() for ref in made), "all gone")
