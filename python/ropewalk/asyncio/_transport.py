"""``SocketTransport``: the Python part of the native stream transport, which no byte passes through."""

from __future__ import annotations

import asyncio
import asyncio.base_events
import asyncio.constants
import asyncio.trsock
import inspect
import warnings
from typing import Any

from ropewalk import _core

# From Python 3.13 on a server knows its transports, before it only counts them.
_SERVER_KNOWS_CLIENTS = "transport" in inspect.signature(asyncio.base_events.Server._attach).parameters  # type: ignore[attr-defined]


class SocketTransport(_core.StreamTransport):
    """A connected TCP or Unix stream socket; made by the event loop.

    The contract is ``asyncio.Transport``'s: https://docs.python.org/3/library/asyncio-protocol.html#transports.
    Not thread-safe: call it from the event loop's thread.
    """

    _start_tls_compatible = True
    _sendfile_compatible = asyncio.constants._SendfileMode.TRY_NATIVE

    def _make_extra(self, given: dict[str, Any] | None) -> dict[str, Any]:
        sock = self._sock
        local, peer = self._addresses()
        extra = {} if given is None else dict(given)
        if sock is not None:
            extra["socket"] = asyncio.trsock.TransportSocket(sock)
            if local is None:  # a family that only the socket itself can show
                local = _ask(sock.getsockname)
            if peer is None:
                peer = _ask(sock.getpeername)
        extra["sockname"] = local
        extra.setdefault("peername", peer)
        return extra

    def _attach_to(self, server: Any) -> None:
        server._attach(self) if _SERVER_KNOWS_CLIENTS else server._attach()

    def _detach_from(self, server: Any) -> None:
        server._detach(self) if _SERVER_KNOWS_CLIENTS else server._detach()

    def __repr__(self) -> str:
        info = [type(self).__name__]
        if not self._is_open:
            info.append("closed")
        elif self.is_closing():
            info.append("closing")
        info.append(f"fd={self._sock_fd}")
        if self._is_open:
            info.append("read=polling" if self.is_reading() else "read=idle")
            size = self.get_write_buffer_size()
            info.append(f"write=<{'polling' if size else 'idle'}, bufsize={size}>")
        return f"<{' '.join(info)}>"

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if self._is_open:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self._abandon()


def _ask(name: Any) -> Any:
    try:
        return name()
    except OSError:
        return None
