"""`ropewalk.queue` in threads: what the standard library's classes do is what is expected, by playing on both."""

from __future__ import annotations

import copy
import inspect
import pickle
import queue as original
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import ModuleType
from typing import Any

import pytest
import rig
from ropewalk import queue as ours

KINDS = ["Queue", "LifoQueue", "PriorityQueue"]
BOTH = [pytest.param(original, id="stdlib"), pytest.param(ours, id="ropewalk")]
HAS_SHUTDOWN = hasattr(original, "ShutDown")


def outcome(call: Callable[[], Any]) -> Any:
    """What a call comes to, comparable between the two modules."""
    try:
        return call()
    except Exception as error:
        return type(error).__name__, str(error)


def same(call: Callable[[ModuleType], Any]) -> Any:
    """What the call comes to with the original and, alike, with ours."""
    expected = outcome(lambda: call(original))
    assert outcome(lambda: call(ours)) == expected
    return expected


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def in_thread(target: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A thread, and the list to which it adds what the call came to."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(outcome(target)), daemon=True)
    thread.start()
    return thread, results


def ended(thread: threading.Thread, results: list[Any]) -> Any:
    thread.join(rig.PATIENCE)
    assert not thread.is_alive()
    (result,) = results
    return result


def waiting(q: Any, getting: int = 0, putting: int = 0, joining: int = 0) -> None:
    """Wait until that many wait."""

    def counts() -> tuple[int, int, int]:
        found = q.statistics()
        return len(found.getting), len(found.putting), len(found.joining)

    rig.until_sync(lambda: counts() == (getting, putting, joining), "waiters")


# The module ---------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_running_version() -> None:
    assert ours.__all__ == original.__all__
    for name in ours.__all__:
        assert hasattr(ours, name)
    assert ours.Empty is original.Empty
    assert ours.Full is original.Full
    assert issubclass(ours.ShutDown, Exception)
    if HAS_SHUTDOWN:
        assert ours.ShutDown is original.ShutDown


@pytest.mark.parametrize("name", [*KINDS, "SimpleQueue"])
def test_methods_have_the_originals_signatures(name: str) -> None:
    theirs, mine = getattr(original, name), getattr(ours, name)
    for attribute in dir(theirs):
        if attribute.startswith("_") or not callable(getattr(theirs, attribute)):
            continue
        assert getattr(mine, attribute).__doc__, attribute
        expected = inspect.signature(getattr(theirs, attribute))
        found = inspect.signature(getattr(mine, attribute))
        assert [p.name for p in expected.parameters.values()] == [p.name for p in found.parameters.values()], attribute
        assert [p.default for p in expected.parameters.values()] == [p.default for p in found.parameters.values()]
    for attribute in ["put", "get"] if name == "SimpleQueue" else ["put", "get", "join"]:
        twin = getattr(mine, f"{attribute}_async", None)
        if twin is not None:
            assert inspect.signature(twin) == inspect.signature(getattr(mine, attribute))


@pytest.mark.parametrize("name", [*KINDS, "SimpleQueue"])
def test_classes_look_like_the_originals(name: str) -> None:
    mine = getattr(ours, name)
    assert mine.__name__ == mine.__qualname__ == name
    assert mine.__module__ == "ropewalk.queue"
    assert mine.__doc__
    assert repr(mine[int]) == f"ropewalk.queue.{name}[int]"
    assert repr(mine()).startswith(f"<ropewalk.queue.{name} object at 0x")
    assert issubclass(ours.LifoQueue, ours.Queue)
    assert issubclass(ours.PriorityQueue, ours.Queue)


@pytest.mark.parametrize("name", [*KINDS, "SimpleQueue"])
@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, pickle.dumps, lambda q: pickle.dumps(q, 0)])
def test_a_queue_cannot_be_copied_or_pickled(name: str, copier: Any) -> None:
    q = getattr(ours, name)()
    q.put(1)
    with pytest.raises(TypeError):
        copier(q)


# Against the original -----------------------------------------------------------------------------------------


