"""Peers that break TLS: in the handshake, in mid-record, with garbage, without goodbye, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import rig
import ropewalk
from ropewalk.asyncio._tls import TLSProtocol

MIB = 1 << 20
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # how a long ClientHello begins


@pytest.fixture(params=["asyncio", "openssl", "memory"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(TLSProtocol, "wants_openssl", request.param == "openssl")
    with rig.borrowed(asyncio.SelectorEventLoop if request.param == "asyncio" else ropewalk.new_event_loop) as loop:
        loop.ours = request.param != "asyncio"
        yield loop


Recorder = rig.Recorder


class Served:
    """A server of ours, and connections to it that are the test's."""

    def __init__(self, loop: Any, server: Any, accepted: list[Recorder]) -> None:
        self.loop, self.server, self.accepted = loop, server, accepted

    async def connect(self) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await self.loop.sock_connect(sock, self.server.sockets[0].getsockname())
        return sock

    async def peer(self, sock: socket.socket) -> tuple[rig.TLSPeer, Recorder]:
        peer = rig.TLSPeer(self.loop, sock, rig.tls()[1])
        await peer.shake_hands()
        await rig.until(lambda: self.accepted and self.accepted[-1].heard, "the server's handshake")
        return peer, self.accepted[-1]

    async def still_serves(self) -> None:
        with await self.connect() as sock:
            peer, protocol = await self.peer(sock)
            await peer.write(b"still here?")
            await rig.until(lambda: protocol.data == b"still here?")
            protocol.transport.write(b"yes")
            assert await peer.read_exactly(3) == b"yes"
            protocol.transport.abort()
            await protocol.ended()


@contextlib.asynccontextmanager
async def serving(loop: Any, **options: Any) -> AsyncIterator[Served]:
    accepted: list[Recorder] = []

    def factory() -> Recorder:
        accepted.append(Recorder())
        return accepted[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=rig.tls()[0], **options)
    served = Served(loop, server, accepted)
    yield served
    await served.still_serves()
    server.close()
    await server.wait_closed()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def to_its_end(loop: Any, sock: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        while await loop.sock_recv(sock, 1 << 16):
            pass


# In the handshake -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [b"", HELLO, b"GET / HTTP/1.0\r\n\r\n", b"\0" * 100, b"\xaa" * MIB],
    ids=["nothing", "hello", "http", "zeros", "bulk"],
)
@pytest.mark.parametrize("end", ["reset", "eof"])
def test_a_handshake_that_breaks_off(loop: Any, sent: bytes, end: str) -> None:
    async def main() -> None:
        async with serving(loop) as served:
            for _ in range(3):
                with await served.connect() as sock:
                    with contextlib.suppress(ConnectionError):
                        await loop.sock_sendall(sock, sent)
                    if end == "reset":
                        reset(sock)
                    else:
                        with contextlib.suppress(OSError):
                            sock.shutdown(socket.SHUT_WR)
                        await to_its_end(loop, sock)
        # The protocols of these were never connected.
        assert all(not protocol.heard for protocol in served.accepted[:-1])

    rig.run(loop, main())


def test_a_handshake_that_breaks_off_half_way(loop: Any) -> None:
    async def main() -> None:
        async with serving(loop) as served:
            for cut in (1, 100, -1):
                with await served.connect() as sock:
                    peer = rig.TLSPeer(loop, sock, rig.tls()[1])
                    peer.step(peer.ssl.do_handshake)
                    await peer.flush()
                    await peer.receive()
                    peer.step(peer.ssl.do_handshake)
                    await loop.sock_sendall(sock, peer.pending()[:cut])
                    reset(sock)

    rig.run(loop, main())


def test_closed_by_us_in_the_handshake(loop: Any) -> None:
    async def main() -> None:
        with rig.listening() as mute:
            mute.setblocking(False)
            connecting = loop.create_task(
                loop.create_connection(Recorder, *mute.getsockname(), ssl=rig.tls()[1], server_hostname="localhost")
            )
            sock, _ = await loop.sock_accept(mute)
            with sock:
                assert await loop.sock_recv(sock, 1)
                connecting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await connecting
                await to_its_end(loop, sock)

    rig.run(loop, main())


# Records --------------------------------------------------------------------------------------------------------------


def test_a_record_in_single_bytes(loop: Any) -> None:
    async def main() -> None:
        async with serving(loop) as served:
            with await served.connect() as sock:
                peer, protocol = await served.peer(sock)
                peer.ssl.write(b"x" * 200)
                peer.ssl.write(b"y")
                sent = peer.pending()
                for i in range(len(sent)):
                    await loop.sock_sendall(sock, sent[i : i + 1])
                    await asyncio.sleep(0)
                await rig.until(lambda: len(protocol.data) == 201)
                assert protocol.data == b"x" * 200 + b"y"
                reset(sock)
                await protocol.ended()

    rig.run(loop, main())
    assert not loop.reports


