"""Large transfers in which every byte is compared, by each way that bytes can go."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import rig

MIB = 1 << 20
TOTAL = 200 * MIB
# Of prime length, so that a piece that is lost, doubled or moved by any round number shows.
PATTERN = random.Random(1).randbytes(1_048_583)
TWICE = memoryview(PATTERN * 2)


class Check:
    """Compares a stream, piece by piece, with what was to arrive."""

    def __init__(self) -> None:
        self.count = 0
        self.done = asyncio.get_running_loop().create_future()
        self.largest = 0

    def take(self, data: Any) -> None:
        view = memoryview(data)
        self.largest = max(self.largest, len(view))
        while view:
            at = self.count % len(PATTERN)
            piece = view[: len(PATTERN)]
            if piece != TWICE[at : at + len(piece)] and not self.done.done():
                self.done.set_exception(AssertionError(f"wrong bytes behind byte {self.count}"))
            self.count += len(piece)
            view = view[len(piece) :]
        if self.count >= TOTAL and not self.done.done():
            self.done.set_result(None)

    async def finished(self) -> None:
        await asyncio.wait_for(self.done, 50)
        assert self.count == TOTAL


def pieces(size: int) -> Iterator[memoryview]:
    """The stream, cut in pieces."""
    sent = 0
    while sent < TOTAL:
        at = sent % len(PATTERN)
        piece = TWICE[at : at + min(size, TOTAL - sent)]
        yield piece
        sent += len(piece)


class Plain(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.check = Check()
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.check.take(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.ended.set_result(exc)


class Buffered(asyncio.BufferedProtocol):
    connection_made = Plain.connection_made
    connection_lost = Plain.connection_lost

    def __init__(self) -> None:
        self.buffer = bytearray(100_003)

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.buffer)  # asyncio's TLS writes into a copy of a bytearray's rest

    def buffer_updated(self, nbytes: int) -> None:
        self.check.take(memoryview(self.buffer)[:nbytes])


class Sender(asyncio.Protocol):
    """Sends the stream, pausing when it is told to."""

    def __init__(self, size: int, how: str = "write") -> None:
        self.parts = pieces(size)
        self.how = how
        self.paused = False
        self.most = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        _, self.high = transport.get_write_buffer_limits()
        self.go_on()

    def pause_writing(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_writing(self) -> None:
        assert self.paused
        self.paused = False
        self.go_on()

    def go_on(self) -> None:
        while not self.paused:
            if self.how == "writelines":
                part: Any = list(itertools.islice(self.parts, 50))
                self.transport.writelines(part)
            else:
                part = next(self.parts, None)
                if part is not None:
                    self.transport.write({"write": part, "bytes": bytes(part), "bytearray": bytearray(part)}[self.how])
            self.most = max(self.most, self.transport.get_write_buffer_size())
            if not part:
                # Not from here: asyncio's pipe transport cannot be closed from within resume_writing.
                asyncio.get_running_loop().call_soon(self.transport.close)
                return


async def transfer(loop: Any, receiver: Any, sender: Any, where: str) -> tuple[Any, Any]:
    received: list[Any] = []

    def factory() -> Any:
        received.append(receiver())
        return received[-1]

    server_tls, client_tls = rig.tls() if where == "tls" else (None, None)
    if where == "unix":
        ours, theirs = socket.socketpair()
        await loop.connect_accepted_socket(factory, ours)
        _, sending = await loop.create_connection(sender, sock=theirs)
        server = None
    else:
        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_tls)
        _, sending = await loop.create_connection(
            sender,
            *server.sockets[0].getsockname(),
            ssl=client_tls,
            server_hostname="localhost" if client_tls else None,
        )
    await rig.until(lambda: received and hasattr(received[0], "check"))
    await received[0].check.finished()
    assert await asyncio.wait_for(received[0].ended, rig.PATIENCE) is None
    if server is not None:
        server.close()
        await server.wait_closed()
    return received[0], sending


@pytest.mark.parametrize("where", ["tcp", "unix", "tls"])
@pytest.mark.parametrize("receiver", [Plain, Buffered])
def test_protocols(our_loop: Any, receiver: Any, where: str) -> None:
    async def main() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _, sending = await transfer(our_loop, receiver, lambda: Sender(300_007), where)
        assert sending.most <= sending.high + 2 * 300_007
        # Flow control holds: nowhere near the whole stream was ever in memory.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024

    rig.run(our_loop, main())
    assert not our_loop.reports


@pytest.mark.parametrize(
    ("how", "size"), [("writelines", 20_011), ("bytes", 1000), ("bytearray", 65_537), ("bytes", MIB)]
)
def test_ways_of_writing(our_loop: Any, how: str, size: int) -> None:
    rig.run(our_loop, transfer(our_loop, Plain, lambda: Sender(size, how), "tcp"))
    assert not our_loop.reports


def test_a_buffer_may_be_changed_once_it_is_written(our_loop: Any) -> None:
    """`write` keeps no reference to memory that the caller may change."""

    async def main() -> None:
        with rig.pair() as (ours, theirs):
            transport, _ = await our_loop.connect_accepted_socket(asyncio.Protocol, ours)
            buffer = bytearray(b"a" * 100_000)
            for i in range(50):
                buffer[:] = bytes([i]) * len(buffer)
                transport.write(buffer)
                transport.write(memoryview(buffer))
                transport.writelines([buffer, memoryview(buffer)[:10]])
            buffer.clear()  # BufferError if it was still exported
            transport.close()
            got = bytearray()
            while data := await our_loop.sock_recv(theirs, MIB):
                got += data
            assert got == b"".join(bytes([i]) * 300_010 for i in range(50))

    rig.run(our_loop, main())


@pytest.mark.parametrize("where", ["tcp", "tls"])
def test_streams(our_loop: Any, where: str) -> None:
    async def main() -> None:
        server_tls, client_tls = rig.tls() if where == "tls" else (None, None)
        checks: list[Check] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            checks.append(Check())
            while data := await reader.read(MIB):
                checks[0].take(data)
            writer.write(b"%d" % checks[0].count)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(),
            ssl=client_tls,
            server_hostname="localhost" if client_tls else None,
        )
        for part in pieces(250_007):
            writer.write(part)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
            assert await reader.read() == b"%d" % TOTAL
        await checks[0].finished()
        writer.close()
        server.close()
        await server.wait_closed()

    rig.run(our_loop, main())
    assert not our_loop.reports


def test_sockets(our_loop: Any) -> None:
    async def main() -> None:
        with rig.pair() as (ours, theirs):
            check = Check()

            async def receive() -> None:
                buffer = bytearray(400_009)
                turn = 0
                while check.count < TOTAL:
                    turn += 1
                    if turn % 2:
                        check.take(await our_loop.sock_recv(ours, 400_009))
                    else:
                        count = await our_loop.sock_recv_into(ours, buffer)
                        check.take(memoryview(buffer)[:count])

            receiving = asyncio.create_task(receive())
            for part in pieces(700_001):
                await our_loop.sock_sendall(theirs, part)
            await receiving
            await check.finished()

    rig.run(our_loop, main())


def test_sendfile(our_loop: Any, tmp_path: Any) -> None:
    async def main() -> None:
        path = tmp_path / "file"
        with open(path, "wb") as file:
            for part in pieces(len(PATTERN)):
                file.write(part)
        received: list[Any] = []

        def factory() -> Any:
            received.append(Plain())
            return received[-1]

        server = await our_loop.create_server(factory, "127.0.0.1", 0)
        transport, _ = await our_loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
        with open(path, "rb") as file:
            assert await our_loop.sendfile(transport, file) == TOTAL
        transport.close()
        await received[0].check.finished()
        assert await received[0].ended is None
        server.close()
        await server.wait_closed()

    rig.run(our_loop, main())


def test_pipes(our_loop: Any) -> None:
    async def main() -> None:
        read_end, write_end = os.pipe()
        _, receiving = await our_loop.connect_read_pipe(Plain, open(read_end, "rb", 0))
        await our_loop.connect_write_pipe(lambda: Sender(99_991), open(write_end, "wb", 0))
        await receiving.check.finished()
        assert await receiving.ended is None

    rig.run(our_loop, main())
    assert not our_loop.reports


def test_both_directions_at_once(our_loop: Any) -> None:
    """Two full streams against each other over one connection."""

    class Both(Sender):
        def connection_made(self, transport: Any) -> None:
            self.check = Check()
            super().connection_made(transport)

        def go_on(self) -> None:
            while not self.paused:
                part = next(self.parts, None)
                if part is None:
                    return
                self.transport.write(part)

        def data_received(self, data: bytes) -> None:
            self.check.take(data)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        _, one = await our_loop.connect_accepted_socket(lambda: Both(200_003), ours)
        _, other = await our_loop.create_connection(lambda: Both(100_003), sock=theirs)
        await one.check.finished()
        await other.check.finished()
        one.transport.close()
        other.transport.close()
        await rig.until(lambda: ours.fileno() == theirs.fileno() == -1)

    rig.run(our_loop, main())
    assert not our_loop.reports