def script(seed: int) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Random calls none of which waits for long."""
    rng = random.Random(seed)
    calls = ["put", "put_nowait", "get", "get_nowait", "task_done", "qsize", "empty", "full", "maxsize", "look"]
    weights = [6, 4, 4, 4, 3, 1, 1, 1, 0.3, 1]
    if HAS_SHUTDOWN:
        calls, weights = [*calls, "shutdown"], [*weights, 0.1]
    for _ in range(400):
        name = rng.choices(calls, weights)[0]
        waits = rng.choice([{"block": False}, {"timeout": 0}, {"timeout": 0.0005}, {"block": 0, "timeout": -1}])
        if name == "put":
            yield name, (rng.randrange(50),), waits
        elif name == "put_nowait":
            yield name, (rng.randrange(50),), {}
        elif name == "get":
            yield name, (), waits
        elif name == "maxsize":
            yield name, (rng.choice([0, -1, 1, 3, 10, True, float("inf"), 2.5]),), {}
        elif name == "shutdown":
            yield name, (rng.random() < 0.3,), {}
        else:
            yield name, (), {}


def play(module: ModuleType, kind: str, seed: int) -> Iterator[Any]:
    q = getattr(module, kind)(random.Random(seed).choice([0, 1, 2, 5]))
    for name, args, kwargs in script(seed):
        if name == "look":
            with q.mutex:
                yield type(q.queue), list(q.queue), q.unfinished_tasks
        elif name == "maxsize":
            (q.maxsize,) = args
            yield q.maxsize
        else:
            yield name, outcome(lambda: getattr(q, name)(*args, **kwargs))  # noqa: B023
        if HAS_SHUTDOWN:
            yield q.is_shutdown


@pytest.mark.parametrize("seed", range(25))
def test_random_scripts_play_alike(kind: str, seed: int) -> None:
    for step, (expected, found) in enumerate(zip(play(original, kind, seed), play(ours, kind, seed), strict=True)):
        assert found == expected, step


TIMEOUTS = [
    -1,
    -0.0,
    -1e-9,
    -float("inf"),
    "1",
    [],
    b"",
    1j,
    -(10**400),
    False,
    Fraction(1, 1000),
    Fraction(-1, 2),
    0.001,
]


@pytest.mark.parametrize("timeout", TIMEOUTS, ids=str)
def test_timeouts_are_judged_alike(kind: str, timeout: Any) -> None:
    same(lambda m: getattr(m, kind)().get(timeout=timeout))
    same(lambda m: getattr(m, kind)().get(block=False, timeout=timeout))
    same(lambda m: getattr(m, kind)().put(1, timeout=timeout))  # unbounded: nobody looks at it

    def full(m: ModuleType) -> Any:
        q = getattr(m, kind)(1)
        q.put(1)
        return q

    same(lambda m: full(m).put(1, timeout=timeout))
    same(lambda m: full(m).put(1, False, timeout))
    same(lambda m: full(m).get(True, timeout))  # an item is there


@pytest.mark.parametrize("timeout", [1e20, 10**30, float("inf"), 1e300, 10**400], ids=str)
def test_timeouts_that_no_clock_counts_are_judged_alike(kind: str, timeout: Any) -> None:
    same(lambda m: getattr(m, kind)().get(timeout=timeout))

    def put(m: ModuleType) -> Any:
        q = getattr(m, kind)(1)
        q.put(1)
        return q.put(1, timeout=timeout)

    same(put)


def test_a_timeout_that_is_no_number_waits_for_an_item(kind: str) -> None:
    q = getattr(ours, kind)()
    thread, got = in_thread(lambda: q.get(timeout=float("nan")))
    waiting(q, getting=1)
    q.put(7)
    assert ended(thread, got) == 7


CALLS: list[Callable[[Any], Any]] = [
    lambda q: q.put(),
    lambda q: q.put(1, 2, 3, 4),
    lambda q: q.put(1, item=2),
    lambda q: q.put(1, wait=2),
    lambda q: q.put(block=True),
    lambda q: q.get(1, 2, 3),
    lambda q: q.get(True, block=True),
    lambda q: q.get(wait=True),
    lambda q: q.put_nowait(),
    lambda q: q.put_nowait(1, 2),
    lambda q: q.put_nowait(other=1),
    lambda q: q.get_nowait(1),
    lambda q: q.get_nowait(block=1),
    lambda q: q.join(1),
    lambda q: q.task_done(1),
    lambda q: q.qsize(1),
    lambda q: q.empty(1),
    lambda q: q.full(1),
    lambda q: q.put(item=1, timeout=None, block=True),
    lambda q: q.put_nowait(item=5),
    lambda q: type(q)(1, 2),
    lambda q: type(q)(size=2),
    lambda q: type(q)(maxsize="1").put(1),
    lambda q: type(q)(maxsize=None).put(1),
    lambda q: type(q)(maxsize=None).full(),
    lambda q: type(q)(maxsize=[]).get(block=False),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
def test_wrong_arguments_are_refused_alike(kind: str, call: Callable[[Any], Any]) -> None:
    same(lambda m: call(getattr(m, kind)()))


@pytest.mark.parametrize("size", [float("inf"), 1.5, 0.5, Fraction(5, 2), True, 10**40, -(10**40), -0.5])
def test_sizes_that_are_no_small_integers_hold_alike(kind: str, size: Any) -> None:
    def fill(m: ModuleType) -> Any:
        q = getattr(m, kind)(size)
        seen: list[Any] = [q.maxsize, q.full()]
        for number in range(4):
            seen += [outcome(lambda number=number: q.put(number, block=False)), q.full(), q.qsize()]  # type: ignore[misc]
        return seen

    same(fill)


def test_more_tasks_done_than_were_put_is_refused_alike(kind: str) -> None:
    assert same(lambda m: getattr(m, kind)().task_done()) == ("ValueError", "task_done() called too many times")


# Looking inside -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", BOTH)
def test_the_contents_are_a_real_container_that_others_may_change(module: ModuleType, kind: str) -> None:
    q = getattr(module, kind)()
    container = deque if kind == "Queue" else list
    assert type(q.queue) is container
    q.put(2)
    q.put(1)
    with q.mutex:
        q.queue.clear()
    assert q.empty()
    assert q.unfinished_tasks == 2
    q.queue.extend([5, 6])
    assert q.qsize() == 2
    q.queue = container([8])
    assert q.get() == 8
    assert same(lambda m: getattr(m, kind)().queue.pop()) in [
        ("IndexError", "pop from an empty deque"),
        ("IndexError", "pop from empty list"),
    ]


@pytest.mark.parametrize("module", BOTH)
def test_another_container_in_its_place_is_used(module: ModuleType) -> None:
    q = module.Queue()
    q.queue = deque(maxlen=2)
    for number in range(4):
        q.put(number)
    assert [q.get(), q.get()] == [2, 3]

    class Odd(list[Any]):
        def append(self, item: Any) -> None:
            super().append(("odd", item))

        def popleft(self) -> Any:
            return self.pop(0)

    q.queue = Odd()
    q.put(1)
    assert q.qsize() == 1
    assert q.get() == ("odd", 1)


@pytest.mark.parametrize("module", BOTH)
@pytest.mark.parametrize("call", ["put", "get", "put_nowait", "get_nowait", "qsize", "empty", "full", "task_done"])
def test_the_mutex_excludes_everybody(module: ModuleType, kind: str, call: str) -> None:
    q = getattr(module, kind)(5)
    q.put(1)
    with q.mutex:
        thread, results = in_thread(lambda: getattr(q, call)(*[3] * call.startswith("put")))
        thread.join(0.05)
        assert thread.is_alive()
        assert q.mutex.locked()
    ended(thread, results)
    assert not q.mutex.locked()


@pytest.mark.parametrize("module", BOTH)
def test_the_conditions_are_the_queues_own(module: ModuleType, kind: str) -> None:
    q = getattr(module, kind)(1)
    for condition, change in [
        (q.not_empty, lambda: q.put(1)),
        (q.not_full, lambda: q.get()),
        (q.all_tasks_done, lambda: q.task_done()),
    ]:
        entered = threading.Event()

        def wait(condition: Any = condition, entered: Any = entered) -> Any:
            with condition:
                entered.set()
                return condition.wait(rig.PATIENCE)

        thread, results = in_thread(wait)
        assert entered.wait(rig.PATIENCE)
        change()  # the mutex lets it in only when the other waits
        assert ended(thread, results) is True
    with q.not_empty:
        assert q.mutex.locked()
        assert not q.mutex.acquire(blocking=False)
        assert q.all_tasks_done.wait(0.001) is False
    with pytest.raises(RuntimeError):
        q.not_empty.wait(0)


@pytest.mark.parametrize("module", BOTH)
def test_a_waiting_getter_hears_of_what_others_put_inside(module: ModuleType, kind: str) -> None:
    q = getattr(module, kind)()
    threads = [in_thread(q.get) for _ in range(2)]
    time.sleep(0.02)  # asleep by now, most likely; it must hold either way
    with q.not_empty:
        q.queue.extend([1, 2])
        q.not_empty.notify_all()
    assert sorted(ended(*thread) for thread in threads) == [1, 2]


@pytest.mark.parametrize("module", BOTH)
def test_counts_may_be_written(module: ModuleType, kind: str) -> None:
    q = getattr(module, kind)()
    q.put(1)
    q.unfinished_tasks = 5
    q.task_done()
    assert q.unfinished_tasks == 4
    q.unfinished_tasks = 0
    q.join()
    q.maxsize = 1
    assert q.full()
    q.anything = "else"
    assert q.anything == "else"


@pytest.mark.parametrize("module", BOTH)
def test_initialising_again_begins_again(module: ModuleType, kind: str) -> None:
    q = getattr(module, kind)(3)
    q.put(1)
    q.__init__(2)
    assert (q.qsize(), q.maxsize, q.unfinished_tasks) == (0, 2, 0)


# Subclasses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", BOTH)
def test_hooks_are_called_with_the_mutex_held(module: ModuleType) -> None:
    seen: list[tuple[str, bool]] = []

    class Unique(module.Queue):  # type: ignore[misc, name-defined]
        def _init(self, maxsize: int) -> None:
            self.queue = dict[Any, None]()
            seen.append(("_init", hasattr(self, "mutex") and self.mutex.locked()))

        def _qsize(self) -> int:
            seen.append(("_qsize", self.mutex.locked()))
            return len(self.queue)

        def _put(self, item: Any) -> None:
            seen.append(("_put", self.mutex.locked()))
            self.queue[item] = None

        def _get(self) -> Any:
            seen.append(("_get", self.mutex.locked()))
            return self.queue.popitem()[0]

    q = Unique(2)
    q.put(1)
    q.put(1)
    q.put(2)
    with pytest.raises(module.Full):
        q.put(3, timeout=0.001)
    assert (q.get(), q.get(timeout=1), q.empty()) == (2, 1, True)
    with pytest.raises(module.Empty):
        q.get_nowait()
    assert q.unfinished_tasks == 3
    assert seen[0] == ("_init", False)
    assert {name for name, _ in seen} == {"_init", "_qsize", "_put", "_get"}
    assert all(held for name, held in seen if name != "_init")


@pytest.mark.parametrize("module", BOTH)
def test_hooks_call_what_they_override(module: ModuleType, kind: str) -> None:
    class Counting(getattr(module, kind)):  # type: ignore[misc]
        calls = 0

        def _put(self, item: Any) -> None:
            self.calls += 1
            super()._put(item)

        def _get(self) -> Any:
            self.calls += 1
            return super()._get()

        def _qsize(self) -> int:
            return super()._qsize()

    q = Counting()
    for number in (3, 1, 2):
        q.put(number)
    assert [q.get() for _ in range(3)] == {
        "Queue": [3, 1, 2],
        "LifoQueue": [2, 1, 3],
        "PriorityQueue": [1, 2, 3],
    }[kind]
    assert q.calls == 6


@pytest.mark.parametrize("module", BOTH)
def test_hooks_may_come_later(module: ModuleType, kind: str) -> None:
    """Tests replace methods of a class that is in use, or of one object."""

    class Late(getattr(module, kind)):  # type: ignore[misc]
        pass

    q = Late()
    q.put(1)
    Late._qsize = lambda self: 7
    assert q.qsize() == 7
    del Late._qsize
    assert q.qsize() == 1
    q._get = lambda: "mine"
    assert q.get() == "mine"
    del q._get
    assert q.get() == 1


@pytest.mark.parametrize("module", BOTH)
def test_a_hook_that_raises_leaves_the_queue_usable(module: ModuleType) -> None:
    class Failing(module.Queue):  # type: ignore[misc, name-defined]
        fail = False

        def _get(self) -> Any:
            if self.fail:
                raise LookupError("not now")
            return super()._get()

    q = Failing()
    q.put(1)
    q.fail = True
    with pytest.raises(LookupError):
        q.get()
    assert not q.mutex.locked()
    q.fail = False
    assert q.get() == 1


def test_a_waiter_whose_hook_raises_passes_its_wake_up_on() -> None:
    """One item, two who wait, and the first fails to take it: the second must not sleep on."""
    names = iter(["first", "second"])

    class Failing(ours.Queue):  # type: ignore[type-arg]
        def _get(self) -> Any:
            if next(names) == "first":
                raise LookupError
            return super()._get()

    q = Failing()
    threads = [in_thread(q.get) for _ in range(2)]
    waiting(q, getting=2)
    q.put(1)
    assert sorted(map(str, (ended(*thread) for thread in threads))) == ["('LookupError', '')", "1"]


@pytest.mark.parametrize("module", BOTH)
def test_a_subclass_may_leave_its_base_for_later(module: ModuleType) -> None:
    class Slow(module.Queue):  # type: ignore[misc, name-defined]
        def __init__(self, label: str, **options: Any) -> None:
            self.label = label
            super().__init__(**options)

    q = Slow("a", maxsize=2)
    assert (q.label, q.maxsize) == ("a", 2)


# Priorities ---------------------------------------------------------------------------------------------------


class Job:
    """An item that says who compared it, and may refuse."""

    def __init__(self, rank: int, look: Callable[[], None] = lambda: None) -> None:
        self.rank, self.look = rank, look

    def __lt__(self, other: Job) -> bool:
        self.look()
        return self.rank < other.rank


@pytest.mark.parametrize("module", BOTH)
def test_items_are_compared_with_the_mutex_held(module: ModuleType) -> None:
    q = module.PriorityQueue()
    held: list[bool] = []
    for rank in (3, 1, 2):
        q.put(Job(rank, lambda: held.append(q.mutex.locked())))
    assert [q.get().rank for _ in range(3)] == [1, 2, 3]
    assert held
    assert all(held)


def test_an_exception_of_a_comparison_leaves_what_the_original_leaves() -> None:
    def fail() -> None:
        raise ZeroDivisionError("incomparable")

    def fill(m: ModuleType) -> Any:
        q = m.PriorityQueue(10)
        seen: list[Any] = []
        for rank in (5, 4, 6):
            q.put(Job(rank))
        seen.append(outcome(lambda: q.put(Job(1, fail))))
        seen += [[job.rank for job in q.queue], q.unfinished_tasks, q.mutex.locked()]
        seen.append(outcome(lambda: q.put("text")))
        seen.append(outcome(lambda: [q.get().rank for _ in range(2)]))
        seen.append([getattr(job, "rank", job) for job in q.queue])
        return seen

    same(fill)


def test_others_wait_while_items_are_compared() -> None:
    q = ours.PriorityQueue[Any]()
    entered, go_on = threading.Event(), threading.Event()

    def look() -> None:
        entered.set()
        assert go_on.wait(rig.PATIENCE)

    q.put(Job(2))
    putter = in_thread(lambda: q.put(Job(1, look)))
    assert entered.wait(rig.PATIENCE)
    getter = in_thread(lambda: q.get(timeout=rig.PATIENCE).rank)
    getter[0].join(0.05)
    assert getter[0].is_alive()
    go_on.set()
    ended(*putter)
    assert ended(*getter) == 1


# Waiting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", BOTH)
@pytest.mark.parametrize("timeout", [None, rig.PATIENCE, 100000])
def test_get_waits_for_put_and_put_for_get(module: ModuleType, kind: str, timeout: float | None) -> None:
    q = getattr(module, kind)(1)
    getter = in_thread(lambda: q.get(timeout=timeout))
    getter[0].join(0.02)
    q.put(1)
    assert ended(*getter) == 1
    q.put(2)
    putter = in_thread(lambda: q.put(3, timeout=timeout))
    putter[0].join(0.02)
    assert q.get() == 2
    assert ended(*putter) is None
    assert q.get() == 3


@pytest.mark.parametrize("module", BOTH)
def test_join_waits_for_every_task(module: ModuleType, kind: str) -> None:
    q = getattr(module, kind)()
    q.join()
    q.put(1)
    q.put(2)
    joiners = [in_thread(q.join) for _ in range(3)]
    q.get()
    q.task_done()
    joiners[0][0].join(0.02)
    assert all(thread.is_alive() for thread, _ in joiners)
    q.task_done()
    assert [ended(*joiner) for joiner in joiners] == [None] * 3


def test_who_waits_first_is_served_first(kind: str) -> None:
    q = getattr(ours, kind)()
    served: list[int] = []
    threads = []
    for number in range(5):
        threads.append(in_thread(lambda number=number: (q.get(), served.append(number))))  # type: ignore[misc]
        waiting(q, getting=number + 1)
    for number in range(5):
        q.put(number)
        rig.until_sync(lambda number=number: len(served) == number + 1)  # type: ignore[misc]
    for thread in threads:
        ended(*thread)
    assert served == list(range(5))


def test_a_timeout_ends_a_wait_on_time(kind: str) -> None:
    q = getattr(ours, kind)(1)
    begun = time.monotonic()
    with pytest.raises(ours.Empty):
        q.get(timeout=0.05)
    assert 0.05 <= time.monotonic() - begun < 5
    q.put(1)
    begun = time.monotonic()
    with pytest.raises(ours.Full):
        q.put(2, timeout=0.05)
    assert 0.05 <= time.monotonic() - begun < 5
    assert q.statistics().getting == q.statistics().putting == ()


# Shutting down ------------------------------------------------------------------------------------------------


def test_shutdown_lets_what_is_there_be_taken(kind: str) -> None:
    q = getattr(ours, kind)()
    assert q.is_shutdown is False
    q.put(1)
    q.shutdown()
    assert q.is_shutdown is True
    with pytest.raises(ours.ShutDown):
        q.put(2)
    with pytest.raises(ours.ShutDown):
        q.put_nowait(2)
    assert q.get() == 1
    for get in (q.get, q.get_nowait, lambda: q.get(timeout=1)):
        with pytest.raises(ours.ShutDown):
            get()
    assert q.unfinished_tasks == 1
    q.task_done()
    q.join()


def test_immediate_shutdown_throws_everything_away(kind: str) -> None:
    q = getattr(ours, kind)()
    for number in range(3):
        q.put(number)
    q.get()
    q.shutdown(immediate=True)
    with pytest.raises(ours.ShutDown):
        q.get()
    assert (q.qsize(), q.unfinished_tasks) == (0, 1)
    q.task_done()
    q.join()
    with pytest.raises(ValueError, match="too many"):
        q.task_done()
    q.shutdown(False)
    q.shutdown(immediate=True)


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_ends_every_wait(kind: str, immediate: bool) -> None:
    q = getattr(ours, kind)(1)
    getters = [in_thread(q.get), in_thread(lambda: q.get(timeout=rig.PATIENCE))]
    waiting(q, getting=2)
    q.shutdown(immediate)
    assert [ended(*getter) for getter in getters] == [("ShutDown", "")] * 2
    q = getattr(ours, kind)(1)
    q.put(1)
    putters = [in_thread(lambda: q.put(2)), in_thread(lambda: q.put(2, timeout=rig.PATIENCE))]
    joiner = in_thread(q.join)
    waiting(q, putting=2, joining=1)
    q.shutdown(immediate)
    assert [ended(*putter) for putter in putters] == [("ShutDown", "")] * 2
    if not immediate:
        assert q.get() == 1
        q.task_done()
    assert ended(*joiner) is None


def test_immediate_shutdown_calls_the_hooks_and_lets_items_use_the_queue() -> None:
    """An item that is thrown away may come back to the queue in its `__del__`."""
    taken: list[Any] = []

    class Noting(ours.Queue):  # type: ignore[type-arg]
        def _get(self) -> Any:
            taken.append(1)
            return super()._get()

    class Item:
        def __del__(self) -> None:
            taken.append(q.qsize())

    q = Noting()
    q.put(Item())
    q.put(Item())
    q.shutdown(immediate=True)
    assert taken == [1, 1, 0, 0]


# Statistics ---------------------------------------------------------------------------------------------------


def test_statistics_say_what_is_there_and_who_waits(kind: str) -> None:
    q = getattr(ours, kind)(2)
    empty = q.statistics()
    assert (empty.size, empty.maxsize, empty.unfinished, empty.is_shutdown) == (0, 2, 0, False)
    assert (empty.getting, empty.putting, empty.joining) == ((), (), ())
    getter = in_thread(q.get)
    waiting(q, getting=1)
    assert q.statistics().getting == (getter[0],)
    q.put(1)
    ended(*getter)
    q.put(1)
    q.put(2)
    putter, joiner = in_thread(lambda: q.put(3)), in_thread(q.join)
    waiting(q, putting=1, joining=1)
    found = q.statistics()
    assert (found.size, found.unfinished) == (2, 3)
    assert (found.putting, found.joining) == ((putter[0],), (joiner[0],))
    with q.mutex:
        assert q.statistics().size == 2  # at any time
    q.get()
    ended(*putter)
    q.unfinished_tasks = 1
    q.task_done()
    ended(*joiner)
    q.shutdown()
    assert q.statistics().is_shutdown


@pytest.mark.skipif(sys.version_info < (3, 13), reason="3.13 brings shutdown")
def test_the_originals_shutdown_is_ours() -> None:
    def play(m: ModuleType) -> Any:
        q = m.Queue(2)
        q.put(1)
        q.put(2)
        q.get()
        q.shutdown(True)
        return q.unfinished_tasks, outcome(q.get), outcome(q.task_done), outcome(q.task_done), q.qsize()

    same(play)
