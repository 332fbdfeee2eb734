"""``DatagramTransport``: asyncio's, with each message's way in and out in Rust.

How a transport is closed, what is queued and counted against the water marks, whether an empty datagram is sent:
all that differs from one Python version to the next, and is asyncio's own code. What remains is to receive what has
come and to send what can be sent at once, which is nearly all there ever is.
"""

from __future__ import annotations

import asyncio.selector_events
import socket
from typing import Any

from ropewalk import _core

_Base: Any = asyncio.selector_events._SelectorDatagramTransport  # type: ignore[attr-defined]
_FAMILIES = {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}


class DatagramTransport(_Base):  # type: ignore[misc]
    """A datagram socket; made by the event loop.

    The contract is ``asyncio.DatagramTransport``'s: https://docs.python.org/3/library/asyncio-protocol.html.
    """

    _native: _core.Datagrams | None = None

    def __init__(self, loop: Any, sock: Any, protocol: Any, address: Any, waiter: Any, extra: Any) -> None:
        super().__init__(loop, sock, protocol, address, waiter, extra)
        # A class of the program's own may do more than the system's calls. An address that the transport is held to
        # without being connected is asyncio's to compare.
        connected = bool(self._extra["peername"])
        if type(sock) is socket.socket and sock.family in _FAMILIES and (connected or not address):
            self._native = _core.Datagrams(sock, connected)

    def _read_ready(self) -> None:
        if self._native is None:
            super()._read_ready()
        elif not self._conn_lost:
            self._native.receive(self._loop, self)

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send *data* as one datagram, to *addr* unless the transport is connected."""
        if self._native is not None and not self._buffer and not self._conn_lost:
            try:
                if self._native.send(data, addr):
                    return
            except OSError as error:
                self._protocol.error_received(error)
                return
        super().sendto(data, addr)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            super()._call_connection_lost(exc)
        finally:
            self._native = None  # and with it the socket
