"""``Semaphore`` and ``BoundedSemaphore``: CPython's interface to the native semaphore."""

from __future__ import annotations

from ropewalk import _core
from ropewalk.threading._condition import Inside
from ropewalk.threading._shown import shown


class Semaphore(_core.Semaphore):
    """A number of permits, which threads and tasks take and put back.

    ``Semaphore(value=1)``; ``ValueError`` for less than 0. See ``threading.Semaphore``. All methods may be called
    from any thread and from tasks of any event loop, `release` from signal handlers as well. ``with`` and
    ``async with`` take a permit and put it back; `acquire_async` is `acquire` for coroutines.
    """

    @property
    def _cond(self) -> Inside:
        """What the original waits on: notified by `release`."""
        inside: Inside = self._inside or self._adopt(Inside())
        return inside

    def __repr__(self) -> str:
        return f"<{shown(self)}: value={self._value}>"


class BoundedSemaphore(Semaphore):
    """A semaphore that never has more permits than it began with: `release` raises ``ValueError`` instead.

    See ``threading.BoundedSemaphore``.
    """

    __init__ = _core.Semaphore._init_bounded

    @property
    def _initial_value(self) -> float:
        return self._bound

    def __repr__(self) -> str:
        return f"<{shown(self)}: value={self._value}/{self._initial_value}>"
