"""``concurrent.futures`` with its futures and its thread pool in Rust.

The same names with the same meaning: https://docs.python.org/3/library/concurrent.futures.html. The classes are those
of that module as well, by inheritance, so both may be mixed; what is not here is the original's own. Beyond it:

- a :class:`Future` can be awaited, and has ``result_async`` and ``exception_async``;
- ``wait_async`` and ``as_completed_async`` are :func:`wait` and :func:`as_completed` for tasks;
- ``ThreadPoolExecutor.map`` takes ``buffersize`` on every Python version, ``ordered=False`` and ``item_timeout``;
- ``ThreadPoolExecutor(context=True)`` makes each call in a copy of its submitter's context;
- ``ThreadPoolExecutor.statistics()`` and ``Future.statistics()`` say what goes on.
"""

from __future__ import annotations

import concurrent.futures
import sys
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    BrokenExecutor,
    CancelledError,
    Executor,
    InvalidStateError,
    TimeoutError,  # the original has it, too
)

from ropewalk._pool import Future, ThreadPoolExecutor
from ropewalk.futures._waiting import as_completed, as_completed_async, wait, wait_async

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "BrokenExecutor",
    "CancelledError",
    "Executor",
    "Future",
    "InvalidStateError",
    "ProcessPoolExecutor",
    "ThreadPoolExecutor",
    "TimeoutError",
    "as_completed",
    "as_completed_async",
    "wait",
    "wait_async",
]
if "InterpreterPoolExecutor" in concurrent.futures.__all__:
    __all__ += ["InterpreterPoolExecutor"]


def __dir__() -> list[str]:
    return [*__all__, "__doc__"]


def __getattr__(name: str) -> Any:
    found: Any
    if name == "ProcessPoolExecutor":  # its module imports multiprocessing: not before somebody wants it
        from concurrent.futures.process import ProcessPoolExecutor as found
    elif name == "InterpreterPoolExecutor" and name in __all__:
        from ropewalk.futures._interpreter import InterpreterPoolExecutor as found
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def _replacements() -> dict[str, dict[str, Any]]:
    """What stands in the place of ``concurrent.futures``, in each of its modules, while ropewalk is installed."""
    base: dict[str, Any] = {"Future": Future, "as_completed": as_completed, "wait": wait}
    pools: dict[str, Any] = {"ThreadPoolExecutor": ThreadPoolExecutor}
    found = {"concurrent.futures._base": base, "concurrent.futures.thread": pools}
    if "concurrent.futures.interpreter" in sys.modules:
        interpreters = {"InterpreterPoolExecutor": __getattr__("InterpreterPoolExecutor")}
        found["concurrent.futures.interpreter"] = interpreters
        pools = {**pools, **interpreters}
    return {**found, "concurrent.futures": {**base, **pools}}
