"""``Condition``: CPython's interface to the native condition. Threading's face shows it, and a queue has three."""

from __future__ import annotations

from time import monotonic

from ropewalk import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    _T = TypeVar("_T")


class Condition(_core.Condition):
    """Wait, with a lock let go meanwhile, until somebody says that something has changed.

    ``Condition(lock=None)``: an `RLock` of its own if none is given. See ``threading.Condition``. Threads and tasks may
    hold and wait for one condition: ``with`` and `wait` in threads, ``async with`` and `wait_async` in coroutines.
    """

    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Wait until `predicate()` is true, for at most `timeout` seconds in all; return its last result.

        ``RuntimeError`` if the lock is not held and the predicate is not true at once.
        """
        result = predicate()
        if result:
            return result
        end = None if timeout is None else monotonic() + timeout
        while not result:
            self.wait(timeout)
            result = predicate()
            if end is not None and not result:
                timeout = end - monotonic()
                if timeout <= 0:
                    break
        return result

    async def wait_for_async(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Wait as `wait_for` does, without blocking the event loop. `predicate` is no coroutine function."""
        result = predicate()
        if result:
            return result
        end = None if timeout is None else monotonic() + timeout
        while not result:
            await self.wait_async(timeout)
            result = predicate()
            if end is not None and not result:
                timeout = end - monotonic()
                if timeout <= 0:
                    break
        return result

    def notifyAll(self) -> None:
        """Wake all who wait. Deprecated: use `notify_all`."""
        import warnings

        warnings.warn("notifyAll() is deprecated, use notify_all() instead", DeprecationWarning, stacklevel=2)
        self.notify_all()


Condition.__module__ = "ropewalk.threading"  # where programs find it
