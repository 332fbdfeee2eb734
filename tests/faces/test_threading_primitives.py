"""Event, Semaphore, BoundedSemaphore and Barrier beside the originals: results, exceptions, texts, private looks."""

from __future__ import annotations

import copy
import decimal
import fractions
import gc
import math
import pickle
import random
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import rig
import ropewalk.threading as ours

BOTH = [pytest.param(threading, id="threading"), pytest.param(ours, id="ropewalk")]
PRIMITIVES: dict[str, Callable[[Any], Any]] = {
    "Event": lambda t: t.Event(),
    "Semaphore": lambda t: t.Semaphore(2),
    "BoundedSemaphore": lambda t: t.BoundedSemaphore(2),
    "Barrier": lambda t: t.Barrier(2),
}


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the type and the text of what it raises."""
    try:
        return call()
    except Exception as error:
        return type(error).__name__, str(error)


def told(primitive: Any) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x", repr(primitive))


# --- The same program on both ---------------------------------------------------------------------------------


def random_calls(name: str, seed: int) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Calls that do not block for long."""
    pick = random.Random(seed)
    waits: list[Any] = [0, -1, 0.0, -0.5, 0.0005, False]
    calls = {
        "Event": [("set", ()), ("clear", ()), ("is_set", ()), ("wait", (waits,)), ("__repr__", ())],
        "Semaphore": [
            ("acquire", ([False],)),
            ("acquire", ([True], waits)),
            ("acquire", ([False], waits)),
            ("release", ()),
            ("release", ([-1, 0, 1, 2, 3],)),
            ("__repr__", ()),
            ("_value", None),
        ],
        "Barrier": [
            ("wait", (waits,)),
            ("reset", ()),
            ("abort", ()),
            ("__repr__", ()),
            ("broken", None),
            ("n_waiting", None),
            ("parties", None),
        ],
    }
    table: Any = calls[name.removeprefix("Bounded")]
    made = []
    for _ in range(60):
        method, options = pick.choice(table)
        made.append((method, None if options is None else tuple(pick.choice(choice) for choice in options), {}))
    return made  # type: ignore[return-value]


def run_calls(primitive: Any, calls: Any) -> list[Any]:
    def one(method: str, args: Any) -> Any:
        if args is None:
            return getattr(primitive, method)
        result = getattr(primitive, method)(*args)
        return re.sub(r"0x[0-9a-f]+", "0x", result) if isinstance(result, str) else result

    return [(method, args, outcome(lambda: one(method, args))) for method, args, _ in calls]  # noqa: B023


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", PRIMITIVES)
def test_random_programs_go_as_on_the_original(name: str, seed: int) -> None:
    calls = random_calls(name, seed)
    there, here = (run_calls(PRIMITIVES[name](module), calls) for module in (threading, ours))
    assert here == there


TIMEOUTS: dict[str, Any] = {
    "zero": 0,
    "negative": -3,
    "minus infinity": -math.inf,
    "a little": 0.001,
    "true": True and 0.001,
    "huge": 1e20,
    "a huge integer": 10**30,
    "infinity": math.inf,
    "beyond the limit": threading.TIMEOUT_MAX * 2,
    "text": "1",
    "list": [],
    "decimal": decimal.Decimal(1),
    "fraction": fractions.Fraction(1, 100),
    "complex": 1j,
}
WAITS: dict[str, Callable[[Any, Any], Any]] = {
    "Event.wait": lambda t, timeout: t.Event().wait(timeout),
    "Semaphore.acquire": lambda t, timeout: t.Semaphore(0).acquire(timeout=timeout),
    "BoundedSemaphore.acquire": lambda t, timeout: t.BoundedSemaphore(0).acquire(True, timeout),
    "Barrier.wait": lambda t, timeout: t.Barrier(2).wait(timeout),
    "Barrier, by default": lambda t, timeout: t.Barrier(2, None, timeout).wait(),
    "an event that is set": lambda t, timeout: [e := t.Event(), e.set(), e.wait(timeout)][2],
    "a permit that is free": lambda t, timeout: t.Semaphore().acquire(timeout=timeout),
    "the last party": lambda t, timeout: t.Barrier(1).wait(timeout),
    "Thread.join": lambda t, timeout: [a := t.Thread(target=int), a.start(), a.join(timeout)][2],
}


