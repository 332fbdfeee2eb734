"""``Barrier``: CPython's interface to the native barrier."""

from __future__ import annotations

from ropewalk import _core
from ropewalk.threading._shown import shown


class Barrier(_core.Barrier):
    """A place where `parties` threads and tasks wait for one another, again and again.

    ``Barrier(parties, action=None, timeout=None)``: `action` is called without arguments by the last one to come,
    before the others pass; `timeout`, in seconds, is for waits that give none. ``ValueError`` for less than one
    party (from Python 3.13 on). See ``threading.Barrier``. All methods may be called from any thread and from tasks of
    any event loop; `wait_async` is `wait` for coroutines.
    """

    def __repr__(self) -> str:
        if self.broken:
            return f"<{shown(self)}: broken>"
        return f"<{shown(self)}: waiters={self.n_waiting}/{self.parties}>"
