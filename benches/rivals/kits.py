"""Which locks, queues and thread pools race, and how each is got.

A kit gives the same few operations as bound methods, so that a row calls what its contender offers and nothing in
between. What a contender does not have, its kit does not have either, and the row is not its own.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any

Take = Callable[[], Any]
Give = Callable[[Any], Any]

OURS = "ropewalk"


class Kit:
    """The standard library's names, whoever gives them."""

    def __init__(self, package: str) -> None:
        self._package = package

    def _from(self, module: str) -> Any:
        return importlib.import_module(f"{self._package}.{module}" if self._package else module)

    @property
    def threading(self) -> Any:
        return self._from("threading")

    @property
    def queue(self) -> Any:
        return self._from("queue")

    @property
    def futures(self) -> Any:
        return self._from("futures" if self._package else "concurrent.futures")

    def maker(self, name: str) -> Any:
        """One of threading's or queue's classes."""
        return getattr(self.queue if name.endswith("Queue") else self.threading, name)

    def make(self, name: str, *given: Any) -> Any:
        """An object of it."""
        return self.maker(name)(*given)

    def lock(self, name: str, *given: Any) -> tuple[Take, Take]:
        """What acquires and what releases a new lock or semaphore."""
        made = self.make(name, *given)
        return made.acquire, made.release

    def queue_ends(self, name: str, *given: Any) -> tuple[Give, Take]:
        """What puts into a new queue and what gets from it, in threads."""
        made = self.make(name, *given)
        return made.put, made.get


class Standard(Kit):
    """CPython's own, as they are."""

    def __init__(self) -> None:
        super().__init__("")

    def to_task(self, loop: asyncio.AbstractEventLoop) -> tuple[Give, Callable[[], Awaitable[Any]]]:
        """From threads to a task: what puts in a thread, and what gets in a task."""
        line: asyncio.Queue[Any] = asyncio.Queue()
        return lambda item: loop.call_soon_threadsafe(line.put_nowait, item), line.get


class Ropewalk(Kit):
    """Ours."""

    def __init__(self) -> None:
        super().__init__(OURS)

    def to_task(self, loop: asyncio.AbstractEventLoop) -> tuple[Give, Callable[[], Awaitable[Any]]]:
        made = self.queue.Queue()
        return made.put, made.get_async

    def shared_lock(self) -> tuple[Take, Take, Callable[[], Awaitable[Any]], Take]:
        """A lock for threads and tasks: acquire and release in a thread, and in a task."""
        made = self.threading.Lock()
        return made.acquire, made.release, made.acquire_async, made.release


class Aiologic(Kit):
    """Locks and queues for threads and tasks, by CPython's own atomic operations."""

    def __init__(self) -> None:
        super().__init__("aiologic")

    def maker(self, name: str) -> Any:
        return getattr(importlib.import_module("aiologic"), name)

    def lock(self, name: str, *given: Any) -> tuple[Take, Take]:
        made = self.make(name, *given)
        return made.green_acquire, made.green_release

    def queue_ends(self, name: str, *given: Any) -> tuple[Give, Take]:
        made = self.maker(name)(maxsize=given[0]) if given else self.make(name)
        return made.green_put, made.green_get

    def to_task(self, loop: asyncio.AbstractEventLoop) -> tuple[Give, Callable[[], Awaitable[Any]]]:
        made = self.make("Queue")
        return made.green_put, made.async_get

    def shared_lock(self) -> tuple[Take, Take, Callable[[], Awaitable[Any]], Take]:
        made = self.make("Lock")
        return made.green_acquire, made.green_release, made.async_acquire, made.async_release


class Culsans(Kit):
    """Queues for threads and tasks, on aiologic."""

    def __init__(self) -> None:
        super().__init__("culsans")

    def maker(self, name: str) -> Any:
        return getattr(importlib.import_module("culsans"), name)

    def queue_ends(self, name: str, *given: Any) -> tuple[Give, Take]:
        line = self.make(name, *given).sync_q
        return line.put, line.get

    def to_task(self, loop: asyncio.AbstractEventLoop) -> tuple[Give, Callable[[], Awaitable[Any]]]:
        made = self.make("Queue")
        return made.sync_q.put, made.async_q.get


class Janus(Kit):
    """Queues between threads and the tasks of one loop, on the standard library's locks."""

    def __init__(self) -> None:
        super().__init__("janus")

    def to_task(self, loop: asyncio.AbstractEventLoop) -> tuple[Give, Callable[[], Awaitable[Any]]]:
        made: Any = importlib.import_module("janus").Queue()
        return made.sync_q.put, made.async_q.get


# The order is the order of the columns.
KITS: dict[str, Callable[[], Kit]] = {
    "stdlib": Standard,
    "aiologic": Aiologic,
    "culsans": Culsans,
    "janus": Janus,
    OURS: Ropewalk,
}


def version(name: str) -> str:
    """The version of the package; empty for the standard library."""
    if name == "stdlib":
        return ""
    importlib.import_module(name)
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return str(importlib.import_module(name).__version__)  # imported from a source tree


if __name__ == "__main__":
    # Asked by the harness: can this interpreter import it, and which version is it?
    import sys

    print(version(sys.argv[1]))