@pytest.mark.parametrize("timeout", TIMEOUTS)
@pytest.mark.parametrize("wait", WAITS)
def test_a_timeout_means_what_it_means_to_the_original(wait: str, timeout: str) -> None:
    there, here = (outcome(lambda: WAITS[wait](module, TIMEOUTS[timeout])) for module in (threading, ours))  # noqa: B023
    assert here == there


def test_not_a_number_is_no_limit_where_the_original_spins_and_none_at_all_elsewhere() -> None:
    assert ours.Event().wait(math.nan) is threading.Event().wait(math.nan) is False
    for begin, end in [
        (lambda s: s.acquire(timeout=math.nan), lambda s: s.release()),
        (lambda s: s.wait(math.nan), lambda s: s.wait()),
    ]:
        primitive: Any = ours.Semaphore(0) if begin.__code__.co_names[0] == "acquire" else ours.Barrier(2)
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(begin(primitive)))  # noqa: B023
        thread.start()
        rig.until_sync(lambda: primitive.statistics().waiters)  # noqa: B023
        assert got == []
        end(primitive)
        thread.join(rig.PATIENCE)
        assert got in ([True], [0])


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.Semaphore(-1),
        lambda t: t.Semaphore(value=-1),
        lambda t: t.BoundedSemaphore(-1),
        lambda t: t.Semaphore("1"),
        lambda t: t.Barrier(),
        lambda t: told(t.Semaphore(0)),
        lambda t: t.Semaphore(value=True)._value,
        lambda t: t.Semaphore().acquire(False, 1),
        lambda t: t.Semaphore().acquire(blocking=False, timeout=0),
        lambda t: t.Semaphore(0).acquire(None),
        lambda t: t.Semaphore(0).acquire(0),
        lambda t: t.Semaphore(0).acquire([]),
        lambda t: t.Semaphore().release(0),
        lambda t: t.Semaphore().release(n=-1),
        lambda t: t.Semaphore().release("1"),
        lambda t: t.BoundedSemaphore().release(),
        lambda t: t.BoundedSemaphore(3).release(2),
        lambda t: t.Semaphore().__enter__(),
        lambda t: t.Semaphore(0).__enter__(False),
        lambda t: t.Semaphore().__exit__(None, None, None),
        lambda t: t.Barrier(1).wait(),
        lambda t: t.Barrier(1, action=dict).wait(),
        lambda t: t.Barrier(1, lambda: 1 / 0).wait(),
        lambda t: t.Barrier(3, dict, 5)._timeout,
        lambda t: t.Barrier(3, dict)._action,
        lambda t: t.BoundedSemaphore(3)._initial_value,
        lambda t: hasattr(t.Semaphore(3), "_initial_value"),
        lambda t: t.Event()._flag,
        lambda t: t.Event().is_set(),
    ],
)
def test_one_call_gives_what_the_original_gives(call: Callable[[Any], Any]) -> None:
    there, here = (outcome(lambda: call(module)) for module in (threading, ours))  # noqa: B023
    assert here == there


@pytest.mark.parametrize("threads", BOTH)
@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.Event(1),
        lambda t: t.Event().wait(1, 2),
        lambda t: t.Event().wait(limit=1),
        lambda t: t.Event().set(1),
        lambda t: t.Semaphore(1, 2),
        lambda t: t.Semaphore(values=1),
        lambda t: t.Semaphore(1, value=1),
        lambda t: t.BoundedSemaphore(1, 2),
        lambda t: t.Semaphore().acquire(True, 1, 2),
        lambda t: t.Semaphore().release(m=1),
        lambda t: t.Barrier(1, None, None, None),
        lambda t: t.Barrier(1, parties=1),
        lambda t: t.Barrier(1).wait(None, 1),
    ],
)
def test_wrong_arguments_are_type_errors(threads: Any, call: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError):
        call(threads)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="earlier ones take any number, and never trip")
