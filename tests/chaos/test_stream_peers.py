"""What a bad peer does to streams and TLS: it trickles, stops reading, resets in the middle, or never shakes hands.

`test_peers` has the same for plain transports.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import rig

MIB = 1 << 20

with_and_without_tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Peer:
    """A plain socket that does what it is told to, byte by byte, with TLS by hand where there is TLS."""

    def __init__(self, loop: Any, sock: socket.socket) -> None:
        self.loop = loop
        self.sock = sock
        sock.setblocking(False)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.engine: ssl.SSLObject | None = None

    async def send_out(self, step: int = 1 << 20) -> None:
        """What the engine has to say, in pieces of so many bytes."""
        data = self.outgoing.read()
        for at in range(0, len(data), step):
            await self.loop.sock_sendall(self.sock, data[at : at + step])

    async def shake_hands(self, step: int = 1 << 20) -> None:
        self.engine = rig.tls()[1].wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        while True:
            try:
                self.engine.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.send_out(step)
                self.incoming.write(await self.loop.sock_recv(self.sock, 65536))
        await self.send_out(step)

    async def send(self, data: bytes, step: int = 1 << 20) -> None:
        if self.engine is None:
            for at in range(0, len(data), step):
                await self.loop.sock_sendall(self.sock, data[at : at + step])
        else:
            self.engine.write(data)
            await self.send_out(step)

    async def receive(self, size: int) -> bytes:
        """At most so many bytes; none at the end."""
        if self.engine is None:
            return await self.loop.sock_recv(self.sock, size)  # type: ignore[no-any-return]
        while True:
            try:
                return self.engine.read(size)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                data = await self.loop.sock_recv(self.sock, 65536)
                if not data:
                    return b""
                self.incoming.write(data)


@contextlib.asynccontextmanager
async def meeting(serve: Any, tls: bool, shake: bool = True, **options: Any) -> AsyncIterator[Peer]:
    """A server of streams, and one peer of it."""
    loop = asyncio.get_running_loop()
    if tls:
        options["ssl"] = rig.tls()[0]
    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    sock = socket.socket()
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, server.sockets[0].getsockname())
        peer = Peer(loop, sock)
        if tls and shake:
            await peer.shake_hands()
        yield peer
    finally:
        sock.close()
        server.close()
        await server.wait_closed()


@with_and_without_tls
def test_one_byte_at_a_time(loop: Any, tls: bool) -> None:
    """The handshake, too. Lines come out whole, whatever pieces they came in."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readline())
        got.append(await reader.readexactly(5))
        got.append(await reader.readuntil(b"--"))
        got.append(await reader.read())
        writer.write(b"thanks")
        writer.close()

    async def main() -> None:
        async with meeting(serve, tls, shake=False) as peer:
            if tls:
                await peer.shake_hands(step=1)
            for piece in (b"line\n", b"12345", b"until--", b"rest"):
                await peer.send(piece, step=1)
            if not tls:
                peer.sock.shutdown(socket.SHUT_WR)
            else:
                with contextlib.suppress(ssl.SSLWantReadError):
                    peer.engine.unwrap()  # type: ignore[union-attr]
                await peer.send_out(step=1)
            await rig.until(lambda: len(got) == 4)

    rig.run(loop, main())
    assert got == [b"line\n", b"12345", b"until--", b"rest"]
    assert not loop.reports


