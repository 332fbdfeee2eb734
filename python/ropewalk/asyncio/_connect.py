"""``create_connection`` to an address in numbers, which is one address, without the machinery for several."""

from __future__ import annotations

import asyncio
import asyncio.base_events
import inspect
import socket
from typing import Any

from ropewalk import _core

_Base: Any = asyncio.SelectorEventLoop
_base_events: Any = asyncio.base_events
_socket: Any = socket

# As long as nobody has put something else in its place, a new socket can be told its mode with its type.
_Socket = socket.socket
_NON_BLOCKING_STREAM = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0)


class ConnectMethods(_Base):  # type: ignore[misc]
    """Opening connections, documented at https://docs.python.org/3/library/asyncio-eventloop.html."""

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any
    ) -> tuple[Any, Any]:
        """Connect to a TCP server; return a (transport, protocol) pair.

        What there is to choose (TLS, several addresses, where from) is asyncio's own code's business.
        """
        # Programs and their tests put sockets of their own in either place.
        is_replaced = _socket.socket is not _Socket or _base_events.socket is not _socket
        if options or self._debug or is_replaced:
            return await super().create_connection(protocol_factory, host, port, **options)  # type: ignore[no-any-return]
        found = _core.numeric_address(host, port)
        if found is None:
            return await super().create_connection(protocol_factory, host, port)  # type: ignore[no-any-return]
        family, address = found
        sock = _Socket(family, _NON_BLOCKING_STREAM, socket.IPPROTO_TCP)
        try:
            if sock.gettimeout() != 0:  # where a type cannot say it
                sock.setblocking(False)
            await self.sock_connect(sock, address)
            protocol = protocol_factory()
            waiter = self.create_future()
            transport = self._make_socket_transport(sock, protocol, waiter)
        except BaseException:
            sock.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol


# What a program may ask a method for: the parameters that this Python documents.
_connect: Any = ConnectMethods.create_connection
_connect.__signature__ = inspect.signature(_Base.create_connection)