@pytest.mark.parametrize("cut", [1, 3, 5, 6, 1000, 16_000, 16_406, 16_407, 20_000])
def test_a_record_in_two_pieces(loop: Any, cut: int) -> None:
    async def main() -> None:
        async with serving(loop) as served:
            with await served.connect() as sock:
                peer, protocol = await served.peer(sock)
                data = os.urandom(50_000)
                peer.ssl.write(data)
                sent = peer.pending()
                await loop.sock_sendall(sock, sent[:cut])
                for _ in range(20):
                    await asyncio.sleep(0)
                await loop.sock_sendall(sock, sent[cut:])
                await rig.until(lambda: len(protocol.data) == len(data))
                assert protocol.data == data
                reset(sock)
                await protocol.ended()

    rig.run(loop, main())
    assert not loop.reports


def test_data_with_the_last_of_the_handshake_and_the_goodbye(loop: Any) -> None:
    async def main() -> None:
        async with serving(loop) as served:
            with await served.connect() as sock:
                peer = rig.TLSPeer(loop, sock, rig.tls()[1])
                await peer.shake_hands(hold_last=True)
                peer.ssl.write(b"all " * 10_000)
                peer.step(peer.ssl.unwrap)
                await peer.flush()
                protocol = served.accepted[-1]
                assert await protocol.ended() is None
                assert protocol.data == b"all " * 10_000
                assert protocol.heard == ["made", "eof", "lost"]

    rig.run(loop, main())
    assert not loop.reports


def flipped(record: bytes) -> bytes:
    return record[:-1] + bytes([record[-1] ^ 1])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(flipped, "DECRYPTION_FAILED_OR_BAD_RECORD_MAC", id="mac"),
        pytest.param(
            lambda record: b"\x17\x03\x03\xff\xff" + record,
            "DATA_LENGTH_TOO_LONG|ENCRYPTED_LENGTH_TOO_LONG|PACKET_LENGTH_TOO_LONG",
            id="length",
        ),
        pytest.param(
            lambda record: b"GET / HTTP/1.0\r\n\r\n",
            "WRONG_VERSION_NUMBER|HTTP_REQUEST|PACKET_LENGTH_TOO_LONG",
            id="http",
        ),
    ],
)
def test_a_spoilt_record(loop: Any, spoil: Any, reason: str) -> None:
    """What came before it is heard; it ends the connection with OpenSSL's own error."""

    async def main() -> None:
        async with serving(loop) as served:
            with await served.connect() as sock:
                peer, protocol = await served.peer(sock)
                await peer.write(b"good")
                await rig.until(lambda: protocol.data == b"good")
                peer.ssl.write(b"more")
                good = peer.pending()
                peer.ssl.write(b"bad")
                await loop.sock_sendall(sock, good + spoil(peer.pending()))
                error = await protocol.ended()
                assert type(error) is ssl.SSLError, error
                assert error.library == "SSL"
                # What newer versions say of each.
                assert error.reason in ("RECORD_LAYER_FAILURE", *reason.split("|"))
                assert error.errno == ssl.SSL_ERROR_SSL
                assert str(error).startswith("[SSL: ")
                # asyncio forgets what was good in the same read.
                assert protocol.data == (b"goodmore" if loop.ours else b"good")
                await to_its_end(loop, sock)

    rig.run(loop, main())
    assert not loop.reports


def test_an_alert(loop: Any) -> None:
    """A peer that refuses our certificate says so after its handshake is done."""
    server_tls, _ = rig.tls()

    async def main() -> None:
        server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=server_tls)
        stranger = ssl.create_default_context()
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, server.sockets[0].getsockname())
            peer = rig.TLSPeer(loop, sock, stranger)
            with pytest.raises(ssl.SSLCertVerificationError):
                await peer.shake_hands()
            await peer.flush()
            await to_its_end(loop, sock)
        server.close()

    rig.run(loop, main())


# Ends -----------------------------------------------------------------------------------------------------------------


def test_the_end_without_a_goodbye(loop: Any) -> None:
    async def main() -> None:
        async with serving(loop) as served:
            with await served.connect() as sock:
                peer, protocol = await served.peer(sock)
                await peer.write(b"data")
                sock.shutdown(socket.SHUT_WR)
                assert await protocol.ended() is None
                assert protocol.data == b"data"
                assert protocol.heard == ["made", "eof", "lost"]

    rig.run(loop, main())


