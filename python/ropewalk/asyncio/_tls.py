"""TLS: CPython's ``SSLProtocol`` with its hot half in Rust.

``TLSProtocol`` has two bases, as the event loop has. ``_core.Tls`` decrypts what the socket's transport reads and
encrypts what the program writes, while a connection is up. ``asyncio.sslproto.SSLProtocol``, CPython's own, is what
happens once or twice in a connection's life: the handshake, the shutdown, their timeouts, what is logged when they
fail. Both work on the same ``SSLObject``, made by the program's own ``ssl.SSLContext``, and on the same attributes.

How it works is told in docs/concepts/tls.md.
"""

from __future__ import annotations

import asyncio.base_events
import asyncio.sslproto
import os
import types
from collections.abc import Callable
from typing import Any

from ropewalk import _core

# What a transport that is none of ours (TLS in TLS) fills at a time. More than a record, and far less than the
# 256 KiB of asyncio, which are mapped from the kernel and given back for each connection.
_BUFFER = 32 * 1024


_Protocol: Any = asyncio.sslproto.SSLProtocol
_Transport: Any = asyncio.sslproto._SSLProtocolTransport


class SSLTransport(_core.TlsTransport, _Transport):  # type: ignore[misc]
    """The transport of a TLS connection; made by the event loop. Its name says "ssl", which programs look for.

    The contract is ``asyncio.Transport``'s: https://docs.python.org/3/library/asyncio-protocol.html#transports.
    Not thread-safe: call it from the event loop's thread.
    """


class TLSProtocol(_core.Tls, _Protocol):  # type: ignore[misc]
    """Between a transport and a program's protocol: TLS."""

    _app_transport: Any
    _app_transport_created: bool
    _ssl_buffer: bytearray

    # No buffer until somebody wants one: our own transport never does.
    max_size = 0
    # Whether OpenSSL itself may do the work; otherwise it is Python's SSLObject that is called for each record.
    wants_openssl = os.environ.get("ROPEWALK_TLS") != "memory"

    def _get_app_transport(self) -> Any:
        if self._app_transport is None:
            if self._app_transport_created:
                raise RuntimeError("the transport of a TLS connection is made once")
            transport = self._make_app_transport(SSLTransport)
            transport.__init__(self._loop, self)
            self._app_transport = transport
            self._app_transport_created = True
        return self._app_transport

    def _feed(self, data: bytes) -> None:
        """Take ciphertext in a phase that is CPython's."""
        self._incoming.write(data)
        super().buffer_updated(0)

    def get_buffer(self, n: int) -> memoryview:
        if not self._ssl_buffer:
            self._ssl_buffer = bytearray(_BUFFER)
            self._ssl_buffer_view = memoryview(self._ssl_buffer)
        return self._ssl_buffer_view

    def _do_flush(self) -> None:
        self._do_write()  # what was written before close() goes out before close_notify does
        super()._do_flush()

    def _on_shutdown_complete(self, shutdown_exc: BaseException | None) -> None:
        if shutdown_exc is None:
            self._do_write()  # the transport below is about to close, and sends what it was given by then
        super()._on_shutdown_complete(shutdown_exc)

    def _complain(self, message: str, error: BaseException) -> None:
        self._loop.call_exception_handler(
            {
                "message": message,
                "exception": error,
                "transport": self._app_transport,
                "protocol": self,
            }
        )


class AcceptedTLSProtocol(TLSProtocol):
    """One for a connection that a server accepted: nobody waits for its handshake, so it tells what went wrong."""

    def _wakeup_waiter(self, exc: BaseException | None = None) -> None:
        if exc is None or not self._loop.get_debug():
            return
        self._loop.call_exception_handler(
            {
                "message": "Error on transport creation for incoming connection",
                "exception": exc,
                "protocol": self._app_protocol,
                "transport": self._app_transport,
            }
        )


def _with_our_protocol(function: Any) -> Any:
    """The same function, which finds our class where its module's ``sslproto.SSLProtocol`` was.

    ``start_tls`` differs from version to version in what it does around the protocol; this way it does what the
    running one does.
    """
    theirs = types.SimpleNamespace(**{**vars(asyncio.sslproto), "SSLProtocol": TLSProtocol})
    ours = types.FunctionType(
        function.__code__,
        {**function.__globals__, "sslproto": theirs},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    ours.__kwdefaults__ = function.__kwdefaults__
    ours.__doc__ = function.__doc__
    return ours


start_tls: Callable[..., Any] = _with_our_protocol(asyncio.base_events.BaseEventLoop.start_tls)


def factory_of_accepted(
    loop: Any, factory: Callable[[], Any], sslcontext: Any, timeouts: dict[str, Any]
) -> Callable[[], TLSProtocol]:
    """A protocol factory that puts TLS in front of what ``factory`` makes, for a server's listener."""

    def make() -> TLSProtocol:
        return AcceptedTLSProtocol(loop, factory(), sslcontext, None, server_side=True, **timeouts)

    return make
