"""One thread that waits for all timers.

``threading.Timer`` starts a thread to sleep in, and nearly all timers are cancelled: a time limit that was kept. Here
a timer that waits is an entry of a heap, and one thread sleeps until the first is due.

The clock's thread lives while there is something to wait for and a moment longer, as starting it costs more than
setting a timer. It is woken only if it would sleep too long: for a timer that is due before it wakes up by itself, and
when the last timer is taken off.
"""

from __future__ import annotations

import _thread
import heapq
import itertools
import os
from threading import RLock
from time import monotonic

from ropewalk.threading._event import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, TypeAlias

# How long the thread waits for new timers when there are none, in seconds.
LINGER = 0.2
# A heap is swept when most of it, and more than this, are timers that were taken off.
SWEEP = 64


if TYPE_CHECKING:

    class Waiting(Protocol):
        """What can be put on a clock."""

        def _due(self) -> None:
            """Its time has come. Called by the clock's thread, without its lock; raises nothing."""

        def _lost(self) -> None:
            """It was on the clock of a process that this one is a fork of."""

    # When, a number that makes entries different, and what: None once it has been taken.
    Entry: TypeAlias = list[Any]


class Clock:
    """What waits for its time, in one process."""

    def __init__(self) -> None:
        # Reentrant: a signal handler or a finalizer may set a timer while its thread is in here. Between any two
        # bytecodes below the heap is in order.
        self._lock = RLock()
        self._bell = Event()
        self._heap: list[Entry] = []
        self._numbers = itertools.count()
        # How many entries of the heap have been taken.
        self._taken = 0
        # What the thread is calling just now.
        self._calling: list[Waiting] = []
        self._runs = False
        # When the thread wakes up by itself.
        self._wakes = 0.0

    def add(self, what: Waiting, delay: float) -> Entry:
        """Put something on the clock, due in `delay` seconds. ``RuntimeError`` if no thread can be started."""
        due = monotonic() + delay
        entry: Entry = [due, next(self._numbers), what]
        with self._lock:
            heapq.heappush(self._heap, entry)
            if not self._runs:
                self._runs = True
                try:
                    _thread.start_new_thread(self._run, ())
                except BaseException:
                    self._runs = False
                    self.take(entry)
                    raise
            elif due < self._wakes:
                self._wakes = due
                self._bell.set()
        return entry

    def take(self, entry: Entry) -> bool:
        """Take something off; it is the caller's alone then. False if it has been taken, or called, before."""
        with self._lock:
            if entry[2] is None:
                return False
            entry[2] = None
            self._taken += 1
            left = len(self._heap) - self._taken
            if self._taken > SWEEP and self._taken > left:
                self._heap = [entry for entry in self._heap if entry[2] is not None]
                heapq.heapify(self._heap)
                self._taken = 0
            if not left and self._wakes > monotonic() + LINGER:
                self._wakes = 0.0
                self._bell.set()
        return True

    def waiting(self) -> list[Waiting]:
        """What has not been called yet, in no order."""
        return [what for _, _, what in tuple(self._heap) if what is not None] + self._calling

    def _run(self) -> None:
        idle = False
        try:
            while True:
                with self._lock:
                    self._bell.clear()
                    now = monotonic()
                    self._calling = self._pop(now)
                    waits = len(self._heap) > self._taken
                    if not waits and not self._calling:
                        if idle:
                            self._runs = False
                            return
                        idle = True
                    else:
                        idle = False
                    self._wakes = self._heap[0][0] if waits else now + LINGER
                if self._calling:
                    self._call()
                else:
                    self._bell.wait(self._wakes - now)
        except BaseException:
            # Out of memory, for one: whoever comes next starts another thread.
            self._runs = False
            raise

    def _call(self) -> None:
        while self._calling:
            self._calling[-1]._due()
            self._calling.pop()

    def _pop(self, now: float) -> list[Waiting]:
        """Take off what is due: the last to be called first."""
        due = []
        heap = self._heap
        while heap and (heap[0][0] <= now or heap[0][2] is None):
            entry = heapq.heappop(heap)
            what, entry[2] = entry[2], None
            if what is None:
                self._taken -= 1
            else:
                due.append(what)
        due.reverse()
        return due


clock = Clock()


def _forked() -> None:
    # The thread is gone, and the lock in whichever state it was.
    global clock
    lost = clock.waiting()
    clock = Clock()
    for what in lost:
        what._lost()


os.register_at_fork(after_in_child=_forked)
