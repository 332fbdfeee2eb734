"""``Thread``: the standard library's, which a coroutine can wait for as well.

A thread is the operating system's, and nothing about it can be bettered from here, so it stays CPython's own class. The
one thing that it lacks is a join that blocks no event loop.
"""

from __future__ import annotations

import threading as _threading
from time import monotonic

from ropewalk.threading._event import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# CPython's own names for what threads there are.
_private: Any = _threading


class Thread(_threading.Thread):
    """A thread of control; see ``threading.Thread``, of which it is a subclass, for everything but `join_async`."""

    async def join_async(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, or for `timeout` seconds; ask `is_alive` which it was.

        As `join`, which blocks: ``RuntimeError`` for a thread that has not been started and for the calling thread
        itself, and a negative `timeout` is 0. Cancelling it leaves the thread alone. It may be awaited in any number
        of event loops, at the same time.
        """
        if not self._initialized:
            raise RuntimeError("Thread.__init__() not called")
        if not self._started.is_set():
            raise RuntimeError("cannot join thread before it is started")
        if self is _threading.current_thread():
            raise RuntimeError("cannot join current thread")
        if timeout is not None:
            timeout = max(timeout, 0)
        if not self.is_alive():
            return
        # First the event, then the look whether the thread is still listed. The end of a thread does it the other way
        # round, so one of the two sees the other.
        last_words: Event = self.__dict__.setdefault("_last_words", Event())
        end = None if timeout is None else monotonic() + timeout
        listed = self in _private._limbo or _private._active.get(self.ident) is self
        if listed and not await last_words.wait_async(timeout):
            return
        await _until_dead(self, end)

    def _delete(self) -> None:
        # What CPython calls as the last thing that a thread does in Python: it is not listed any more.
        super()._delete()  # type: ignore[misc]
        last_words: Event | None = self.__dict__.get("_last_words")
        if last_words is not None:
            last_words.set()

    # CPython's, private; named here for those who check types.
    _initialized: bool
    _started: Any


async def _until_dead(thread: _threading.Thread, end: float | None) -> None:
    """Wait for a thread that has said its last words: for microseconds, as a rule.

    What is left is the destruction of its local values, of which nobody is told.
    """
    import asyncio

    pause = 0.0
    while thread.is_alive():
        if end is not None:
            left = end - monotonic()
            if left <= 0:
                return
            pause = min(pause, left)
        await asyncio.sleep(pause)
        pause = min(pause * 2 + 0.0001, 0.02)


class _Foreign(Thread):
    """The main thread, and threads that Python has not started: they say no last words."""

    async def join_async(self, timeout: float | None = None) -> None:
        self.join(0)  # raises what there is to raise
        end = None if timeout is None else monotonic() + timeout
        await _until_dead(self, end)


def _adopt(*classes: type) -> None:
    """Make every thread that there is a `Thread`: programs ask so of the main thread by ``isinstance``."""
    for found in classes:
        if _Foreign not in found.__mro__:
            found.__bases__ = (_Foreign,)


_adopt(_threading._MainThread, _threading._DummyThread)  # type: ignore[attr-defined]
