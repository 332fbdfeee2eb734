"""``Event``: CPython's interface to the native event."""

from __future__ import annotations

from ropewalk import _core
from ropewalk.threading._condition import Inside
from ropewalk.threading._shown import shown


class Event(_core.Event):
    """A flag that threads and tasks can wait for; it is down at first.

    See ``threading.Event``. All methods may be called from any thread, from tasks of any event loop, and from signal
    handlers; `wait_async` is `wait` for coroutines.
    """

    def isSet(self) -> bool:
        """Return whether the flag is up. Deprecated: use `is_set`."""
        import warnings

        warnings.warn("isSet() is deprecated, use is_set() instead", DeprecationWarning, stacklevel=2)
        return self.is_set()

    @property
    def _cond(self) -> Inside:
        """What the original waits on: notified by `set`, and who notifies it lets those go who wait here."""
        inside: Inside = self._inside or self._adopt(Inside(self._let_go))
        return inside

    def __repr__(self) -> str:
        return f"<{shown(self)}: {'set' if self.is_set() else 'unset'}>"