def test_an_answer_after_the_peers_end_arrives_whole(our_loop: Any) -> None:
    """The peer asks, ends its side of the stream without goodbye, and reads on; slowly.

    asyncio loses what the socket had no room for.
    """
    loop = our_loop

    class Answering(Recorder):
        def data_received(self, data: bytes) -> None:
            self.transport.write(b"a" * 8 * MIB)

    async def main() -> None:
        server = await loop.create_server(Answering, "127.0.0.1", 0, ssl=rig.tls()[0])
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
            sock.setblocking(False)
            await loop.sock_connect(sock, server.sockets[0].getsockname())
            peer = rig.TLSPeer(loop, sock, rig.tls()[1])
            await peer.shake_hands()
            await peer.write(b"?")
            sock.shutdown(socket.SHUT_WR)
            assert await peer.read_exactly(8 * MIB) == b"a" * 8 * MIB
        server.close()

    rig.run(loop, main())
    assert not loop.reports


def test_goodbye_and_no_more(loop: Any) -> None:
    """close_notify, then the peer waits for ours before it closes."""

    async def main() -> None:
        async with serving(loop) as served:
            with await served.connect() as sock:
                peer, protocol = await served.peer(sock)
                protocol.transport.write(b"last words")
                peer.step(peer.ssl.unwrap)
                await peer.flush()
                assert await peer.read_exactly(10) == b"last words"
                assert await peer.read() == b""
                assert await protocol.ended() is None
                assert protocol.heard == ["made", "eof", "lost"]

    rig.run(loop, main())
    assert not loop.reports


@pytest.mark.parametrize("end", ["reset", "close"])
def test_a_peer_that_leaves_while_we_write(loop: Any, end: str) -> None:
    async def main() -> None:
        async with serving(loop) as served:
            with await served.connect() as sock:
                peer, protocol = await served.peer(sock)
                protocol.transport.write(b"x" * 16 * MIB)
                assert await peer.read()
                reset(sock) if end == "reset" else sock.close()
                assert isinstance(await protocol.ended(), OSError | None)
                for _ in range(10):
                    protocol.transport.write(b"nobody")

    rig.run(loop, main())
    assert not loop.reports


def test_a_peer_that_stops_reading(loop: Any) -> None:
    """The protocol is told to pause; nothing is lost when the peer goes on."""

    async def main() -> None:
        async with serving(loop) as served:
            with await served.connect() as sock:
                peer, protocol = await served.peer(sock)
                count = 0
                while "pause" not in protocol.heard:
                    assert count < 1000
                    protocol.transport.write(bytes([count % 256]) * 100_000)
                    count += 1
                await asyncio.sleep(0.01)
                assert "resume" not in protocol.heard
                data = await peer.read_exactly(count * 100_000)
                assert all(data[i * 100_000] == i % 256 == data[i * 100_000 + 99_999] for i in range(count))
                await rig.until(lambda: "resume" in protocol.heard)
                assert protocol.transport.get_write_buffer_size() == 0
                reset(sock)
                await protocol.ended()

    rig.run(loop, main())
    assert not loop.reports


def test_a_peer_that_never_reads_and_a_shutdown(loop: Any) -> None:
    async def main() -> None:
        async with serving(loop, ssl_shutdown_timeout=0.05) as served:
            with await served.connect() as sock:
                _, protocol = await served.peer(sock)
                protocol.transport.write(b"x" * 16 * MIB)
                protocol.transport.close()
                assert isinstance(await protocol.ended(), TimeoutError)

    rig.run(loop, main())


def test_many_that_come_and_go(loop: Any) -> None:
    """Nothing is left of connections that end in any way at any time."""

    async def visit(served: Served, i: int) -> None:
        with await served.connect() as sock:
            peer = rig.TLSPeer(loop, sock, rig.tls()[1])
            match i % 5:
                case 0:
                    reset(sock)
                case 1:
                    peer.step(peer.ssl.do_handshake)
                    await peer.flush()
                    reset(sock)
                case 2:
                    await peer.shake_hands()
                    reset(sock)
                case 3:
                    await peer.shake_hands()
                    await peer.write(b"x" * 100_000)
                    reset(sock)
                case 4:
                    await peer.shake_hands()
                    await peer.write(b"x" * 1000)
                    peer.step(peer.ssl.unwrap)
                    await peer.flush()
                    await to_its_end(loop, sock)

    async def main() -> None:
        async with serving(loop) as served:
            await asyncio.gather(*(visit(served, i) for i in range(50)))
            await rig.until(lambda: all(p.lost for p in served.accepted if "made" in p.heard))
            assert all(p.lost == [None] or isinstance(p.lost[0], OSError) for p in served.accepted if p.lost)

    rig.run(loop, main())
    assert not loop.reports
