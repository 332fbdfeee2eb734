"""``StreamReader``, ``StreamWriter`` and the functions that make them, native.

They are asyncio's classes, API and exceptions, with the part that every chunk passes through in Rust: a native
transport feeds the reader without calling a protocol, and ``read()`` and its like are awaitables of Rust's. What is
cold is inherited.

A program need not ask for them. A reader that asyncio's own ``open_connection`` or ``start_server`` has made is given
the native class when its connection is on ropewalk's event loop, and on the server's side so is its writer.
"""

from __future__ import annotations

import asyncio
import asyncio.format_helpers
import asyncio.streams
import functools
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from ropewalk import _core

if TYPE_CHECKING:
    import os

    # What may be passed on to create_connection() and create_server() is documented there.
    _ClientConnected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]

# By the names under which asyncio defines them: install() may have put ours in their place.
_Reader: Any = asyncio.streams.StreamReader
_Writer: Any = asyncio.streams.StreamWriter
_Protocol: Any = asyncio.streams.StreamReaderProtocol
_LIMIT: int = asyncio.streams._DEFAULT_LIMIT  # type: ignore[attr-defined]


def _state(name: str) -> property:
    """A private attribute of asyncio's reader, which programs do look at, kept in Rust."""

    def get(self: Any) -> Any:
        return getattr(self._native, name)

    def set(self: Any, value: Any) -> None:
        setattr(self._native, name, value)

    return property(get, set)


class StreamReader(_Reader):  # type: ignore[misc]
    """``asyncio.StreamReader``, native: https://docs.python.org/3/library/asyncio-stream.html#asyncio.StreamReader.

    *limit* is in bytes: the longest line, and half of what is buffered before the peer is made to wait.
    Not thread-safe: it belongs to the thread of its event loop.
    """

    _buffer = _state("buffer")
    _eof = _state("eof")
    _exception = _state("exception")
    _limit = _state("limit")
    _paused = _state("paused")
    _transport = _state("transport")
    _waiter = _state("waiter")

    read = _core._async_method(_Reader.read)
    readexactly = _core._async_method(_Reader.readexactly)
    readline = _core._async_method(_Reader.readline)
    readuntil = _core._async_method(_Reader.readuntil)
    __anext__ = _core._async_method(_Reader.__anext__)

    def __init__(self, limit: float = _LIMIT, loop: asyncio.AbstractEventLoop | None = None) -> None:
        # Not asyncio's, which would make the buffer a bytearray from the start.
        if limit <= 0:
            raise ValueError("Limit cannot be <= 0")
        if loop is None:
            loop = _Reader(limit)._loop  # each version of Python has its own way to find or to refuse one
        assert loop is not None
        self._loop = loop
        self._native = _core.Stream(loop, limit)
        if loop.get_debug():
            self._source_traceback = asyncio.format_helpers.extract_stack(sys._getframe(1))

    def _maybe_resume_transport(self) -> None:
        self._native.resume()

    def __repr__(self) -> str:
        # As asyncio's, without turning the buffer into a bytearray.
        native = self._native
        info = ["StreamReader"]
        if size := len(native):
            info.append(f"{size} bytes")
        if native.eof:
            info.append("eof")
        if native.limit != _LIMIT:
            info.append(f"limit={native.limit}")
        for name in ("waiter", "exception", "transport"):
            if value := getattr(native, name):
                info.append(f"{name}={value!r}")
        if native.paused:
            info.append("paused")
        return f"<{' '.join(info)}>"


class StreamWriter(_Writer):  # type: ignore[misc]
    """``asyncio.StreamWriter``, native: https://docs.python.org/3/library/asyncio-stream.html#asyncio.StreamWriter.

    Not thread-safe: it belongs to the thread of its event loop.
    """

    drain = _core._async_method(_Writer.drain)


_core._complete_streams(StreamReader, StreamWriter)


