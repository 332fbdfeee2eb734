"""One thread that waits for all timers.

``threading.Timer`` starts a thread to sleep in, and nearly all timers are cancelled: a time limit that was kept. Here
a timer that waits is an entry of a heap, and one thread sleeps until the first is due.

No lock is held anywhere, since a signal handler or a finalizer may set a timer between any two bytecodes of its own
thread. What is new is appended to a deque, and the heap belongs to the clock's thread alone. An entry ends with a list
of one: whoever pops it has taken what is in it, be it to call it or to cancel it.

A cancellation tells the clock's thread nothing; it finds empty entries by itself, for it never sleeps for longer than
a beat. So it is woken only for what is due before it wakes up anyway. It ends when there has been nothing to wait for
during a whole beat: starting it costs more than setting a timer.
"""

from __future__ import annotations

import _thread
import heapq
import itertools
import os
from collections import deque
from time import monotonic

from ropewalk.threading._event import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, TypeAlias

    class Waiting(Protocol):
        """What can be put on a clock."""

        def _due(self) -> None:
            """Its time has come. Called by the clock's thread; raises nothing."""

    # When, a number that makes entries different, and a list of what it is, empty once that has been taken.
    Entry: TypeAlias = tuple[float, int, list[Any]]

# The thread's longest sleep, in seconds.
BEAT = 0.5
# So many new entries are worth a look, though none is due: most of them have been cancelled.
MANY = 1000
# A heap is swept when it has grown to twice of what it was, and this.
SWEEP = 64


class Clock:
    """What waits for its time, in one process."""

    def __init__(self) -> None:
        self._new: deque[Entry] = deque()
        self._numbers = itertools.count()
        self._bell = Event()
        # Held while there is a thread.
        self._running = _thread.allocate_lock()
        # When the thread wakes up by itself.
        self._wakes = 0.0
        # The thread's own.
        self._heap: list[Entry] = []
        self._sweep_at = SWEEP

    @property
    def runs(self) -> bool:
        """Whether there is a thread."""
        return self._running.locked()

    def add(self, what: Waiting, delay: float) -> Entry:
        """Put something on the clock, due in `delay` seconds. ``RuntimeError`` if no thread can be started."""
        entry = (monotonic() + delay, next(self._numbers), [what])
        self._new.append(entry)
        if self._running.acquire(False):
            try:
                _thread.start_new_thread(self._run, ())
            except BaseException:
                self._running.release()
                take(entry)
                raise
        elif entry[0] < self._wakes or len(self._new) > MANY:
            # After the append: the thread writes down when it wakes, and then looks for new entries once more.
            self._bell.set()
        return entry

    def _run(self) -> None:
        idle = False
        try:
            while True:
                self._bell.clear()
                self._sort()
                self._call()
                now = monotonic()
                if self._heap:
                    idle = False
                    self._wakes = min(self._heap[0][0], now + BEAT)
                elif not idle:
                    idle = True
                    self._wakes = now + BEAT
                else:
                    self._running.release()
                    # Somebody may have added something while there still was a thread.
                    if not self._new or not self._running.acquire(False):
                        return
                    idle = False
                if not self._new:
                    self._bell.wait(self._wakes - now)
        except BaseException:
            # Out of memory, for one: whoever comes next starts another thread.
            self._running.release()
            raise

    def _sort(self) -> None:
        """Take in what is new, and throw out what was cancelled if there may be much of it."""
        new, heap = self._new, self._heap
        while new:
            entry = new.popleft()
            if entry[2]:
                heapq.heappush(heap, entry)
        if len(heap) > self._sweep_at:
            heap[:] = [entry for entry in heap if entry[2]]
            heapq.heapify(heap)
            self._sweep_at = 2 * len(heap) + SWEEP

    def _call(self) -> None:
        """Call what is due."""
        heap = self._heap
        while heap and (not heap[0][2] or heap[0][0] <= monotonic()):
            what = take(heapq.heappop(heap))
            if what is not None:
                what._due()


def take(entry: Entry) -> Any:
    """Take what is in an entry; it is the caller's alone then. None if it has been taken before."""
    try:
        return entry[2].pop()
    except IndexError:
        return None


clock = Clock()


def _forked() -> None:
    # The thread is gone, and what it had; the timers learn of the fork from `threading`, as all threads do.
    global clock
    clock = Clock()


os.register_at_fork(after_in_child=_forked)
