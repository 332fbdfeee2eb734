"""``InterpreterPoolExecutor`` (Python 3.14 and newer): each thread of the pool has an interpreter of its own.

What runs in those is the standard library's code, through its worker contexts; nothing of ours is loaded there.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ropewalk._pool import ThreadPoolExecutor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# By name: the oldest Python that types are checked for has no such module.
_Original: Any = import_module("concurrent.futures.interpreter").InterpreterPoolExecutor


class InterpreterPoolExecutor(ThreadPoolExecutor, _Original):  # type: ignore[misc]
    """A pool of threads, each with an interpreter: ``concurrent.futures.InterpreterPoolExecutor``.

    Functions, arguments and results are pickled. A worker whose interpreter cannot be made, or whose initializer
    raises there, breaks the pool: BrokenInterpreterPool. See
    https://docs.python.org/3/library/concurrent.futures.html#interpreterpoolexecutor
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        prefix = thread_name_prefix or f"InterpreterPoolExecutor-{self._counter()}"
        super().__init__(max_workers, prefix, initializer, initargs)


InterpreterPoolExecutor.__module__ = "ropewalk.futures"
