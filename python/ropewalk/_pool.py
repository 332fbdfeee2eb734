"""The thread pool's classes, which two faces need: ``ropewalk.futures`` shows them, and the event loop of
``ropewalk.asyncio`` runs its default executor on them.

Each derives from a native half in ``_core`` and from the class of ``concurrent.futures`` whose name it has. So they
are those classes for ``isinstance``, for ``asyncio.wrap_future`` and for ``loop.set_default_executor``, and inherit
from them what is cold.
"""

from __future__ import annotations

import collections
import concurrent.futures
import concurrent.futures.thread
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures._base import LOGGER

from ropewalk import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ropewalk._statistics import PoolStatistics

_Future: Any = concurrent.futures.Future
_Executor: Any = concurrent.futures.thread.ThreadPoolExecutor


class Future(_core.Future, _Future):  # type: ignore[misc]
    """The outcome of a call that is made, or will be made, elsewhere.

    Everything that https://docs.python.org/3/library/concurrent.futures.html#future-objects says holds for it, and
    it works with that module's ``wait`` and ``as_completed`` and with ``asyncio.wrap_future``. Beyond that it can be
    awaited, by any task of any event loop: ``await future``, or ``await future.result_async(timeout)``. Who stops
    awaiting, by a timeout or because the task was cancelled, leaves the call alone.

    All methods may be called from any thread. Timeouts are in seconds.
    """


Future.__module__ = "ropewalk.futures"
_core._set_future_class(Future)


