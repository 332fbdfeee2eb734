"""asyncio under its own name and API, on the Rust event loop.

``from ropewalk import asyncio`` gives every public name of the standard library's ``asyncio``; those below
are ropewalk's: an event loop whose scheduling, timers, readiness and stream sockets are Rust, and the ways to
get one.
"""

from __future__ import annotations

import asyncio as _asyncio
from asyncio import *  # noqa: F403  # the point of this module

from ropewalk.asyncio._install import EventLoopPolicy, install, uninstall
from ropewalk.asyncio._loop import EventLoop, new_event_loop
from ropewalk.asyncio._run import Runner, run
from ropewalk.asyncio._streams import (
    StreamReader,
    StreamWriter,
    open_connection,
    open_unix_connection,
    start_server,
    start_unix_server,
)
from ropewalk.asyncio._transport import SocketTransport

__all__ = [
    *_asyncio.__all__,
    "EventLoop",
    "EventLoopPolicy",
    "Runner",
    "SocketTransport",
    "StreamReader",
    "StreamWriter",
    "install",
    "new_event_loop",
    "open_connection",
    "open_unix_connection",
    "run",
    "start_server",
    "start_unix_server",
    "uninstall",
]


def __getattr__(name: str) -> object:
    # Names that asyncio itself gives on demand, with a warning: deprecated ones.
    return getattr(_asyncio, name)
