"""The echo servers under test: one process, one loop, one way of writing a server.

Each is the plainest program of its kind that a user would write. Run by the harness; prints the
port it listens on and serves until it is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import cast

import loops

# What a program typically asks for. Below the size from which malloc maps and unmaps.
CHUNK = 64 * 1024


class Echo(asyncio.Protocol):
    """Writes back what came, when it comes."""

    transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transports are registered with asyncio's abstract classes.
        self.transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


async def protocol(context: ssl.SSLContext | None) -> int:
    """transport/protocol, over TLS if there is a context."""
    loop = asyncio.get_running_loop()
    return port_of(await loop.create_server(Echo, "127.0.0.1", 0, ssl=context))


async def streams(context: ssl.SSLContext | None) -> int:
    """StreamReader and StreamWriter, over TLS if there is a context."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.close()

    return port_of(await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context))


async def sock(_context: ssl.SSLContext | None) -> int:
    """The loop's sock_* methods on bare sockets."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.setblocking(False)

    async def echo(connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := await loop.sock_recv(connection, CHUNK):
                await loop.sock_sendall(connection, data)

    async def accept() -> None:
        while True:
            connection, _ = await loop.sock_accept(listener)
            keep(loop.create_task(echo(connection)))

    keep(loop.create_task(accept()))
    return int(listener.getsockname()[1])


# The loop itself holds its tasks weakly.
TASKS: set[asyncio.Task[None]] = set()


def keep(task: asyncio.Task[None]) -> None:
    TASKS.add(task)
    task.add_done_callback(TASKS.discard)


SERVERS: dict[str, Callable[[ssl.SSLContext | None], Awaitable[int]]] = {
    "protocol": protocol,
    "streams": streams,
    "sock": sock,
}


async def serve(kind: str, certificate: str | None) -> None:
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    port = await SERVERS[kind](context)
    print(json.dumps({"port": port}), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", required=True, choices=loops.LOOPS)
    parser.add_argument("--kind", required=True, choices=SERVERS)
    parser.add_argument("--core", required=True, type=int)
    parser.add_argument("--certificate", help="a PEM file with key and certificate")
    options = parser.parse_args()
    # Before the loop is made, so that its threads inherit it.
    os.sched_setaffinity(0, {options.core})
    with asyncio.Runner(loop_factory=loops.factory(options.loop)) as runner:
        runner.run(serve(options.kind, options.certificate))


if __name__ == "__main__":
    main()
