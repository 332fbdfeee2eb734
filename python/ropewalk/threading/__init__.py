"""``threading``, on the wait queue that threads and tasks share.

Every public name of the standard library's module for the running Python, with the same arguments, results and
exceptions. Locks, conditions, semaphores, events, barriers and timers are ropewalk's; what cannot be bettered is the
standard library's own object.
"""

from __future__ import annotations

import sys
import threading as _threading
import types
from threading import (
    TIMEOUT_MAX,
    BrokenBarrierError,
    ExceptHookArgs,
    ThreadError,
    active_count,
    current_thread,
    enumerate,
    excepthook,
    get_ident,
    get_native_id,
    getprofile,
    gettrace,
    local,
    main_thread,
    setprofile,
    settrace,
    stack_size,
)
from threading import __excepthook__ as __excepthook__
from threading import activeCount as activeCount
from threading import currentThread as currentThread

from ropewalk._condition import Condition
from ropewalk._core import Lock, RLock
from ropewalk.threading._barrier import Barrier
from ropewalk.threading._event import Event
from ropewalk.threading._semaphore import BoundedSemaphore, Semaphore
from ropewalk.threading._thread import Thread
from ropewalk.threading._timer import Timer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "TIMEOUT_MAX",
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "Condition",
    "Event",
    "ExceptHookArgs",
    "Lock",
    "RLock",
    "Semaphore",
    "Thread",
    "ThreadError",
    "Timer",
    "active_count",
    "current_thread",
    "enumerate",
    "excepthook",
    "get_ident",
    "get_native_id",
    "getprofile",
    "gettrace",
    "local",
    "main_thread",
    "setprofile",
    "settrace",
    "stack_size",
]
if sys.version_info >= (3, 12):
    from threading import setprofile_all_threads, settrace_all_threads

    __all__ += ["setprofile_all_threads", "settrace_all_threads"]
if sys.version_info >= (3, 15):
    from threading import concurrent_tee, serialize_iterator, synchronized_iterator

    __all__ += ["concurrent_tee", "serialize_iterator", "synchronized_iterator"]


class _Module(types.ModuleType):
    """The module itself: a hook that is set on it is the one that threads call."""

    @property
    def excepthook(self) -> Any:
        return _threading.excepthook

    @excepthook.setter
    def excepthook(self, hook: Any) -> None:
        _threading.excepthook = hook


for _class in (Barrier, BoundedSemaphore, Condition, Event, Semaphore, Thread, Timer):
    _class.__module__ = __name__
del _class
sys.modules[__name__].__class__ = _Module


def _replacements() -> dict[str, dict[str, Any]]:
    """What stands in threading's place while ropewalk is installed; what is the original's own stays as it is."""
    return {"threading": {name: globals()[name] for name in _threading.__all__ if name in globals()}}