@pytest.mark.parametrize("parties", [0, -1, 0.5, "2"])
def test_a_barrier_needs_a_party(parties: Any) -> None:
    there, here = (outcome(lambda: module.Barrier(parties)) for module in (threading, ours))  # noqa: B023
    assert here == there


@pytest.mark.parametrize("threads", BOTH)
def test_texts(threads: Any) -> None:
    class Own(threads.Semaphore):  # type: ignore[misc,name-defined]
        pass

    event, barrier = threads.Event(), threads.Barrier(3)
    assert told(event) == "<threading.Event at 0x: unset>"
    event.set()
    assert told(event) == "<threading.Event at 0x: set>"
    assert told(threads.Semaphore(3)) == "<threading.Semaphore at 0x: value=3>"
    assert told(threads.BoundedSemaphore(3)) == "<threading.BoundedSemaphore at 0x: value=3/3>"
    assert told(Own()) == f"<{__name__}.test_texts.<locals>.Own at 0x: value=1>"
    assert told(barrier) == "<threading.Barrier at 0x: waiters=0/3>"
    barrier.abort()
    assert told(barrier) == "<threading.Barrier at 0x: broken>"


@pytest.mark.parametrize("threads", BOTH)
@pytest.mark.parametrize("unlimited", [math.inf, 2.5])
def test_a_semaphore_without_a_limit(threads: Any, unlimited: float) -> None:
    """Programs write `Semaphore(math.inf)` for "as many as you like"."""
    semaphore = threads.Semaphore(unlimited)
    for _ in range(10):
        assert semaphore.acquire(timeout=1)
    semaphore.release()
    assert threads.BoundedSemaphore(math.inf)._value == math.inf
    threads.BoundedSemaphore(math.inf).release()


def test_many_permits_at_once() -> None:
    """The original's counts them one by one before Python 3.12."""
    semaphore = ours.Semaphore(0)
    semaphore.release(10**12)
    assert semaphore._value == 10**12
    assert semaphore.acquire(False) and semaphore._value == 10**12 - 1


@pytest.mark.parametrize("threads", BOTH)
def test_a_value_that_is_assigned(threads: Any) -> None:
    semaphore = threads.Semaphore(0)
    semaphore._value = 1
    assert semaphore.acquire(False) and not semaphore.acquire(False)


# --- As objects -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRIMITIVES)
def test_attributes_weak_references_and_subclasses(name: str) -> None:
    kind = getattr(ours, name)

    class Own(kind):  # type: ignore[misc,valid-type]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.label = "mine"

    for made in (PRIMITIVES[name], lambda _: Own(*([2] if name != "Event" else []))):
        primitive = made(ours)
        primitive.more = 1
        reference = weakref.ref(primitive)
        assert reference() is primitive and primitive.more == 1
        assert isinstance(primitive, kind) and hash(primitive) == hash(primitive) and primitive == primitive
        del primitive
        gc.collect()
        assert reference() is None


@pytest.mark.parametrize("name", PRIMITIVES)
def test_none_is_pickled_or_copied_deeply(name: str) -> None:
    for module in (threading, ours):
        for refuse in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot pickle"):
                refuse(PRIMITIVES[name](module))


@pytest.mark.parametrize("name", PRIMITIVES)
def test_the_collector_sees_through_it(name: str) -> None:
    primitive = PRIMITIVES[name](ours)
    primitive.itself = [primitive]
    reference = weakref.ref(primitive)
    del primitive
    gc.collect()
    assert reference() is None


