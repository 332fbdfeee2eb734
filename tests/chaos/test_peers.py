"""Peers that reset, stop reading, trickle, hang up by halves: the transport keeps its contract."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from typing import Any

import pytest
import rig

MIB = 1 << 20


class Recorder(rig.Recorder):
    """Notes data among the rest, and answers the peer's end as it is told to."""

    def __init__(self, answer_eof: bool = False) -> None:
        super().__init__()
        self.answer_eof = answer_eof

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.heard[-1] != "data":
            self.heard.append("data")

    def eof_received(self) -> bool:
        super().eof_received()
        return self.answer_eof


async def connected(loop: Any, kind: Any = Recorder, family: str = "tcp") -> tuple[Any, socket.socket]:
    """A protocol on one end and a plain non-blocking socket on the other."""
    if family == "unix":
        ours, theirs = socket.socketpair()
    else:
        with rig.listening() as server:
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
    theirs.setblocking(False)
    _, protocol = await loop.connect_accepted_socket(kind, ours)
    return protocol, theirs


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


families = pytest.mark.parametrize("family", ["tcp", "unix"])


@pytest.mark.parametrize("busy", ["idle", "writing", "paused"])
def test_a_reset(loop: Any, busy: str) -> None:
    async def main() -> None:
        protocol, peer = await connected(loop)
        if busy == "writing":
            protocol.transport.write(bytes(16 * MIB))
            assert protocol.transport.get_write_buffer_size() > 0
        if busy == "paused":
            protocol.transport.pause_reading()
        reset(peer)
        if busy == "paused":
            for _ in range(5):
                await asyncio.sleep(0)
            protocol.transport.resume_reading()
        await protocol.ended()
        (error,) = protocol.lost
        assert isinstance(error, (ConnectionResetError, BrokenPipeError))
        assert protocol.heard[-1] == "lost" and "eof" not in protocol.heard
        assert protocol.transport.get_write_buffer_size() == 0
        protocol.transport.write(b"nobody hears this")
        protocol.transport.close()
        protocol.transport.abort()

    rig.run(loop, main())
    assert not loop.reports  # what networks do is no error of the program


def test_a_reset_carries_its_errno(loop: Any) -> None:
    async def main() -> None:
        protocol, peer = await connected(loop)
        reset(peer)
        await protocol.ended()
        assert protocol.lost[0].errno == errno.ECONNRESET
        assert protocol.lost[0].strerror == "Connection reset by peer"

    rig.run(loop, main())


def test_a_reset_after_data_loses_no_data_that_was_read(loop: Any) -> None:
    """What arrived before the peer's orderly end is delivered, then the end."""

    async def main() -> None:
        for _ in range(20):
            protocol, peer = await connected(loop)
            await loop.sock_sendall(peer, b"x" * 100_000)
            peer.close()
            await protocol.ended()
            assert protocol.data == b"x" * 100_000
            assert protocol.heard == ["made", "data", "eof", "lost"]
            assert protocol.lost == [None]

    rig.run(loop, main())