@with_and_without_tls
def test_a_peer_that_stops_reading(loop: Any, tls: bool) -> None:
    """`drain` waits at the high-water mark, so memory stays bounded; when the peer reads again, all of it arrives."""
    total, chunk = 8 * MIB, bytes(range(256)) * 64
    most = sent = 0
    done: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most, sent
        while sent < total:
            writer.write(chunk)
            sent += len(chunk)
            most = max(most, writer.transport.get_write_buffer_size())
            await writer.drain()
        writer.close()
        done.append(True)

    async def main() -> None:
        async with meeting(serve, tls) as peer:
            stalled, end = -1, time.monotonic() + rig.PATIENCE
            while stalled != sent or not sent:  # until the writer stands still
                stalled = sent
                await asyncio.sleep(0.05)
                assert time.monotonic() < end
            # What the kernel's buffers hold is gone from the process.
            assert sent < total and not done
            received = bytearray()
            while len(received) < total:
                data = await peer.receive(65536)
                assert data
                received += data
            assert received == chunk * (total // len(chunk))
            await rig.until(lambda: done)

    rig.run(loop, main())
    # TLS has two buffers with marks of their own, before and after the cryptography.
    assert most <= (16 * 64 * 1024 if tls else 64 * 1024 + len(chunk))
    assert not loop.reports


@with_and_without_tls
def test_a_reader_that_stops_reading_holds_its_peer_up(loop: Any, tls: bool) -> None:
    """The other direction: a stream whose user does not read takes in twice its limit and not more."""
    go = asyncio.Event()
    seen: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        while data := await reader.read(MIB):
            seen.append(len(data))
        writer.close()

    async def main() -> None:
        async with meeting(serve, tls, limit=32 * 1024) as peer:
            total, stuck = 16 * MIB, 0
            sending = asyncio.create_task(peer.send(bytes(total)))
            while stuck < 5:
                stuck = stuck + 1 if not sending.done() else -1_000_000
                await asyncio.sleep(0.02)
            assert not sending.done()
            go.set()
            await sending
            await rig.until(lambda: sum(seen) == total)
            assert max(seen) <= 512 * 1024

    rig.run(loop, main())
    assert not loop.reports


@with_and_without_tls
def test_a_reset_in_the_middle_of_a_write(loop: Any, tls: bool) -> None:
    """Writing, draining and reading all end, with a connection error or with an end of the file."""
    ends: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(bytes(MIB))
                await writer.drain()
        except ConnectionError:
            ends.append("write")
        try:
            assert await reader.read(100) == b""
        except ConnectionError:
            pass
        ends.append("read")
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
        ends.append("closed")

    async def main() -> None:
        async with meeting(serve, tls) as peer:
            assert await peer.receive(1000)
            reset(peer.sock)
            await rig.until(lambda: ends[-1:] == ["closed"])

    rig.run(loop, main())
    assert ends == ["write", "read", "closed"]
    assert not loop.reports


@pytest.mark.parametrize("how", ["reset", "close", "garbage", "silence"])
@pytest.mark.parametrize("after", ["nothing", "half a hello", "a hello"])
def test_handshakes_that_break_off(loop: Any, how: str, after: str) -> None:
    """The protocol never hears of such a peer, nothing of it stays open, and the next one is served."""
    served: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(await reader.readline())
        writer.close()

    async def main() -> None:
        options = {"ssl_handshake_timeout": 0.1 if how == "silence" else rig.PATIENCE}
        async with meeting(serve, True, shake=False, **options) as peer:
            address = peer.sock.getpeername()
            peer.engine = rig.tls()[1].wrap_bio(peer.incoming, peer.outgoing, server_hostname="localhost")
            with pytest.raises(ssl.SSLWantReadError):
                peer.engine.do_handshake()
            hello = peer.outgoing.read()
            given = {"nothing": b"", "half a hello": hello[: len(hello) // 2], "a hello": hello}[after]
            await loop.sock_sendall(peer.sock, given)
            if after == "a hello":
                assert await loop.sock_recv(peer.sock, 5)
            if how == "garbage":
                await loop.sock_sendall(peer.sock, b"GET / HTTP/1.1\r\n\r\n" * 1000)
            if how == "reset":
                reset(peer.sock)
            elif how == "close":
                peer.sock.close()
            else:  # the server ends it
                with contextlib.suppress(ConnectionError):
                    while await loop.sock_recv(peer.sock, 65536):
                        pass
            _, writer = await asyncio.open_connection(*address, ssl=rig.tls()[1], server_hostname="localhost")
            writer.write(b"hello\n")
            await rig.until(lambda: served)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    with rig.nothing_left_open():
        rig.run(loop, main())
    assert served == [b"hello\n"]
