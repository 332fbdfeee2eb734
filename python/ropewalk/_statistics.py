"""What ``statistics()`` gives: who holds a thing, and who waits for it, across threads and tasks.

Small named tuples, made when somebody asks and not before. The core knows a thread by its identifier and a task by
itself; here the identifier becomes the ``threading.Thread``, as far as ``threading`` knows it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import asyncio

# A thread; the task of an event loop; the identifier of a thread that `threading` does not know (any more).
Strand: TypeAlias = "threading.Thread | asyncio.Task[Any] | int"


def strand(known: Any) -> Strand | None:
    """The thread of an identifier; anything else as it is (a task, or None)."""
    if not isinstance(known, int):
        return known  # type: ignore[no-any-return]
    return threading._active.get(known, known)  # type: ignore[attr-defined,no-any-return]


def strands(known: Iterable[Any]) -> tuple[Strand, ...]:
    """Those who wait, without those whose task is gone."""
    return tuple(found for found in map(strand, known) if found is not None)


class LockStatistics(NamedTuple):
    """Who holds a lock and who waits for it.

    ``holder`` is None while the lock is free. A thread that has ended while it held the lock is still named.
    ``waiters`` are in the order in which they came.
    """

    locked: bool
    holder: Strand | None
    waiters: tuple[Strand, ...]

    @classmethod
    def of(cls, locked: bool, holder: Any, waiters: Iterable[Any]) -> LockStatistics:
        return cls(locked, strand(holder), strands(waiters))


class RLockStatistics(NamedTuple):
    """As LockStatistics, and how often the holder has acquired the lock."""

    locked: bool
    holder: Strand | None
    waiters: tuple[Strand, ...]
    depth: int

    @classmethod
    def of(cls, locked: bool, holder: Any, waiters: Iterable[Any], depth: int) -> RLockStatistics:
        return cls(locked, strand(holder), strands(waiters), depth)


class ConditionStatistics(NamedTuple):
    """Who waits to be notified, and the statistics of the lock (None if it gives none)."""

    waiters: tuple[Strand, ...]
    lock: LockStatistics | RLockStatistics | None

    @classmethod
    def of(cls, waiters: Iterable[Any], lock: LockStatistics | RLockStatistics | None) -> ConditionStatistics:
        return cls(strands(waiters), lock)


class FutureStatistics(NamedTuple):
    """How far a future is, who waits for it, and how many callbacks it has.

    ``state`` is "pending", "running", "cancelled" or "finished". Who waits for several futures at once is not named.
    """

    state: str
    waiters: tuple[Strand, ...]
    callbacks: int

    @classmethod
    def of(cls, state: str, waiters: Iterable[Any], callbacks: int) -> FutureStatistics:
        return cls(state, strands(waiters), callbacks)


class PoolStatistics(NamedTuple):
    """What a pool is doing just now."""

    workers: int
    """Threads that there are, those that are just being started included."""
    idle: int
    """Threads that sleep."""
    queued: int
    """Calls that nobody has begun."""
    running: int
    """Threads that make a call; one that makes calls of a ``map`` counts once."""
    done: int
    """Calls that were made, or found to be cancelled; a thread's share of a ``map`` counts as one."""
    tasks: dict[str, Any]
    """What runs in each thread that runs something, by the thread's name: the function."""


class EventStatistics(NamedTuple):
    """Whether the flag is up, and who waits for it. Those who were let go and have not run yet are still here."""

    is_set: bool
    waiters: tuple[Strand, ...]

    @classmethod
    def of(cls, is_set: bool, waiters: Iterable[Any]) -> EventStatistics:
        return cls(is_set, strands(waiters))


class SemaphoreStatistics(NamedTuple):
    """How many permits there are to be taken, how many there may be (None: any number), and who waits for one."""

    value: int
    bound: int | None
    waiters: tuple[Strand, ...]

    @classmethod
    def of(cls, value: int, bound: int | None, waiters: Iterable[Any]) -> SemaphoreStatistics:
        return cls(value, bound, strands(waiters))


class BarrierStatistics(NamedTuple):
    """How many parties a barrier has, how many have come, whether it is broken, and who waits."""

    parties: int
    n_waiting: int
    broken: bool
    waiters: tuple[Strand, ...]

    @classmethod
    def of(cls, parties: int, n_waiting: int, broken: bool, waiters: Iterable[Any]) -> BarrierStatistics:
        return cls(parties, n_waiting, broken, strands(waiters))


class QueueStatistics(NamedTuple):
    """What is in a queue, and who waits to get, to put and to join.

    ``size`` is what ``_qsize()`` gives without the mutex; ``unfinished`` counts the items that are not reported as done.
    """

    size: int
    maxsize: int
    unfinished: int
    is_shutdown: bool
    getting: tuple[Strand, ...]
    putting: tuple[Strand, ...]
    joining: tuple[Strand, ...]

    @classmethod
    def of(
        cls,
        size: int,
        maxsize: int,
        unfinished: int,
        is_shutdown: bool,
        getting: Iterable[Any],
        putting: Iterable[Any],
        joining: Iterable[Any],
    ) -> QueueStatistics:
        return cls(size, maxsize, unfinished, is_shutdown, strands(getting), strands(putting), strands(joining))


class SimpleQueueStatistics(NamedTuple):
    """How many items are in a SimpleQueue, and who waits for one."""

    size: int
    getting: tuple[Strand, ...]

    @classmethod
    def of(cls, size: int, getting: Iterable[Any]) -> SimpleQueueStatistics:
        return cls(size, strands(getting))
