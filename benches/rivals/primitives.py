"""Locks, queues and thread pools, each row in a process of its own.

Run by the harness with a kit and a row. Each line on standard input asks for a number of operations; the answer is the
CPU time and the wall-clock time that they took, of all threads that take part.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import sys
import time
import traceback
from _thread import allocate_lock, start_new_thread
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import kits
from child import cpu_ns, say, stay_on
from kits import Kit

Operations = Callable[[int], object]
Setup = Callable[[Kit], Iterator[Operations]]

LOCKS = ("stdlib", "aiologic", kits.OURS)
QUEUES = ("stdlib", "aiologic", "culsans", kits.OURS)
POOLS = ("stdlib", kits.OURS)


@dataclass(frozen=True)
class Row:
    """One row: what sets it up, and what it needs."""

    setup: Callable[[Kit], AbstractContextManager[Operations]]
    # Who has what it measures.
    who: tuple[str, ...]
    # The fewest operations that make a meaningful window.
    least: int
    # Whether threads take part, which then get both cores.
    threads: bool
    # What is told: "cpu" or "wall" nanoseconds an operation, or "bytes" an operation.
    unit: str


ROWS: dict[str, Row] = {}


def row(
    name: str, who: tuple[str, ...], *, least: int = 1000, threads: bool = False, unit: str = "cpu"
) -> Callable[[Setup], None]:
    """Register a generator that sets up, yields the operations, and tears down."""

    def register(generator: Setup) -> None:
        ROWS[name] = Row(contextlib.contextmanager(generator), who, least, threads, unit)

    return register


@contextlib.contextmanager
def crew(*works: Callable[[int], object]) -> Iterator[Operations]:
    """Threads that stay; all do their part of the operations at once, however the contender's own threads are made."""
    gates = [allocate_lock() for _ in works]
    done = [allocate_lock() for _ in works]
    shares = [0] * len(works)
    for lock in (*gates, *done):
        lock.acquire()

    def member(number: int) -> None:
        while True:
            gates[number].acquire()
            if shares[number] < 0:
                return
            try:
                works[number](shares[number])
            except BaseException:
                traceback.print_exc()  # the harness reads the last line
                os._exit(1)
            done[number].release()

    for number in range(len(works)):
        start_new_thread(member, (number,))

    def run(count: int) -> None:
        shares[:] = [max(1, count // len(works))] * len(works)
        for gate in gates:
            gate.release()
        for lock in done:
            lock.acquire()

    yield run
    shares[:] = [-1] * len(works)
    for gate in gates:
        gate.release()


def nothing() -> None:
    pass


# --- threading -------------------------------------------------------------------------------------------


def uncontended(name: str, *given: Any) -> Setup:
    def setup(kit: Kit) -> Iterator[Operations]:
        acquire, release = kit.lock(name, *given)

        def run(count: int) -> None:
            for _ in itertools.repeat(None, count):
                acquire()
                release()

        yield run

    return setup


def within(name: str, *given: Any) -> Setup:
    def setup(kit: Kit) -> Iterator[Operations]:
        made = kit.make(name, *given)

        def run(count: int) -> None:
            for _ in itertools.repeat(None, count):
                with made:
                    pass

        yield run

    return setup


def contended(name: str, *given: Any) -> Setup:
    """Four threads; inside, a little work, so that others come meanwhile."""

    def setup(kit: Kit) -> Iterator[Operations]:
        acquire, release = kit.lock(name, *given)

        def work(count: int) -> None:
            for _ in itertools.repeat(None, count):
                acquire()
                sum(range(20))
                release()

        with crew(*[work] * 4) as run:
            yield run

    return setup


for _name, _class, _given in (
    ("lock", "Lock", ()),
    ("rlock", "RLock", ()),
    ("semaphore", "Semaphore", (2,)),
    ("bounded_semaphore", "BoundedSemaphore", (2,)),
):
    row(_name, LOCKS)(uncontended(_class, *_given))
    row(f"{_name}.with", LOCKS)(within(_class, *_given))
    row(f"{_name}.x4", LOCKS, threads=True)(contended(_class, *_given))


@row("rlock.nested", LOCKS)
def rlock_nested(kit: Kit) -> Iterator[Operations]:
    acquire, release = kit.lock("RLock")

    def run(count: int) -> None:
        acquire()
        for _ in itertools.repeat(None, count):
            acquire()
            release()
        release()

    yield run


row("condition.with", LOCKS)(within("Condition"))


@row("condition.notify", LOCKS)
def condition_notify(kit: Kit) -> Iterator[Operations]:
    condition = kit.make("Condition")

    def run(count: int) -> None:
        for _ in itertools.repeat(None, count):
            with condition:
                condition.notify()

    yield run


@row("condition.pingpong", LOCKS, least=100, threads=True)
def condition_pingpong(kit: Kit) -> Iterator[Operations]:
    condition = kit.make("Condition")
    turn = 0

    def player(mine: int) -> Callable[[int], None]:
        def play(count: int) -> None:
            nonlocal turn
            for _ in itertools.repeat(None, count):
                with condition:
                    while turn != mine:
                        condition.wait()
                    turn = 1 - mine
                    condition.notify()

        return play

    with crew(player(0), player(1)) as run:
        yield run


@row("event.is_set", LOCKS)
def event_is_set(kit: Kit) -> Iterator[Operations]:
    is_set = kit.make("Event").is_set

    def run(count: int) -> None:
        for _ in itertools.repeat(None, count):
            is_set()

    yield run


@row("event.set_clear", ("stdlib", kits.OURS))  # aiologic's cannot be cleared
def event_set_clear(kit: Kit) -> Iterator[Operations]:
    event = kit.make("Event")
    put, clear = event.set, event.clear

    def run(count: int) -> None:
        for _ in itertools.repeat(None, count):
            put()
            clear()

    yield run


@row("event.wait.set", LOCKS)
def event_wait_set(kit: Kit) -> Iterator[Operations]:
    event = kit.make("Event")
    event.set()
    wait = event.wait

    def run(count: int) -> None:
        for _ in itertools.repeat(None, count):
            wait()

    yield run


@row("event.pingpong", ("stdlib", kits.OURS), least=100, threads=True)
def event_pingpong(kit: Kit) -> Iterator[Operations]:
    there, back = kit.make("Event"), kit.make("Event")

    def player(hear: Any, tell: Any, first: bool) -> Callable[[int], None]:
        def play(count: int) -> None:
            for _ in itertools.repeat(None, count):
                if first:
                    tell.set()
                hear.wait()
                hear.clear()
                if not first:
                    tell.set()

        return play

    with crew(player(back, there, True), player(there, back, False)) as run:
        yield run


@row("event.one_shot", LOCKS, least=100, threads=True)
def event_one_shot(kit: Kit) -> Iterator[Operations]:
    """An event for each message, made by the one who waits for it."""
    make = kit.maker("Event")
    handed: deque[Any] = deque()
    ready, taken = allocate_lock(), allocate_lock()
    ready.acquire()

    def wait(count: int) -> None:
        for _ in itertools.repeat(None, count):
            event = make()
            handed.append(event)
            ready.release()
            event.wait()
            taken.acquire()

    def tell(count: int) -> None:
        for _ in itertools.repeat(None, count):
            ready.acquire()
            handed.popleft().set()
            taken.release()

    taken.acquire()
    with crew(wait, tell) as run:
        yield run


def barrier(parties: int) -> Setup:
    def setup(kit: Kit) -> Iterator[Operations]:
        wait = kit.make("Barrier", parties).wait

        def meet(count: int) -> None:
            for _ in itertools.repeat(None, count):
                wait()

        with crew(*[meet] * parties) as run:
            yield run

    return setup


row("barrier.x2", LOCKS, least=100, threads=True)(barrier(2))
row("barrier.x4", LOCKS, least=100, threads=True)(barrier(4))


@row("timer.cancel", POOLS, least=20, threads=True)
def timer_cancel(kit: Kit) -> Iterator[Operations]:
    make = kit.maker("Timer")

    def run(count: int) -> None:
        for _ in itertools.repeat(None, count):
            timer = make(60, nothing)
            timer.start()
            timer.cancel()
            timer.join()

    yield run


@row("thread", POOLS, least=20, threads=True)
def thread(kit: Kit) -> Iterator[Operations]:
    make = kit.maker("Thread")

    def run(count: int) -> None:
        for _ in itertools.repeat(None, count):
            made = make(target=nothing)
            made.start()
            made.join()

    yield run


@row("local", POOLS)
def local(kit: Kit) -> Iterator[Operations]:
    place = kit.make("local")
    place.value = 0

    def run(count: int) -> None:
        for number in range(count):
            place.value = number
            _ = place.value

    yield run


def created(name: str, *given: Any) -> Setup:
    def setup(kit: Kit) -> Iterator[Operations]:
        make = kit.maker(name)

        def run(count: int) -> None:
            for _ in itertools.repeat(None, count):
                make(*given)

        yield run

    return setup


for _class, _given, _who in (
    ("Lock", (), LOCKS),
    ("RLock", (), LOCKS),
    ("Condition", (), LOCKS),
    ("Semaphore", (), LOCKS),
    ("BoundedSemaphore", (), LOCKS),
    ("Event", (), LOCKS),
    ("Barrier", (2,), LOCKS),
    ("Timer", (60, nothing), POOLS),
    ("Thread", (None, nothing), POOLS),
    ("local", (), POOLS),
    ("Queue", (), QUEUES),
    ("SimpleQueue", (), LOCKS),
):
    row(f"create.{_class}", _who)(created(_class, *_given))


# --- queue -----------------------------------------------------------------------------------------------


def one_thread(name: str, *given: Any) -> Setup:
    def setup(kit: Kit) -> Iterator[Operations]:
        put, get = kit.queue_ends(name, *given)

        def run(count: int) -> None:
            for _ in itertools.repeat(None, count):
                put(1)
                get()

        yield run

    return setup


def carried(pairs: int, name: str, *given: Any) -> Setup:
    """As many producers as consumers."""

    def setup(kit: Kit) -> Iterator[Operations]:
        put, get = kit.queue_ends(name, *given)

        def produce(count: int) -> None:
            for number in range(count):
                put(number)

        def consume(count: int) -> None:
            for _ in itertools.repeat(None, count):
                get()

        with crew(*[produce] * pairs, *[consume] * pairs) as run:
            yield lambda count: run(2 * count)  # an item needs a producer and a consumer

    return setup


for _class, _name, _who in (
    ("Queue", "queue", QUEUES),
    ("LifoQueue", "lifo", QUEUES),
    ("PriorityQueue", "priority", QUEUES),
    ("SimpleQueue", "simple", LOCKS),
):
    row(f"{_name}.put_get", _who)(one_thread(_class))
    row(f"{_name}.1to1", _who, threads=True)(carried(1, _class))
    row(f"{_name}.4to4", _who, threads=True)(carried(4, _class))
row("queue.bounded.put_get", QUEUES)(one_thread("Queue", 10))
row("queue.bounded.1to1", QUEUES, threads=True)(carried(1, "Queue", 10))
row("queue.bounded.4to4", QUEUES, threads=True)(carried(4, "Queue", 10))


@row("queue.pingpong", QUEUES, least=100, threads=True)
def queue_pingpong(kit: Kit) -> Iterator[Operations]:
    put_there, get_there = kit.queue_ends("Queue")
    put_back, get_back = kit.queue_ends("Queue")

    def ask(count: int) -> None:
        for _ in itertools.repeat(None, count):
            put_there(1)
            get_back()

    def answer(count: int) -> None:
        for _ in itertools.repeat(None, count):
            put_back(get_there())

    with crew(ask, answer) as run:
        yield run


@row("hop", ("stdlib", "aiologic", "culsans", "janus", kits.OURS), least=100, threads=True)
def hop(kit: Kit) -> Iterator[Operations]:
    """A message from a thread to a task, which answers through a SimpleQueue before the next one is sent."""
    import queue

    answered: queue.SimpleQueue[None] = queue.SimpleQueue()
    orders: queue.SimpleQueue[tuple[int, Callable[[Any], Any]] | None] = queue.SimpleQueue()
    ends: dict[str, Any] = {}

    def send() -> None:
        while order := orders.get():
            count, put = order
            for number in range(count):
                put(number)
                answered.get()

    start_new_thread(send, ())
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:

        async def main(count: int) -> None:
            if not ends:
                ends["put"], ends["get"] = kit.to_task(asyncio.get_running_loop())  # type: ignore[attr-defined]
            orders.put((count, ends["put"]))
            for _ in itertools.repeat(None, count):
                await ends["get"]()
                answered.put(None)

        yield lambda count: runner.run(main(count))
        orders.put(None)


@row("flow", ("stdlib", "aiologic", "culsans", "janus", kits.OURS), threads=True)
def flow(kit: Kit) -> Iterator[Operations]:
    """Messages from a thread to a task, as fast as both can."""
    import queue

    orders: queue.SimpleQueue[tuple[int, Callable[[Any], Any]] | None] = queue.SimpleQueue()
    ends: dict[str, Any] = {}

    def send() -> None:
        while order := orders.get():
            count, put = order
            for number in range(count):
                put(number)

    start_new_thread(send, ())
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:

        async def main(count: int) -> None:
            if not ends:
                ends["put"], ends["get"] = kit.to_task(asyncio.get_running_loop())  # type: ignore[attr-defined]
            orders.put((count, ends["put"]))
            for _ in itertools.repeat(None, count):
                await ends["get"]()

        yield lambda count: runner.run(main(count))
        orders.put(None)


@row("lock.shared", ("aiologic", kits.OURS), threads=True)
def lock_shared(kit: Kit) -> Iterator[Operations]:
    """A thread and a task contend for one lock."""
    acquire, release, acquire_async, release_async = kit.shared_lock()  # type: ignore[attr-defined]

    def in_thread(count: int) -> None:
        for _ in itertools.repeat(None, count):
            acquire()
            sum(range(20))
            release()

    async def in_task(count: int) -> None:
        for _ in itertools.repeat(None, count):
            await acquire_async()
            sum(range(20))
            release_async()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        with crew(in_thread, lambda count: runner.run(in_task(count))) as run:
            yield run


# --- concurrent.futures ----------------------------------------------------------------------------------


@row("future", POOLS)
def future(kit: Kit) -> Iterator[Operations]:
    make = kit.futures.Future

    def run(count: int) -> None:
        for _ in itertools.repeat(None, count):
            made = make()
            made.set_result(1)
            made.result()

    yield run


@row("create.Future", POOLS)
def create_future(kit: Kit) -> Iterator[Operations]:
    make = kit.futures.Future

    def run(count: int) -> None:
        for _ in itertools.repeat(None, count):
            make()

    yield run


@row("pool.create", POOLS, least=10, threads=True)
def pool_create(kit: Kit) -> Iterator[Operations]:
    def run(count: int) -> None:
        for _ in itertools.repeat(None, count):
            with kit.futures.ThreadPoolExecutor(1) as pool:
                pool.submit(nothing).result()

    yield run


def pooled(use: Callable[[Kit, Any, int], object], workers: int = 4) -> Setup:
    """A row on a pool that stays."""

    def setup(kit: Kit) -> Iterator[Operations]:
        with kit.futures.ThreadPoolExecutor(workers) as pool:
            yield lambda count: use(kit, pool, count)

    return setup


def bulk(kit: Kit, pool: Any, count: int) -> None:
    submit = pool.submit
    for made in [submit(nothing) for _ in range(count)]:
        made.result()


def round_trip(kit: Kit, pool: Any, count: int) -> None:
    for _ in itertools.repeat(None, count):
        pool.submit(nothing).result()


def as_completed(kit: Kit, pool: Any, count: int) -> None:
    for made in kit.futures.as_completed([pool.submit(nothing) for _ in range(count)]):
        made.result()


def wait(kit: Kit, pool: Any, count: int) -> None:
    kit.futures.wait([pool.submit(nothing) for _ in range(count)])


row("pool.bulk", POOLS, threads=True)(pooled(bulk))
row("pool.bulk.x1", POOLS, threads=True)(pooled(bulk, 1))
row("pool.round_trip", POOLS, least=100, threads=True)(pooled(round_trip))
row("pool.map", POOLS, threads=True)(pooled(lambda kit, pool, count: deque(pool.map(abs, range(count)), 0)))
row("pool.as_completed", POOLS, threads=True)(pooled(as_completed))
row("pool.wait", POOLS, threads=True)(pooled(wait))


@row("pool.run_in_executor", POOLS, least=100, threads=True)
def run_in_executor(kit: Kit) -> Iterator[Operations]:
    with kit.futures.ThreadPoolExecutor(4) as pool, asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:

        async def main(count: int) -> None:
            loop = asyncio.get_running_loop()
            for _ in itertools.repeat(None, count):
                await loop.run_in_executor(pool, nothing)

        yield lambda count: runner.run(main(count))


@row("pool.to_thread", POOLS, least=100, threads=True)
def to_thread(kit: Kit) -> Iterator[Operations]:
    pool = kit.futures.ThreadPoolExecutor(4)  # the loop's own, which its end shuts down
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:

        async def main(count: int) -> None:
            asyncio.get_running_loop().set_default_executor(pool)
            for _ in itertools.repeat(None, count):
                await asyncio.to_thread(nothing)

        yield lambda count: runner.run(main(count))


@row("memory.future", POOLS, unit="bytes")
def memory_future(kit: Kit) -> Iterator[Operations]:
    """Bytes of the process for a task that waits in a pool, with its future."""
    make = kit.futures.ThreadPoolExecutor

    def measure(count: int) -> int:
        gate = allocate_lock()
        gate.acquire()
        pool = make(1)
        pool.submit(gate.acquire)
        pool.submit(nothing)
        kept: list[Any] = [None] * count
        before = resident()
        for number in range(count):
            kept[number] = pool.submit(nothing)
        return resident() - before

    def run(count: int) -> dict[str, int]:
        # In a child each time: memory that a process has taken once it has.
        reading, writing = os.pipe()
        if not (child := os.fork()):
            os.write(writing, str(measure(count)).encode())
            os._exit(0)
        os.close(writing)
        taken = int(os.read(reading, 100))
        os.close(reading)
        os.waitpid(child, 0)
        return {"bytes": taken}

    yield run


def resident() -> int:
    """Bytes of memory that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


# --- Many cores ------------------------------------------------------------------------------------------


def crunch(_: object) -> int:
    """About half a millisecond of Python."""
    total = 0
    for number in range(10_000):
        total += number
    return total


@row("cores.1", POOLS, least=10, threads=True, unit="wall")
def cores_1(kit: Kit) -> Iterator[Operations]:
    """The work of `cores.4` without a pool: what free threads should halve on two cores."""

    def run(count: int) -> None:
        for number in range(count):
            crunch(number)

    yield run


row("cores.4", POOLS, least=10, threads=True, unit="wall")(
    pooled(lambda kit, pool, count: deque(pool.map(crunch, range(count)), 0))
)


def serve(kit: Kit, name: str) -> None:
    with ROWS[name].setup(kit) as run:
        run(ROWS[name].least)  # a contender that cannot do this says so now
        say({"ready": True})
        for line in sys.stdin:
            wall, cpu = time.perf_counter_ns(), cpu_ns()
            found = run(int(line))
            answer: dict[str, object] = {"cpu": cpu_ns() - cpu, "wall": time.perf_counter_ns() - wall}
            say({**answer, **found} if isinstance(found, dict) else answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kit", required=True, choices=kits.KITS)
    parser.add_argument("--row", required=True, choices=ROWS)
    parser.add_argument("--cores", required=True)
    options = parser.parse_args()
    stay_on(options.cores)
    try:
        serve(kits.KITS[options.kit](), options.row)
    except BaseException as error:
        say({"error": type(error).__name__})
        raise
    # Not through the end of the interpreter: the members of a crew may wait in what is measured.
    os._exit(0)


if __name__ == "__main__":
    main()
