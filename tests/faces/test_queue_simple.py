"""`ropewalk.queue.SimpleQueue`: the C original's behaviour, and tasks that wait on it too."""

from __future__ import annotations

import asyncio
import gc
import itertools
import queue as original
import signal
import threading
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import rig
from ropewalk import queue as ours

BOTH = [pytest.param(original, id="stdlib"), pytest.param(ours, id="ropewalk")]


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error).__name__, str(error)


CALLS: list[Callable[[Any], Any]] = [
    lambda q: q.get(block=False),
    lambda q: q.get(False),
    lambda q: q.get(False, -1),
    lambda q: q.get(False, "never looked at"),
    lambda q: q.get(timeout=0),
    lambda q: q.get(timeout=0.001),
    lambda q: q.get(True, 0.001),
    lambda q: q.get(timeout=-1),
    lambda q: q.get(timeout=-1e-9),
    lambda q: q.get(timeout=float("nan")),
    lambda q: q.get(timeout=float("inf")),
    lambda q: q.get(timeout=1e20),
    lambda q: q.get(timeout=2**200),
    lambda q: q.get(timeout="1"),
    lambda q: q.get(timeout=[]),
    lambda q: q.get(1, 2, 3),
    lambda q: q.get(wait=3),
    lambda q: q.get_nowait(),
    lambda q: q.get_nowait(1),
    lambda q: q.put(),
    lambda q: q.put(1, 2, 3, 4),
    lambda q: q.put(1, True, "ignored"),
    lambda q: q.put(1, block=False, timeout=-1),
    lambda q: q.put(item=1),
    lambda q: q.put_nowait(1),
    lambda q: q.put_nowait(item=1),
    lambda q: (q.put(1), q.get(timeout="no number"))[1],
    lambda q: (q.put(1), q.get(timeout=-1))[1],
    lambda q: (q.put(1), q.put(2), q.qsize(), q.empty(), q.get(), q.get(True, 5), q.qsize(), q.empty()),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
def test_calls_come_to_the_same(call: Callable[[Any], Any]) -> None:
    assert outcome(lambda: call(ours.SimpleQueue())) == outcome(lambda: call(original.SimpleQueue()))


WRONG: list[Callable[[Any], Any]] = [
    lambda c: c(1),
    lambda c: c(size=1),
    lambda c: c().put_nowait(),
    lambda c: c().put_nowait(1, 2),
    lambda c: c().put(1, item=2),
    lambda c: setattr(c(), "x", 1),
]


@pytest.mark.parametrize("call", WRONG, ids=range(len(WRONG)))
def test_what_the_original_refuses_is_refused(call: Callable[[Any], Any]) -> None:
    expected, found = outcome(lambda: call(original.SimpleQueue)), outcome(lambda: call(ours.SimpleQueue))
    assert found[0] == expected[0]


@pytest.mark.parametrize("module", BOTH)
def test_a_subclass_may_take_what_it_likes(module: ModuleType) -> None:
    class Named(module.SimpleQueue):  # type: ignore[misc, name-defined]
        def __init__(self, name: str) -> None:
            self.name = name

    q = Named("n")
    q.put(1)
    assert (q.name, q.get()) == ("n", 1)
    assert weakref.ref(q)() is q


@pytest.mark.parametrize("module", BOTH)
def test_an_item_that_was_taken_is_let_go(module: ModuleType) -> None:
    class Item:
        pass

    q = module.SimpleQueue()
    for _ in range(20):
        q.put(Item())
    for _ in range(20):
        seen = weakref.ref(q.get())
        gc.collect()
        assert seen() is None


@pytest.mark.parametrize("module", BOTH)
def test_a_queue_in_itself_is_collected(module: ModuleType) -> None:
    q = module.SimpleQueue()
    q.put(q)
    seen = weakref.ref(q)
    del q
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("module", BOTH)
def test_put_in_the_middle_of_put_and_get(module: ModuleType) -> None:
    """A `__del__` may run anywhere, and put."""
    q = module.SimpleQueue()
    numbers = itertools.count()

    class Circle:
        def __init__(self) -> None:
            self.circle = self

        def __del__(self) -> None:
            q.put(next(numbers))

    results: list[int] = []
    while not results or results[-1] < 3000:
        Circle()
        q.put(next(numbers))
        results.append(q.get())
    assert results == list(range(len(results)))


@pytest.mark.parametrize("module", BOTH)
def test_a_handler_of_a_signal_puts_what_the_thread_waits_for(module: ModuleType) -> None:
    q = module.SimpleQueue()
    old = signal.signal(signal.SIGALRM, lambda *_: q.put("from the handler"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert q.get(timeout=rig.PATIENCE) == "from the handler"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("module", BOTH)
@pytest.mark.parametrize("timeout", [None, 0.0001, rig.PATIENCE])
def test_everything_arrives_once_and_in_order(module: ModuleType, timeout: float | None) -> None:
    q = module.SimpleQueue()
    producers, each = 4, 2000
    lists: list[list[tuple[int, int]]] = [[] for _ in range(producers)]

    def produce(number: int) -> None:
        for count in range(each):
            q.put((number, count))

    def consume(got: list[tuple[int, int]]) -> None:
        while True:
            try:
                item = q.get(timeout=timeout)
            except module.Empty:
                continue
            if item is None:
                return
            got.append(item)

    consumers = [threading.Thread(target=consume, args=(got,)) for got in lists]
    threads = [threading.Thread(target=produce, args=(number,)) for number in range(producers)]
    for thread in consumers + threads:
        thread.start()
    for thread in threads:
        thread.join(rig.PATIENCE)
    for _ in consumers:
        q.put(None)
    for thread in consumers:
        thread.join(rig.PATIENCE)
    assert sorted(itertools.chain(*lists)) == [(p, c) for p in range(producers) for c in range(each)]
    for got in lists:
        for number in range(producers):
            own = [count for producer, count in got if producer == number]
            assert own == sorted(own)


# Tasks --------------------------------------------------------------------------------------------------------


def test_a_task_gets_what_a_thread_puts(loop: Any) -> None:
    q = ours.SimpleQueue[int]()

    async def main() -> None:
        task = asyncio.create_task(q.get_async())
        await rig.until(lambda: q.statistics().getting)
        assert q.statistics().getting == (task,)
        thread = threading.Thread(target=q.put, args=(5,))
        thread.start()
        assert await task == 5
        thread.join()
        q.put(6)
        assert await q.get_async(timeout=3) == 6
        assert q.statistics() == (0, ())

    rig.run(loop, main())


def test_a_tasks_arguments_are_judged_like_a_threads(loop: Any) -> None:
    q = ours.SimpleQueue[Any]()
    for arguments in [
        {"block": False},
        {"timeout": 0},
        {"timeout": 0.001},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": 1e20},
        {"timeout": "1"},
        {"block": False, "timeout": "1"},
    ]:

        async def get(arguments: Any = arguments) -> Any:
            return await q.get_async(**arguments)

        assert outcome(lambda: rig.run(loop, get())) == outcome(lambda: q.get(**arguments))  # noqa: B023


def test_a_cancelled_task_takes_nothing(loop: Any) -> None:
    q = ours.SimpleQueue[int]()

    async def main() -> None:
        first, second = (asyncio.create_task(q.get_async()) for _ in range(2))
        await rig.until(lambda: len(q.statistics().getting) == 2)
        q.put(1)  # woken, and cancelled before it runs
        first.cancel()
        assert await second == 1
        assert first.cancelled() or await asyncio.gather(first, return_exceptions=True)
        assert q.statistics() == (0, ())

    rig.run(loop, main())
