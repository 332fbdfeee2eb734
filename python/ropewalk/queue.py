"""The standard library's ``queue`` under its own names, for threads and tasks at once.

Whatever waits in a thread here has a twin that is awaited: ``put_async``, ``get_async``, ``join_async``. Threads, and
tasks of any number of event loops, may use the same queue at the same time; who waits first is called first.
``shutdown()`` is there on every Python version.

What can be seen of a queue is what can be seen of the original's: ``queue``, ``mutex``, the three conditions, and the
hooks ``_init``, ``_qsize``, ``_put`` and ``_get`` that subclasses override. As long as nobody does, what they do is done in
Rust. See https://docs.python.org/3/library/queue.html.
"""

from __future__ import annotations

import queue as _queue
import sys
from collections import deque
from heapq import heappop, heappush
from queue import Empty, Full

from ropewalk import _core
from ropewalk._condition import Condition
from ropewalk._core import SimpleQueue as SimpleQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    _T = TypeVar("_T")
else:
    _T = object  # only type checkers ask, and `typing` would cost more than all that is here

__all__ = _queue.__all__

if sys.version_info >= (3, 13):
    from queue import ShutDown
else:

    class ShutDown(Exception):  # the name that it has from Python 3.13 on
        """Raised by put and get of a queue that has been shut down."""


class Queue(_core.Queue[_T]):
    """A queue, first in first out: ``queue.Queue``, which can also be awaited.

    maxsize: how many items it holds at most; 0 or less is no limit. ``put`` waits for a place, ``get`` for an item,
    ``join`` until ``task_done`` has been called for every item. All methods may be called from any thread.
    """

    def shutdown(self, immediate: bool = False) -> None:
        """Let no more be put, and nobody wait any longer.

        ``put`` raises ``ShutDown`` from now on, and ``get`` when the queue is empty. With immediate=True all items are
        thrown away and counted as done. Thread-safe. See queue.Queue.shutdown in CPython's documentation (3.13).
        """
        discarded = []  # dropped last, for an item may use the queue when it dies
        with self.mutex:
            self.is_shutdown = True
            if immediate:
                while self._qsize():
                    discarded.append(self._get())
                    if self.unfinished_tasks > 0:
                        self.unfinished_tasks -= 1
                self.all_tasks_done.notify_all()
            self.not_empty.notify_all()
            self.not_full.notify_all()

    # How items are kept. Subclasses override these; all but the first are called with the mutex held.

    def _init(self, maxsize: int) -> None:
        self.queue = deque()

    def _qsize(self) -> int:
        return len(self.queue)

    def _put(self, item: _T) -> None:
        self.queue.append(item)

    def _get(self) -> Any:
        return self.queue.popleft()


class LifoQueue(Queue[_T]):
    """A queue that gives the item last put first: ``queue.LifoQueue``, which can also be awaited."""

    def _init(self, maxsize: int) -> None:
        self.queue = []

    def _qsize(self) -> int:
        return len(self.queue)

    def _put(self, item: _T) -> None:
        self.queue.append(item)

    def _get(self) -> Any:
        return self.queue.pop()


class PriorityQueue(Queue[_T]):
    """A queue that gives the smallest item first: ``queue.PriorityQueue``, which can also be awaited.

    Items are compared with ``<``, while the mutex is held.
    """

    def _init(self, maxsize: int) -> None:
        self.queue = []

    def _qsize(self) -> int:
        return len(self.queue)

    def _put(self, item: _T) -> None:
        heappush(self.queue, item)

    def _get(self) -> Any:
        return heappop(self.queue)


_core._know_queues(Queue, LifoQueue, PriorityQueue, Empty, Full, ShutDown, Condition)


def _replacements() -> dict[str, dict[str, Any]]:
    """What stands in queue's place while ropewalk is installed."""
    return {"queue": {name: globals()[name] for name in _queue.__all__}}