def _adopt(protocol: Any) -> bool:
    """Give the plain reader of a plain protocol the native class. Whether the transport may feed it directly."""
    reader = protocol._stream_reader
    if type(reader) is _Reader:
        state = reader.__dict__
        native = _core.Stream(reader._loop, state.pop("_limit"))
        if received := state.pop("_buffer"):
            native.feed_data(received)
        for name in ("eof", "exception", "paused", "transport", "waiter"):
            setattr(native, name, state.pop(f"_{name}"))
        state["_native"] = native
        reader.__class__ = StreamReader
        if protocol._client_connected_cb is not None:
            protocol._client_connected_cb = functools.partial(_connected, protocol._client_connected_cb)
        return True
    return isinstance(reader, StreamReader) and type(reader).feed_data is StreamReader.feed_data


def _connected(callback: _ClientConnected, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
    """What a server calls for a connection: the writer, too, is a native one."""
    if type(writer) is _Writer:
        writer.__class__ = StreamWriter
    return callback(reader, writer)


_core._set_stream_classes(_Protocol, _adopt)


async def open_connection(
    host: str | None = None, port: int | str | None = None, *, limit: int = _LIMIT, **kwds: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a TCP port; return ``(reader, writer)``. Otherwise as ``asyncio.open_connection``."""
    loop: Any = asyncio.get_running_loop()
    reader, protocol = _reader_and_protocol(limit, loop)
    transport, _ = await loop.create_connection(lambda: protocol, host, port, **kwds)
    return reader, _writer(transport, protocol, reader, loop)


async def start_server(
    client_connected_cb: _ClientConnected,
    host: str | Sequence[str] | None = None,
    port: int | str | None = None,
    *,
    limit: int = _LIMIT,
    **kwds: Any,
) -> asyncio.Server:
    """Serve a TCP port, ``client_connected_cb(reader, writer)`` each. Otherwise as ``asyncio.start_server``."""
    loop: Any = asyncio.get_running_loop()
    server: asyncio.Server = await loop.create_server(_factory(client_connected_cb, limit, loop), host, port, **kwds)
    return server


async def open_unix_connection(
    path: str | os.PathLike[str] | None = None, *, limit: int = _LIMIT, **kwds: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a Unix socket; return ``(reader, writer)``. Otherwise as ``asyncio.open_unix_connection``."""
    loop: Any = asyncio.get_running_loop()
    reader, protocol = _reader_and_protocol(limit, loop)
    transport, _ = await loop.create_unix_connection(lambda: protocol, path, **kwds)
    return reader, _writer(transport, protocol, reader, loop)


async def start_unix_server(
    client_connected_cb: _ClientConnected,
    path: str | os.PathLike[str] | None = None,
    *,
    limit: int = _LIMIT,
    **kwds: Any,
) -> asyncio.Server:
    """Serve a Unix socket, ``client_connected_cb(reader, writer)`` each. Otherwise as ``asyncio.start_unix_server``."""
    loop: Any = asyncio.get_running_loop()
    server: asyncio.Server = await loop.create_unix_server(_factory(client_connected_cb, limit, loop), path, **kwds)
    return server


def _reader_and_protocol(limit: int, loop: asyncio.AbstractEventLoop) -> tuple[asyncio.StreamReader, Any]:
    reader = StreamReader(limit=limit, loop=loop)
    return cast(asyncio.StreamReader, reader), _Protocol(reader, loop=loop)


def _writer(transport: Any, protocol: Any, reader: Any, loop: asyncio.AbstractEventLoop) -> asyncio.StreamWriter:
    return cast(asyncio.StreamWriter, StreamWriter(transport, protocol, reader, loop))


def _factory(callback: _ClientConnected, limit: int, loop: asyncio.AbstractEventLoop) -> Callable[[], Any]:
    connected = functools.partial(_connected, callback)
    return lambda: _Protocol(StreamReader(limit=limit, loop=loop), connected, loop=loop)
