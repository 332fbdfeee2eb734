"""``wait`` and ``as_completed``: natively for futures of ours, by the standard library for any others among them."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures._base import DoneAndNotDoneFutures

from ropewalk import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The originals, looked up before `ropewalk.install` may have put ours there.
_wait, _as_completed = concurrent.futures.wait, concurrent.futures.as_completed


def wait(fs: Iterable[Any], timeout: float | None = None, return_when: str = concurrent.futures.ALL_COMPLETED) -> Any:
    """Wait for futures, at most ``timeout`` seconds, and return ``(done, not_done)``, two sets.

    Until all are done; with ``FIRST_COMPLETED`` until one is, with ``FIRST_EXCEPTION`` until one has raised. A future
    that was cancelled counts once its executor knows. Raises ValueError for any other ``return_when``; a timeout
    raises nothing. See https://docs.python.org/3/library/concurrent.futures.html#concurrent.futures.wait
    """
    futures = set(fs)
    sets = _core._wait(futures, timeout, return_when)
    if sets is None:
        return _wait(futures, timeout, return_when)
    return DoneAndNotDoneFutures(*sets)


async def wait_async(
    fs: Iterable[Any], timeout: float | None = None, return_when: str = concurrent.futures.ALL_COMPLETED
) -> Any:
    """:func:`wait`, to be awaited: the event loop goes on meanwhile. Takes futures of :mod:`ropewalk.futures` only.

    Raises TypeError for others.
    """
    futures = set(fs)
    waiting = _core._wait_async(futures, timeout, return_when)
    if waiting is not None:
        await waiting
    return DoneAndNotDoneFutures(*_core._split(futures))


def as_completed(fs: Iterable[Any], timeout: float | None = None) -> Iterator[Any]:
    """Iterate over futures in the order in which they are done; one that is given twice comes once.

    Raises TimeoutError if they are not all done ``timeout`` seconds after the first was asked for. See
    https://docs.python.org/3/library/concurrent.futures.html#concurrent.futures.as_completed
    """
    end = None if timeout is None else timeout + time.monotonic()
    futures = set(fs)
    completed = _core._completed(futures, end)
    if completed is None:
        theirs = _as_completed(futures, timeout)
        del futures, fs  # who was given out is not kept alive
        yield from theirs
        return
    del futures, fs
    try:
        yield from completed
    finally:
        completed.close()


async def as_completed_async(fs: Iterable[Any], timeout: float | None = None) -> AsyncIterator[Any]:
    """:func:`as_completed`, for ``async for``: the event loop goes on meanwhile.

    Takes futures of :mod:`ropewalk.futures` only, and raises TypeError for others.
    """
    end = None if timeout is None else timeout + time.monotonic()
    completed = _core._completed(set(fs), end)
    if completed is None:
        raise TypeError("as_completed_async() takes futures of ropewalk.futures only")
    del fs
    try:
        async for future in completed:
            yield future
            del future
    finally:
        completed.close()