class _Backlog:
    """What programs look at of the original's ``_work_queue``: how much is queued."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def qsize(self) -> int:
        """How many calls nobody has begun."""
        return self._pool._counts()[2]

    def empty(self) -> bool:
        """Whether there is none."""
        return not self.qsize()


class _Plain:
    """A worker's context that calls an initializer, and has nothing to finalize."""

    def __init__(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        self.initializer = initializer
        self.initargs = initargs

    def initialize(self) -> None:
        if self.initializer is not None:
            self.initializer(*self.initargs)

    def finalize(self) -> None:
        """Nothing to do."""


def _work(crew: _core.Crew, context: Any, broken: type[BaseException]) -> None:
    """A worker's thread."""
    try:
        context.initialize()
    except BaseException:
        LOGGER.critical("Exception in initializer:", exc_info=True)
        crew.break_up(broken, "A thread initializer failed, the thread pool is not usable anymore")
        return
    try:
        crew.work(threading.current_thread().name, getattr(context, "run", None))
    finally:
        context.finalize()


def _results_of(
    ahead: collections.deque[Any],
    rest: tuple[weakref.ref[ThreadPoolExecutor], Callable[..., Any], Iterator[Any]] | None,
    end: float | None,
    item_timeout: float | None,
    ordered: bool,
) -> Iterator[Any]:
    """The iterator of a ``map`` that goes by way of ``submit``, for executors that do something there."""
    try:
        while ahead:
            if rest is not None and (pool := rest[0]()) is not None and (args := next(rest[2], None)) is not None:
                ahead.append(pool.submit(rest[1], *args))
            pool = None
            left = item_timeout
            if end is not None:
                left = end - time.monotonic() if left is None else min(left, end - time.monotonic())
            if not ordered:
                done, _ = concurrent.futures.wait(ahead, left, concurrent.futures.FIRST_COMPLETED)
                if done:
                    first = next(iter(done))
                    ahead.remove(first)
                    ahead.appendleft(first)
                    del first
                del done, _
            # No name for the future: the caller's result is not kept alive here.
            yield _take(ahead.popleft(), left)
    finally:
        for future in ahead:
            future.cancel()


def _take(future: Any, timeout: float | None) -> Any:
    try:
        return future.result(timeout)
    finally:
        future.cancel()
        del future  # its exception has this frame in its traceback


def _default_workers() -> int:
    of_process = getattr(os, "process_cpu_count", os.cpu_count)  # new in Python 3.13
    count: int | None = of_process()
    return min(32, (count or 1) + 4)


class ThreadPoolExecutor(_core.ThreadPool, _Executor):  # type: ignore[misc]
    """A pool of threads that make calls: ``concurrent.futures.ThreadPoolExecutor``.

    ``max_workers`` threads at most (by default as many as the original has), started when there is work and nobody
    idle, named after ``thread_name_prefix``. Each begins with ``initializer(*initargs)``; if that raises, the pool is
    broken: what is queued and what is submitted raise ``BrokenThreadPool``. With ``context=True`` each call runs in a
    copy of the ``contextvars`` context that it was submitted in; without, in the thread's own, as with the original.

    All methods may be called from any thread, from calls that the pool makes as well. See
    https://docs.python.org/3/library/concurrent.futures.html#threadpoolexecutor
    """

    # Names of the original's that programs look at; there is no lock or queue behind them.
    @property
    def _idle_semaphore(self) -> threading.Semaphore:
        return threading.Semaphore(self._counts()[1])

    @property
    def _work_queue(self) -> _Backlog:
        return _Backlog(self)

    @_work_queue.setter
    def _work_queue(self, queue: object) -> None:
        raise AttributeError(
            "this executor's queue cannot be replaced\n"
            "hint: map(..., buffersize=) limits what is ahead; an executor that needs a queue of its own derives from "
            "concurrent.futures.thread.ThreadPoolExecutor"
        )

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        context: bool = False,
        **ctxkwargs: Any,
    ) -> None:
        if max_workers is None:
            max_workers = _default_workers()
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        resolve = None
        prepare = getattr(type(self), "prepare_context", None)
        if ctxkwargs and prepare is None:
            raise TypeError(f"ThreadPoolExecutor() got an unexpected keyword argument {next(iter(ctxkwargs))!r}")
        if prepare is None or (not ctxkwargs and prepare.__func__ is _Executor.prepare_context.__func__):
            if initializer is not None and not callable(initializer):
                raise TypeError("initializer must be a callable")
            self._create_worker_context: Callable[[], Any] = lambda: _Plain(initializer, initargs)
        else:
            self._create_worker_context, resolve = prepare(initializer, initargs, **ctxkwargs)
        self._initializer = initializer
        self._initargs = initargs
        self._threads: set[threading.Thread] = set()
        self._process = os.getpid()
        self._thread_name_prefix = thread_name_prefix or f"ThreadPoolExecutor-{self._counter()}"
        self._resolves = resolve is not None
        self._configure(max_workers, context, resolve)

    def _start_worker(self) -> None:
        if self._process != os.getpid():  # a forked child, where there are none of these
            self._process = os.getpid()
            self._threads = set()
        broken = getattr(self, "BROKEN", concurrent.futures.thread.BrokenThreadPool)
        thread = threading.Thread(
            name=f"{self._thread_name_prefix or self}_{len(self._threads)}",
            target=_work,
            args=(self._crew(), self._create_worker_context(), broken),
        )
        thread.start()
        self._threads.add(thread)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        ordered: bool = True,
        item_timeout: float | None = None,
    ) -> Any:
        """Return an iterator over ``fn(*items)`` for each tuple of items, the calls being made by the pool.

        Without ``buffersize`` all calls are queued now; with it, so many at most are ahead of what was asked for, so
        the iterables may be endless. The results come in the order of the items or, with ``ordered=False``, as they
        are there. ``timeout`` is the time for all of them, in seconds from this call; ``item_timeout`` the time that
        is waited for any one of them. ``chunksize`` is ignored.

        The iterator raises what a call raised, or TimeoutError; that ends it, and what was not begun never will be.
        The same does ``close()`` after the first item was asked for. In a task, iterate by ``async for``.
        """
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        end = None if timeout is None else timeout + time.monotonic()
        if self._calls_plainly():
            return self._map(fn, iterables, end, item_timeout, buffersize, ordered)
        calls = zip(*iterables, strict=False)
        first = calls if buffersize is None else itertools.islice(calls, buffersize)
        ahead = collections.deque(self.submit(fn, *args) for args in first)
        rest = None if buffersize is None else (weakref.ref(self), fn, calls)
        return _results_of(ahead, rest, end, item_timeout, ordered)

    def _calls_plainly(self) -> bool:
        """Whether a call is just made: nobody has a ``submit`` or workers of his own."""
        return not self._resolves and type(self).submit is _core.ThreadPool.submit and "submit" not in vars(self)

    def statistics(self) -> PoolStatistics:
        """What the pool is doing just now. Cheap, at any time, from any thread."""
        from ropewalk._statistics import PoolStatistics  # not before somebody asks

        return PoolStatistics(*self._counts(), dict(self._running()))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and let the threads end once everything queued is done; wait for that if ``wait``.

        With ``cancel_futures`` what is queued is cancelled instead. May be called again.
        """
        self._close(cancel_futures)
        if wait:
            for thread in tuple(self._threads):
                thread.join()


ThreadPoolExecutor.__module__ = "ropewalk.futures"

threading._register_atexit(_core._end_pools)  # type: ignore[attr-defined]