def test_the_collector_sees_a_barriers_action_and_an_events_condition() -> None:
    class Holder:
        def __init__(self) -> None:
            self.barrier = ours.Barrier(2, action=self.act, timeout=1)

        def act(self) -> None:
            pass

    holder, event = Holder(), ours.Event()
    assert event._cond
    references = [weakref.ref(holder), weakref.ref(event)]
    del holder, event
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_a_bounded_semaphore_is_a_semaphore() -> None:
    assert issubclass(ours.BoundedSemaphore, ours.Semaphore)

    class Counting(ours.BoundedSemaphore):
        released = 0

        def release(self, n: int = 1) -> None:
            self.released += n
            super().release(n)

    semaphore = Counting(2)
    with semaphore:
        assert semaphore._value == 1
    assert (semaphore.released, semaphore._value, semaphore._initial_value) == (1, 2, 2)
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()


@pytest.mark.parametrize("threads", BOTH)
def test_a_semaphore_begun_again(threads: Any) -> None:
    semaphore = threads.Semaphore(5)
    semaphore.__init__(1)
    assert semaphore.acquire(False) and not semaphore.acquire(False)


# --- What programs find inside --------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", BOTH)
def test_an_event_that_is_set_through_its_condition(threads: Any) -> None:
    event, got = threads.Event(), []
    thread = threading.Thread(target=lambda: got.append(event.wait(rig.PATIENCE)))
    thread.start()
    time.sleep(0.02)
    with event._cond:
        event._flag = True
        event._cond.notify_all()
    thread.join(rig.PATIENCE)
    assert got == [True] and event.is_set()


@pytest.mark.parametrize("threads", BOTH)
def test_a_subclass_that_waits_on_the_condition(threads: Any) -> None:
    class Patient(threads.Event):  # type: ignore[misc,name-defined]
        def wait(self, timeout: float | None = None) -> bool:
            with self._cond:
                return bool(self._cond.wait_for(lambda: self._flag, timeout))

    class Resizable(threads.Semaphore):  # type: ignore[misc,name-defined]
        def grow(self, count: int) -> None:
            with self._cond:
                self._value += count
                self._cond.notify(count)

        def wait_for_permits(self) -> bool:
            with self._cond:
                return bool(self._cond.wait_for(lambda: self._value > 0, rig.PATIENCE))

    event, semaphore, other = Patient(), Resizable(0), Resizable(0)
    got: list[Any] = []
    threads_ = [
        threading.Thread(target=lambda: got.append(event.wait(rig.PATIENCE))),
        threading.Thread(target=lambda: got.append(semaphore.acquire(timeout=rig.PATIENCE))),
        threading.Thread(target=lambda: got.append(other.wait_for_permits())),
    ]
    for thread in threads_:
        thread.start()
    time.sleep(0.02)
    event.set()
    semaphore.grow(1)
    other.release()
    for thread in threads_:
        thread.join(rig.PATIENCE)
    assert got == [True] * 3 and semaphore._value == 0


# --- Statistics -----------------------------------------------------------------------------------------------


def test_statistics_say_who_waits() -> None:
    event, semaphore, bounded, barrier = ours.Event(), ours.Semaphore(0), ours.BoundedSemaphore(2), ours.Barrier(2)
    assert event.statistics() == (False, ())
    assert semaphore.statistics() == (0, None, ())
    assert bounded.statistics() == (2, 2, ())
    assert barrier.statistics() == (2, 0, False, ())
    for primitive, wait, release in [
        (event, event.wait, event.set),
        (semaphore, semaphore.acquire, semaphore.release),
        (barrier, barrier.wait, barrier.wait),
    ]:
        waiter = threading.Thread(target=wait)
        waiter.start()
        rig.until_sync(lambda: primitive.statistics().waiters)  # noqa: B023
        assert primitive.statistics().waiters == (waiter,)
        release()
        waiter.join(rig.PATIENCE)
        assert primitive.statistics().waiters == ()
    assert event.statistics().is_set
    assert barrier.statistics().parties == 2 and not barrier.statistics().broken
