"""The loop's own socket methods: coroutines around what ``_core.Loop`` does with a socket.

Each ``_begin_...`` does its operation at once if the socket lets it. If not, no exception is raised: it returns a
future. That of ``_begin_sendall`` and ``_begin_connect`` is done when the operation is, which the reactor goes on
with; the others' when it is time to try again. What it finds unusual (a socket of another class, a host name) is
``NotImplemented``, and asyncio's own code's business.

A coroutine that is cancelled takes its wait back, and with it what the loop holds for it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

_Base: Any = asyncio.SelectorEventLoop


class SocketMethods(_Base):  # type: ignore[misc]
    """``loop.sock_...``, documented at https://docs.python.org/3/library/asyncio-eventloop.html."""

    async def sock_recv(self, sock: socket.socket, n: int) -> bytes:
        """Receive at most *n* bytes from the socket; none are the end of the stream."""
        while True:
            data = self._begin_recv(sock, n)
            if type(data) is bytes:
                return data
            if data is NotImplemented:
                return await super().sock_recv(sock, n)  # type: ignore[no-any-return]
            try:
                await data
            except BaseException:
                self._end_operation(sock, data)
                raise

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> int:
        """Receive into a writable buffer; return the number of bytes written."""
        while True:
            count = self._begin_recv_into(sock, buf)
            if type(count) is int:
                return count
            if count is NotImplemented:
                return await super().sock_recv_into(sock, buf)  # type: ignore[no-any-return]
            try:
                await count
            except BaseException:
                self._end_operation(sock, count)
                raise

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram of at most *bufsize* bytes; return it and the address it came from."""
        while True:
            message = self._begin_recvfrom(sock, bufsize)
            if type(message) is tuple:
                return message
            if message is NotImplemented:
                return await super().sock_recvfrom(sock, bufsize)  # type: ignore[no-any-return]
            try:
                await message
            except BaseException:
                self._end_operation(sock, message)
                raise

    async def sock_recvfrom_into(self, sock: socket.socket, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
        """Receive a datagram into a writable buffer; return the number of bytes written and the sender's address."""
        while True:
            message = self._begin_recvfrom_into(sock, buf, nbytes)
            if type(message) is tuple:
                return message
            if message is NotImplemented:
                return await super().sock_recvfrom_into(sock, buf, nbytes)  # type: ignore[no-any-return]
            try:
                await message
            except BaseException:
                self._end_operation(sock, message)
                raise

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        """Send all of *data* to the socket. On an error it is unknown how much was sent."""
        sent = self._begin_sendall(sock, data)
        if sent is None:
            return
        if sent is NotImplemented:
            await super().sock_sendall(sock, data)
            return
        try:
            await sent
        except BaseException:
            self._end_operation(sock, sent)
            raise

    async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
        """Send *data* as one datagram to *address*; return the number of bytes sent."""
        while True:
            sent = self._begin_sendto(sock, data, address)
            if type(sent) is int:
                return sent
            if sent is NotImplemented:
                return await super().sock_sendto(sock, data, address)  # type: ignore[no-any-return]
            try:
                await sent
            except BaseException:
                self._end_operation(sock, sent)
                raise

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect the socket to *address*; a host name is looked up."""
        connected = self._begin_connect(sock, address)
        if connected is None:
            return
        if connected is NotImplemented:
            await super().sock_connect(sock, address)
            return
        try:
            await connected
        except BaseException:
            self._end_operation(sock, connected)
            raise
        finally:
            connected = None  # an exception keeps this frame, and the future the exception

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection on a listening socket; return its non-blocking socket and the peer's address."""
        while True:
            connection = self._begin_accept(sock)
            if type(connection) is tuple:
                return connection
            if connection is NotImplemented:
                return await super().sock_accept(sock)  # type: ignore[no-any-return]
            try:
                await connection
            except BaseException:
                self._end_operation(sock, connection)
                raise