@families
def test_a_peer_that_stops_reading(loop: Any, family: str) -> None:
    """Writing pauses at the high-water mark and resumes at the low one, strictly in pairs; every byte arrives."""
    total = 24 * MIB
    chunk = bytes(range(256)) * 64

    async def main() -> None:
        protocol, peer = await connected(loop, family=family)
        transport = protocol.transport
        high, low = transport.get_write_buffer_limits()[::-1]
        most = sent = 0
        received = 0
        mismatch = 0
        expected = chunk * 64
        while received < total:
            while sent < total and (protocol.heard[-1] != "pause"):
                transport.write(chunk)
                sent += len(chunk)
                most = max(most, transport.get_write_buffer_size())
            if protocol.heard[-1] == "pause":
                assert transport.get_write_buffer_size() > low
            data = await loop.sock_recv(peer, 256 * 1024)
            assert data
            at = received % 256
            mismatch += data != (expected[at : at + len(data)])
            received += len(data)
        assert received == sent == total and mismatch == 0
        assert most <= high + len(chunk)
        await rig.until(lambda: transport.get_write_buffer_size() == 0)
        signals = [word for word in protocol.heard if word in ("pause", "resume")]
        assert signals and signals == ["pause", "resume"] * (len(signals) // 2)
        transport.close()
        await protocol.ended()
        peer.close()

    rig.run(loop, main())


def test_limits_decide_when_writing_pauses(loop: Any) -> None:
    async def main() -> None:
        protocol, peer = await connected(loop)
        transport = protocol.transport
        transport.set_write_buffer_limits(high=1000, low=500)
        while not transport.get_write_buffer_size():
            transport.write(bytes(MIB))  # until the kernel takes no more
        assert protocol.heard == ["made", "pause"]
        transport.set_write_buffer_limits(high=100 * MIB)
        while transport.get_write_buffer_size():
            await loop.sock_recv(peer, MIB)
        assert protocol.heard == ["made", "pause", "resume"]
        transport.set_write_buffer_limits(high=0)
        while not transport.get_write_buffer_size():
            transport.write(bytes(MIB))
        assert protocol.heard[-1] == "pause"
        transport.abort()
        await protocol.ended()
        peer.close()

    rig.run(loop, main())


def test_pausing_reading_bounds_what_is_read(loop: Any) -> None:
    """The kernel's buffers fill, the sender is held back, and nothing is delivered meanwhile."""

    async def main() -> None:
        protocol, peer = await connected(loop)
        protocol.transport.pause_reading()
        sent = 0
        try:
            while sent < 256 * MIB:
                sent += peer.send(bytes(MIB))
        except BlockingIOError:
            pass
        assert sent < 256 * MIB
        for _ in range(10):
            await asyncio.sleep(0)
        assert not protocol.data
        protocol.transport.resume_reading()
        await rig.until(lambda: len(protocol.data) == sent)
        protocol.transport.pause_reading()
        protocol.transport.pause_reading()  # again is no error
        protocol.transport.resume_reading()
        protocol.transport.resume_reading()
        peer.send(b"last")
        await rig.until(lambda: protocol.data.endswith(b"last"))
        peer.close()
        await protocol.ended()
        assert protocol.lost == [None]

    rig.run(loop, main())


def test_pausing_in_data_received_takes_effect_at_once(our_loop: Any) -> None:
    class Sipper(Recorder):
        calls = 0

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.calls += 1
            self.transport.pause_reading()

    async def main() -> None:
        protocol, peer = await connected(our_loop, Sipper)
        sent = 0
        while sent < MIB:
            sent += peer.send(bytes(64 * 1024))
        while len(protocol.data) < sent:
            known = protocol.calls
            for _ in range(5):
                await asyncio.sleep(0)
            assert protocol.calls <= known + 1
            await rig.until(lambda: not protocol.transport.is_reading())
            protocol.transport.resume_reading()
        peer.close()
        await rig.until(lambda: (protocol.transport.resume_reading(), protocol.lost)[1])

    rig.run(our_loop, main())


@families
def test_one_byte_at_a_time(loop: Any, family: str) -> None:
    async def main() -> None:
        protocol, peer = await connected(loop, family=family)
        for i in range(500):
            peer.send(bytes([i % 256]))
            await rig.until(lambda i=i: len(protocol.data) == i + 1)
        assert protocol.data == bytes(i % 256 for i in range(500))
        back = bytearray()
        for i in range(500):
            protocol.transport.write(bytes([i % 256]))
            back += await loop.sock_recv(peer, 10)
        assert back == protocol.data
        peer.close()
        await protocol.ended()

    rig.run(loop, main())


def test_many_small_writes_in_one_turn_arrive_in_order(loop: Any) -> None:
    async def main() -> None:
        protocol, peer = await connected(loop)
        parts = [b"%d," % i for i in range(20_000)]
        for part in parts:
            protocol.transport.write(part)
        whole = b"".join(parts)
        got = bytearray()
        while len(got) < len(whole):
            got += await loop.sock_recv(peer, 65536)
        assert got == whole
        protocol.transport.close()
        await protocol.ended()
        peer.close()

    rig.run(loop, main())


@families
def test_the_peer_half_closes_and_we_go_on_writing(loop: Any, family: str) -> None:
    async def main() -> None:
        protocol, peer = await connected(loop, lambda: Recorder(answer_eof=True), family)
        await loop.sock_sendall(peer, b"the question")
        peer.shutdown(socket.SHUT_WR)
        await rig.until(lambda: "eof" in protocol.heard)
        assert protocol.heard == ["made", "data", "eof"]
        assert not protocol.transport.is_closing()
        answer = bytes(range(256)) * 20_000
        protocol.transport.write(answer)
        protocol.transport.close()  # flushes first
        got = bytearray()
        while data := await loop.sock_recv(peer, MIB):
            got += data
        assert got == answer
        await protocol.ended()
        assert protocol.lost == [None]
        assert protocol.heard.count("eof") == 1
        peer.close()

    rig.run(loop, main())


@families
def test_we_half_close_and_go_on_reading(loop: Any, family: str) -> None:
    async def main() -> None:
        protocol, peer = await connected(loop, family=family)
        question = bytes(range(256)) * 20_000
        assert protocol.transport.can_write_eof()
        protocol.transport.write(question)
        protocol.transport.write_eof()
        protocol.transport.write_eof()  # again is no error
        with pytest.raises(RuntimeError, match=r"Cannot call write\(\) after write_eof\(\)"):
            protocol.transport.write(b"more")
        with pytest.raises(RuntimeError, match=r"write_eof\(\)"):
            protocol.transport.writelines([b"more"])
        got = bytearray()
        while data := await loop.sock_recv(peer, MIB):
            got += data
        assert got == question
        await loop.sock_sendall(peer, b"the answer")
        await rig.until(lambda: protocol.data == b"the answer")
        assert not protocol.lost
        peer.close()
        await protocol.ended()
        assert protocol.heard[-2:] == ["eof", "lost"] and protocol.lost == [None]

    rig.run(loop, main())


def test_both_half_close(loop: Any) -> None:
    async def main() -> None:
        protocol, peer = await connected(loop, lambda: Recorder(answer_eof=True))
        peer.shutdown(socket.SHUT_WR)
        await rig.until(lambda: "eof" in protocol.heard)
        protocol.transport.write_eof()
        assert await loop.sock_recv(peer, 10) == b""
        assert not protocol.lost
        protocol.transport.close()
        await protocol.ended()
        peer.close()

    rig.run(loop, main())


def test_closing_flushes_first(loop: Any) -> None:
    async def main() -> None:
        protocol, peer = await connected(loop)
        whole = bytes(range(256)) * 40_000
        protocol.transport.write(whole)
        protocol.transport.close()
        assert protocol.transport.is_closing()
        protocol.transport.close()
        await asyncio.sleep(0)
        assert not protocol.lost
        got = bytearray()
        while data := await loop.sock_recv(peer, MIB):
            got += data
        assert got == whole
        await protocol.ended()
        assert protocol.lost == [None]
        peer.close()

    rig.run(loop, main())


def test_closing_delivers_no_more_data(loop: Any) -> None:
    async def main() -> None:
        protocol, peer = await connected(loop)
        protocol.transport.write(bytes(16 * MIB))
        protocol.transport.close()
        peer.send(b"too late")
        for _ in range(10):
            await asyncio.sleep(0)
        with contextlib.suppress(ConnectionResetError):  # the kernel's answer to what nobody read
            while await loop.sock_recv(peer, MIB):
                pass
        await protocol.ended()
        assert not protocol.data
        peer.close()

    rig.run(loop, main())


def test_aborting_drops_what_is_unsent(loop: Any) -> None:
    async def main() -> None:
        protocol, peer = await connected(loop)
        protocol.transport.write(bytes(64 * MIB))
        assert protocol.transport.get_write_buffer_size() > 0
        protocol.transport.abort()
        assert protocol.transport.is_closing()
        assert not protocol.lost, "never from within abort()"
        await protocol.ended()
        assert protocol.lost == [None]
        got = 0
        while data := await loop.sock_recv(peer, MIB):
            got += len(data)
        assert got < 64 * MIB
        peer.close()

    rig.run(loop, main())


def test_writing_after_close_is_ignored_with_a_warning(loop: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        protocol, peer = await connected(loop)
        protocol.transport.abort()
        for _ in range(10):
            protocol.transport.write(b"x")
        await protocol.ended()
        for _ in range(10):
            protocol.transport.write(b"x")
            protocol.transport.writelines([b"x"])
        peer.close()

    rig.run(loop, main())
    assert "socket.send() raised exception." in caplog.text


def test_writing_to_a_peer_that_is_gone(loop: Any) -> None:
    """The error comes by `connection_lost`, never out of `write`."""

    async def main() -> None:
        protocol, peer = await connected(loop, lambda: Recorder(answer_eof=True))
        peer.close()
        await rig.until(lambda: "eof" in protocol.heard)
        while not protocol.lost:
            protocol.transport.write(b"x" * 1000)
            await asyncio.sleep(0)
        (error,) = protocol.lost
        assert isinstance(error, (BrokenPipeError, ConnectionResetError))

    rig.run(loop, main())
    assert not loop.reports


def test_calls_from_within_each_other(our_loop: Any) -> None:
    """A protocol that calls its transport from every callback: no recursion, one connection_lost.

    asyncio's own loop keeps this since Python 3.14; before, a transport could be lost twice.
    """
    loop = our_loop

    class Eager(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=0)
            transport.pause_reading()
            transport.resume_reading()
            transport.write(bytes(8 * MIB))

        def pause_writing(self) -> None:
            super().pause_writing()
            if self.heard.count("pause") < 50:
                self.transport.write(b"more")

        def resume_writing(self) -> None:
            super().resume_writing()
            if self.heard.count("resume") < 3:
                self.transport.write(bytes(8 * MIB))
            else:
                self.transport.write(b"end")
                self.transport.close()

        def connection_lost(self, exc: BaseException | None) -> None:
            super().connection_lost(exc)
            self.transport.close()
            self.transport.abort()
            self.transport.write(b"x")
            self.transport.pause_reading()
            self.transport.resume_reading()

    async def main() -> None:
        protocol, peer = await connected(loop, Eager)
        # Or it grows until it takes a whole write at once, and nobody is paused.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
        got = bytearray()
        while data := await loop.sock_recv(peer, MIB):
            got += data
        await protocol.ended()
        assert got.endswith(b"end")
        assert protocol.lost == [None]
        peer.close()

    rig.run(loop, main())
    assert not loop.reports


@pytest.mark.parametrize("moment", ["connection_made", "data_received", "eof_received"])
@pytest.mark.parametrize("how", ["close", "abort"])
def test_closing_from_a_callback(loop: Any, moment: str, how: str) -> None:
    class Closer(Recorder):
        """One of its methods closes the transport when it has done its own."""

    def closing(self: Any, *args: Any) -> Any:
        result = getattr(Recorder, moment)(self, *args)
        getattr(self.transport, how)()
        return result

    setattr(Closer, moment, closing)

    async def main() -> None:
        protocol, peer = await connected(loop, Closer)
        if moment != "connection_made":
            peer.send(b"x")
        if moment == "eof_received":
            peer.shutdown(socket.SHUT_WR)
        await protocol.ended()
        assert protocol.lost == [None]
        assert protocol.heard.count("lost") == 1
        peer.close()

    rig.run(loop, main())
    assert not loop.reports


def test_changing_the_protocol_in_the_middle(loop: Any) -> None:
    class First(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.next = Buffered()
            self.transport.set_protocol(self.next)
            assert self.transport.get_protocol() is self.next

    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.data = bytearray()
            self.buffer = bytearray(10)
            self.lost: list[Any] = []

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.data += self.buffer[:nbytes]

        def connection_lost(self, exc: BaseException | None) -> None:
            self.lost.append(exc)

    async def main() -> None:
        protocol, peer = await connected(loop, First)
        peer.send(b"plain")
        await rig.until(lambda: protocol.data)
        peer.send(b"buffered, in pieces")
        await rig.until(lambda: len(protocol.next.data) == 19)
        assert protocol.next.data == b"buffered, in pieces"
        peer.close()
        await rig.until(lambda: protocol.next.lost)
        assert protocol.lost == [] and protocol.data == b"plain"

    rig.run(loop, main())


def test_servers_closed_in_the_middle(loop: Any) -> None:
    """Closing a server from an accepted connection's own callback, with others waiting to be accepted."""

    async def main() -> None:
        made: list[Recorder] = []

        class Closer(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                made.append(self)
                server.close()

        server = await loop.create_server(Closer, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        clients = [socket.create_connection(address) for _ in range(10)]
        await rig.until(lambda: made)
        for client in clients:
            client.close()
        for protocol in made:
            await protocol.ended()
        with pytest.raises(OSError):
            await loop.create_connection(Recorder, *address)
        await server.wait_closed()

    rig.run(loop, main())
    assert not loop.reports
