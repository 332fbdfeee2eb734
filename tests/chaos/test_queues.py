"""Queues when things go wrong: consumers that die, loops that close, signals, forks, the end of the interpreter."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import signal
import threading
import weakref
from typing import Any

import pytest
import rig
from ropewalk import queue

EVERY = ["Queue", "LifoQueue", "PriorityQueue", "SimpleQueue"]
KINDS = EVERY[:3]


@pytest.fixture(params=EVERY)
def make(request: pytest.FixtureRequest) -> Any:
    return getattr(queue, request.param)


def start(target: Any, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def join(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(rig.PATIENCE)
        assert not thread.is_alive()


def getters(q: Any, count: int) -> None:
    rig.until_sync(lambda: len(q.statistics().getting) == count, "getters")


# Ctrl-C -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", ["", "timeout=60"])
@pytest.mark.parametrize("kind", EVERY)
def test_ctrl_c_ends_get(kind: str, timeout: str) -> None:
    done = rig.script(
        f"""
        import os, signal, threading, time
        from ropewalk import queue

        q = queue.{kind}()
        def kill():
            while not q.statistics().getting:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=kill, daemon=True).start()
        try:
            q.get({timeout})
        except KeyboardInterrupt:
            assert not q.statistics().getting
            q.put(1)
            assert q.get() == 1
            print("well")
        """
    )
    assert done.stdout == "well\n"


@pytest.mark.parametrize(
    ("call", "line"), [("q.put(2)", "putting"), ("q.put(2, timeout=60)", "putting"), ("q.join()", "joining")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_ends_put_and_join(kind: str, call: str, line: str) -> None:
    done = rig.script(
        f"""
        import os, signal, threading, time
        from ropewalk import queue

        q = queue.{kind}(1)
        q.put(1)
        def kill():
            while not q.statistics().{line}:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=kill, daemon=True).start()
        try:
            {call}
        except KeyboardInterrupt:
            assert not q.statistics().{line}
            assert (q.get(), q.qsize(), q.unfinished_tasks) == (1, 0, 1)
            assert not q.mutex.locked()
            print("well")
        """
    )
    assert done.stdout == "well\n"


def test_ctrl_c_ends_the_wait_for_the_mutex() -> None:
    done = rig.script(
        """
        import os, signal, threading, time
        from ropewalk import queue

        q = queue.Queue()
        q.mutex.acquire()
        def kill():
            while not q.mutex.statistics().waiters:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=kill, daemon=True).start()
        try:
            q.put(1)
        except KeyboardInterrupt:
            q.mutex.release()
            assert q.qsize() == 0
            q.put(1)
            assert q.get() == 1
            print("well")
        """
    )
    assert done.stdout == "well\n"


def test_a_signal_handler_puts_what_is_waited_for(make: Any) -> None:
    """The handler runs in the thread that waits; the other way round it would never come."""
    q = make()
    old = signal.signal(signal.SIGALRM, lambda *_: q.put(7))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert q.get() == 7
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert q.get(timeout=rig.PATIENCE) == 7
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_a_storm_of_signals_that_put_loses_nothing(make: Any) -> None:
    """A handler that comes in the middle of put and get, again and again."""
    q = make()
    numbers = itertools.count()
    put: list[int] = []

    def handler(*_: Any) -> None:
        number = next(numbers)
        put.append(number)
        q.put(number)

    got: list[int] = []
    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        for _ in range(20_000):
            handler()
            got.append(q.get())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    while not q.empty():
        got.append(q.get())
    assert sorted(got) == sorted(put)


# Consumers that die -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maxsize", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_cancelled_and_late_consumers_lose_nothing(kind: str, maxsize: int) -> None:
    """Producers and consumers of every kind; tasks are cancelled at random, threads give up and come back."""
    q = getattr(queue, kind)(maxsize)
    each, stop = 400, 10**9
    numbers = itertools.count()
    put: list[int] = []
    got: list[int] = []

    def produce(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(each):
            number = next(numbers)
            while True:
                try:
                    q.put(number, timeout=rng.choice([0, 0.0001, 0.001, None]))
                except queue.Full:
                    continue
                put.append(number)
                break

    def consume(seed: int) -> None:
        rng = random.Random(seed)
        while True:
            try:
                item = q.get(timeout=rng.choice([0, 0.00001, 0.0001, 0.001]))
            except queue.Empty:
                continue
            if item >= stop:
                return
            got.append(item)

    async def get_one() -> None:
        item = await q.get_async()
        if item >= stop:
            await q.put_async(item)  # for somebody who ends by it
            await asyncio.sleep(1)
        got.append(item)

    async def put_one() -> None:
        number = next(numbers)
        await q.put_async(number)
        put.append(number)

    async def kill(seed: int, ended: threading.Event) -> None:
        """Starts many who get and put, and cancels some of them at any time."""
        rng = random.Random(seed)
        while not ended.is_set():
            tasks = [asyncio.create_task(rng.choice([get_one, put_one])()) for _ in range(6)]
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(rng.choice([0, 0, 0.0001]))
            for task in tasks:
                if rng.random() < 0.7:
                    task.cancel()
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def in_loop(factory: Any, seed: int, ended: threading.Event) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(kill(seed, ended))

    ended = threading.Event()
    factories: list[Any] = [parameter.values[0] for parameter in rig.LOOPS]
    loops = [start(in_loop, factory, seed, ended) for seed, factory in enumerate(factories)]
    producers = [start(produce, seed) for seed in range(2)]
    consumers = [start(consume, seed) for seed in range(2)]
    join(*producers)
    ended.set()
    join(*loops)
    for _ in consumers:
        q.put(stop)
    join(*consumers)
    rest = list(q.queue)
    assert sorted(got + [item for item in rest if item < stop]) == sorted(put)
    assert q.statistics()[4:] == ((), (), ())


@pytest.mark.parametrize("kind", EVERY)
def test_many_cancelled_waiters_leave_one_who_is_served(our_loop: Any, kind: str) -> None:
    q = getattr(queue, kind)()

    async def main() -> None:
        tasks = [asyncio.create_task(q.get_async()) for _ in range(200)]
        await rig.until(lambda: len(q.statistics().getting) == 200)
        for number in range(100):
            q.put(number)
        for task in tasks[:100]:  # all of them were called
            task.cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks[100:]), rig.PATIENCE)
        assert sorted(results) == list(range(100))
        assert q.statistics().getting == ()

    rig.run(our_loop, main())


# Loops that close ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("factory", rig.LOOPS)
def test_a_loop_that_is_closed_with_waiters_holds_nobody_up(kind: str, factory: Any) -> None:
    q = getattr(queue, kind)()
    loop = factory()
    loop.set_exception_handler(lambda *_: None)
    tasks = [loop.create_task(q.get_async()) for _ in range(3)]
    loop.run_until_complete(rig.until(lambda: len(q.statistics().getting) == 3))
    loop.close()
    got: list[int] = []
    thread = start(lambda: got.append(q.get(timeout=rig.PATIENCE)))
    getters(q, 4)
    q.put(1)
    join(thread)
    assert got == [1]
    for task in tasks:
        task._log_destroy_pending = False


# Threads that die ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_thread_that_dies_in_with_mutex_lets_others_on(kind: str) -> None:
    q = getattr(queue, kind)()

    def die() -> None:
        with contextlib.suppress(ZeroDivisionError), q.mutex:
            raise ZeroDivisionError

    join(start(die))
    q.put(1)
    assert q.get() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutex_whose_holder_is_gone_says_so_and_can_be_let_go(kind: str) -> None:
    q = getattr(queue, kind)()
    join(start(q.mutex.acquire))
    thread = start(q.put, 1)
    rig.until_sync(lambda: q.mutex.statistics().waiters, "somebody waits")
    assert q.mutex.statistics().locked
    q.mutex.release()
    join(thread)
    assert q.get() == 1


# Forks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVERY)
def test_a_forked_child_has_no_waiters_and_a_queue_that_works(kind: str) -> None:
    done = rig.script(
        f"""
        import os, threading, time, warnings
        from ropewalk import queue
        warnings.simplefilter("ignore")

        q = queue.{kind}()
        for _ in range(3):
            threading.Thread(target=q.get, daemon=True).start()
        while len(q.statistics().getting) < 3:
            time.sleep(0.001)
        pid = os.fork()
        if not pid:
            q.put(1)
            assert q.get(timeout=10) == 1
            thread = threading.Thread(target=lambda: q.put(q.get() + 1))
            thread.start()
            while len(q.statistics().getting) != 1:
                time.sleep(0.001)
            q.put(2)
            thread.join()
            assert q.get() == 3
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        for number in range(3):
            q.put(number)
        while q.statistics().getting:
            time.sleep(0.001)
        print("well")
        """,
    )
    assert done.stdout == "well\n"


# The end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVERY)
def test_the_interpreter_ends_with_daemon_threads_in_get(kind: str) -> None:
    rig.script(
        f"""
        import threading, time
        from ropewalk import queue

        q = queue.{kind}()
        for timeout in (None, 60, None):
            threading.Thread(target=q.get, args=(True, timeout), daemon=True).start()
        while len(q.statistics().getting) < 3:
            time.sleep(0.001)
        class AtExit:
            def __del__(self):
                q.put(1)
        late = AtExit()
        """
    )


@pytest.mark.parametrize("kind", EVERY)
def test_a_task_that_waits_at_the_end_of_its_loop_is_cancelled(kind: str) -> None:
    done = rig.script(
        f"""
        import asyncio
        import ropewalk
        from ropewalk import queue

        q = queue.{kind}()
        async def main():
            asyncio.create_task(q.get_async())
            await asyncio.sleep(0.01)
            assert q.statistics().getting
        ropewalk.run(main())
        assert not q.statistics().getting
        q.put(1)
        assert q.get() == 1
        print("well")
        """
    )
    assert done.stdout == "well\n"
    assert not done.stderr


# Garbage ------------------------------------------------------------------------------------------------------


def test_a_queue_whose_items_refer_to_it_is_collected(make: Any) -> None:
    class Item:
        def __init__(self, q: Any) -> None:
            self.q = q

        def __lt__(self, other: Any) -> bool:
            return False

    q = make()
    for _ in range(3):
        q.put(Item(q))
    if hasattr(q, "not_empty"):
        assert q.not_empty, q.all_tasks_done
    seen = weakref.ref(q)
    del q
    gc.collect()
    assert seen() is None


def test_a_task_that_waits_for_ever_is_collected_with_its_queue(make: Any) -> None:
    """Nobody else refers to the queue, so nobody will ever put."""

    async def main() -> weakref.ref[Any]:
        q = make()

        async def wait(q: Any) -> None:
            await q.get_async()

        task = asyncio.create_task(wait(q))
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        await rig.until(lambda: q.statistics().getting)
        return weakref.ref(q)

    loop = asyncio.SelectorEventLoop()
    try:
        seen = loop.run_until_complete(main())
        gc.collect()
        assert seen() is None
    finally:
        loop.close()


def test_items_that_use_the_queue_when_they_die(make: Any) -> None:
    """Their `__del__` runs wherever their last reference goes, also in the middle of a call."""
    died: list[int] = []

    class Item:
        def __init__(self, number: int) -> None:
            self.number = number
            self.itself = self

        def __lt__(self, other: Any) -> bool:
            return self.number < other.number

        def __del__(self) -> None:
            died.append(q.qsize())

    q = make()
    for number in range(300):
        q.put(Item(number))
        if number % 3 == 0:
            q.get()
    while not q.empty():
        q.get()
    gc.collect()
    assert len(died) == 300
    if hasattr(q, "shutdown"):
        q.put(Item(1))
        q.shutdown(immediate=True)
        gc.collect()
        assert len(died) == 301


def test_a_queue_that_dies_drops_its_items_when_it_cannot_be_reached(make: Any) -> None:
    seen: list[str] = []

    class Item:
        def __del__(self) -> None:
            seen.append("died")

        def __lt__(self, other: Any) -> bool:
            return False

    q = make()
    q.put(Item())
    q.put(Item())
    del q
    gc.collect()
    assert seen == ["died", "died"]


# Many -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maxsize", [0, 1, 5])
def test_a_hammer_of_threads(make: Any, maxsize: int) -> None:
    q = make(maxsize) if make is not queue.SimpleQueue else make()
    each, stop = 3000, 10**9
    numbers = itertools.count()
    lists: list[list[int]] = [[] for _ in range(4)]

    def produce() -> None:
        for _ in range(each):
            q.put(next(numbers))

    def consume(got: list[int]) -> None:
        while (item := q.get()) < stop:
            got.append(item)

    consumers = [start(consume, got) for got in lists]
    join(*[start(produce) for _ in range(4)])
    rig.until_sync(q.empty)  # a LifoQueue would give the ends first
    for _ in consumers:
        q.put(stop)
    join(*consumers)
    assert sorted(itertools.chain(*lists)) == list(range(4 * each))


@pytest.mark.parametrize("kind", KINDS)
def test_others_clear_the_queue_while_it_is_used(kind: str) -> None:
    """What is taken by get, thrown away under the mutex, and left, is what was put."""
    q = getattr(queue, kind)()
    each = 3000
    got: list[int] = []
    cleared: list[int] = []
    ended = threading.Event()

    def clear() -> None:
        while not ended.is_set():
            with q.mutex:
                cleared.extend(q.queue)
                q.queue.clear()

    def consume() -> None:
        while not ended.is_set():
            try:
                got.append(q.get(timeout=0.001))
            except queue.Empty:
                pass

    threads = [start(clear), start(consume), start(consume)]
    for number in range(each):
        q.put(number)
    ended.set()
    join(*threads)
    assert sorted(got + cleared + list(q.queue)) == list(range(each))


def test_a_shutdown_in_the_middle_of_everything(make: Any) -> None:
    if make is queue.SimpleQueue:
        pytest.skip("the original has none")
    for seed in range(20):
        q = make(2)
        ends: list[str] = []

        def use(call: Any, q: Any = q, ends: list[str] = ends) -> None:
            try:
                while True:
                    call()
            except queue.ShutDown:
                ends.append("shut down")

        threads = [start(use, lambda q=q: q.put(1)) for _ in range(3)]
        threads += [start(use, q.get) for _ in range(3)]
        q.shutdown(immediate=seed % 2 == 0)
        join(*threads)
        assert ends == ["shut down"] * 6
