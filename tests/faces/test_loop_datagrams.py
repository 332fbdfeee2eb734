"""Datagram endpoints, on both loops alike."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import rig


class Protocol(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: list[tuple[bytes, Any]] = []
        self.errors: list[OSError] = []
        self.lost: list[Any] = []
        self.flow: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append((data, addr))

    def error_received(self, exc: Any) -> None:
        self.errors.append(exc)

    def connection_lost(self, exc: Any) -> None:
        self.lost.append(exc)

    def pause_writing(self) -> None:
        self.flow.append("pause")

    def resume_writing(self) -> None:
        self.flow.append("resume")

    async def get(self, count: int) -> list[tuple[bytes, Any]]:
        await rig.until(lambda: len(self.received) >= count)
        return self.received

    async def close(self) -> None:
        self.transport.close()
        await rig.until(lambda: self.lost)


async def endpoint(loop: Any, kind: Any = Protocol, **options: Any) -> tuple[Any, Any]:
    transport, protocol = await loop.create_datagram_endpoint(kind, **options)
    return transport, protocol


async def bound(loop: Any) -> tuple[Any, Any, Any]:
    transport, protocol = await endpoint(loop, local_addr=("127.0.0.1", 0))
    return transport, protocol, transport.get_extra_info("sockname")


def test_a_transport_is_asyncios(loop: Any) -> None:
    async def main() -> None:
        transport, protocol, address = await bound(loop)
        if sys.version_info >= (3, 13):
            assert isinstance(transport, asyncio.DatagramTransport)
        assert transport.get_extra_info("socket").getsockname() == address
        assert transport.get_extra_info("peername") is None
        assert transport.get_extra_info("none", 5) == 5
        assert transport.get_protocol() is protocol
        assert not transport.is_closing() and f"fd={transport.get_extra_info('socket').fileno()}" in repr(transport)
        assert transport.get_write_buffer_limits() == (16384, 65536) and transport.get_write_buffer_size() == 0
        await protocol.close()
        assert transport.is_closing() and protocol.lost == [None]

    rig.run(loop, main())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_there_and_back(loop: Any, kind: Any) -> None:
    async def main() -> None:
        here, one, address = await bound(loop)
        there, other = await endpoint(loop, remote_addr=address)
        assert there.get_extra_info("peername") == address
        for number in range(40):
            there.sendto(kind(b"%d" % number))
            data, sender = (await one.get(number + 1))[-1]
            assert type(data) is bytes and data == b"%d" % number
            assert sender == there.get_extra_info("sockname")
            here.sendto(kind(data * 2), sender)
            assert (await other.get(number + 1))[-1] == (data * 2, address)
        await one.close()
        await other.close()

    rig.run(loop, main())


def test_ipv6(loop: Any) -> None:
    async def main() -> None:
        try:
            here, one = await endpoint(loop, local_addr=("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        there, other = await endpoint(loop, local_addr=("::1", 0))
        there.sendto(b"six", here.get_extra_info("sockname"))
        assert await one.get(1) == [(b"six", there.get_extra_info("sockname"))]
        here.sendto(b"back", there.get_extra_info("sockname")[:2])
        assert await other.get(1) == [(b"back", here.get_extra_info("sockname"))]
        here.sendto(b"x", ("127.0.0.1", 9))  # of the wrong family
        await rig.until(lambda: one.errors)
        await one.close()
        await other.close()

    rig.run(loop, main())


def test_unix(loop: Any, tmp_path: Path) -> None:
    async def main() -> None:
        here, one = await endpoint(loop, local_addr=str(tmp_path / "here"), family=socket.AF_UNIX)
        there, other = await endpoint(loop, local_addr=str(tmp_path / "there"), family=socket.AF_UNIX)
        _, connected = await endpoint(loop, remote_addr=str(tmp_path / "here"), family=socket.AF_UNIX)
        long = os.urandom(100_000)
        there.sendto(b"short", str(tmp_path / "here"))
        there.sendto(long, str(tmp_path / "here"))
        assert await one.get(2) == [(b"short", str(tmp_path / "there")), (long, str(tmp_path / "there"))]
        connected.transport.sendto(b"nameless")
        assert (await one.get(3))[-1] == (b"nameless", None)
        here.sendto(b"back", str(tmp_path / "there"))
        assert await other.get(1) == [(b"back", str(tmp_path / "here"))]
        here.sendto(b"x", str(tmp_path / "nobody"))
        assert [type(error) for error in one.errors] == [FileNotFoundError]
        for protocol in (one, other, connected):
            await protocol.close()

    rig.run(loop, main())


def test_many_come_in_order_and_leave_others_their_turn(loop: Any) -> None:
    async def main() -> None:
        here, one, address = await bound(loop)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for burst in range(10):
                for number in range(100):
                    sender.sendto(b"%d" % number, address)
                received = await one.get(100)
                assert [data for data, _ in received] == [b"%d" % number for number in range(100)], burst
                one.received.clear()
        await one.close()
        assert here.is_closing()

    rig.run(loop, main())


def test_what_is_received_stops_where_the_protocol_says_so(loop: Any) -> None:
    class Once(Protocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data == b"pause":
                self.transport.pause_reading()
            elif data == b"close":
                self.transport.close()

    async def main() -> None:
        transport, protocol = await endpoint(loop, Once, local_addr=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(transport.get_extra_info("sockname"))
            for data in [b"%d" % number for number in range(50)] + [b"pause", b"after", b"close", b"never"]:
                sender.send(data)
            await protocol.get(51)
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(protocol.received) == 51 and not transport.is_reading()
            transport.resume_reading()
            await rig.until(lambda: protocol.lost)
            assert [data for data, _ in protocol.received[51:]] == [b"after", b"close"]

    rig.run(loop, main())


def test_an_empty_datagram(loop: Any) -> None:
    async def main() -> None:
        _, one, address = await bound(loop)
        there, other = await endpoint(loop, remote_addr=address)
        there.sendto(b"")
        there.sendto(b"x")
        expected = [b"", b"x"] if sys.version_info >= (3, 13) else [b"x"]
        assert [data for data, _ in await one.get(len(expected))] == expected
        await one.close()
        await other.close()

    rig.run(loop, main())


def test_errors_are_told_and_end_nothing(loop: Any) -> None:
    async def main() -> None:
        here, one, address = await bound(loop)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            nobody = gone.getsockname()
        there, other = await endpoint(loop, remote_addr=nobody)
        there.sendto(b"x")
        await rig.until(lambda: other.errors)
        assert [type(error) for error in other.errors] == [ConnectionRefusedError]
        here.sendto(bytes(70_000), address)
        assert [error.errno for error in one.errors] == [errno.EMSGSIZE]
        here.sendto(b"to myself", address)
        assert await one.get(1) == [(b"to myself", address)]
        await one.close()
        await other.close()

    rig.run(loop, main())
    assert not loop.reports


def test_what_is_wrong(loop: Any) -> None:
    async def main() -> None:
        here, one, address = await bound(loop)
        there, other = await endpoint(loop, remote_addr=address)
        for data in ("text", 5, None, [b"x"]):
            with pytest.raises(TypeError, match="bytes-like"):
                here.sendto(data, address)
        with pytest.raises(ValueError, match="Invalid address: must be None or"):
            there.sendto(b"x", ("127.0.0.1", 1))
        there.sendto(b"named", address)
        assert (await one.get(1))[0][0] == b"named"
        await other.close()
        for _ in range(8):
            there.sendto(b"lost")
        here.sendto(b"x", ("127.0.0.1", "port"))
        await rig.until(lambda: one.lost)
        assert isinstance(one.lost[0], TypeError)

    rig.run(loop, main())
    assert [report["message"] for report in loop.reports] == ["Fatal write error on datagram transport"]


def test_an_exception_of_the_protocol_ends_nothing(loop: Any) -> None:
    class Failing(Protocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            raise ZeroDivisionError

    async def main() -> None:
        transport, protocol = await endpoint(loop, Failing, local_addr=("127.0.0.1", 0))
        for _ in range(3):
            transport.sendto(b"x", transport.get_extra_info("sockname"))
        await protocol.get(3)
        await protocol.close()

    rig.run(loop, main())
    assert [type(report["exception"]) for report in loop.reports] == [ZeroDivisionError] * 3


def test_what_cannot_be_sent_now_is_queued_between_the_water_marks(loop: Any, tmp_path: Path) -> None:
    """A Unix socket whose reader does not read is full after some."""

    async def main() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
            reader.bind(str(tmp_path / "reader"))
            reader.setblocking(False)
            transport, protocol = await endpoint(loop, remote_addr=str(tmp_path / "reader"), family=socket.AF_UNIX)
            transport.set_write_buffer_limits(high=3000)
            count = 0
            while not protocol.flow:
                transport.sendto(b"%06d" % count + bytes(1000))
                count += 1
            header = getattr(asyncio.selector_events._SelectorDatagramTransport, "_header_size", 0)  # type: ignore[attr-defined]
            assert transport.get_write_buffer_size() == 3 * (1006 + header)
            late = bytearray(b"%06d" % count + bytes(1000))
            transport.sendto(late)
            late[:] = bytes(1006)
            count += 1
            transport.close()
            assert not protocol.lost
            for number in range(count):
                assert (await loop.sock_recv(reader, 2000))[:6] == b"%06d" % number
            await rig.until(lambda: protocol.lost)
            assert protocol.flow == ["pause", "resume"] and protocol.lost == [None]

    rig.run(loop, main())


def test_abort_drops_what_is_queued(loop: Any, tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
            reader.bind(str(tmp_path / "reader"))
            transport, protocol = await endpoint(loop, remote_addr=str(tmp_path / "reader"), family=socket.AF_UNIX)
            while not transport.get_write_buffer_size():
                transport.sendto(bytes(1000))
            transport.abort()
            assert transport.get_write_buffer_size() == 0 or protocol.lost == []
            await rig.until(lambda: protocol.lost)
            assert protocol.lost == [None]

    rig.run(loop, main())


def test_a_socket_of_the_programs_own(loop: Any) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.connect(peer.getsockname())
            transport, protocol = await endpoint(loop, sock=sock)
            transport.sendto(b"x")
            assert peer.recvfrom(10) == (b"x", transport.get_extra_info("sockname"))
            peer.sendto(b"y", transport.get_extra_info("sockname"))
            assert await protocol.get(1) == [(b"y", peer.getsockname())]
            with pytest.raises(RuntimeError, match="is used by transport"):
                loop.add_reader(sock.fileno(), print)
            await protocol.close()
            assert sock.fileno() == -1

    rig.run(loop, main())


def test_a_broadcasting_one_is_not_connected(loop: Any) -> None:
    async def main() -> None:
        _, one, address = await bound(loop)
        there, other = await endpoint(loop, remote_addr=address, allow_broadcast=True)
        assert there.get_extra_info("peername") is None
        there.sendto(b"x")
        there.sendto(b"y", address)
        assert [data for data, _ in await one.get(2)] == [b"x", b"y"]
        with pytest.raises(ValueError, match="Invalid address"):
            there.sendto(b"z", ("127.0.0.1", 1))
        await one.close()
        await other.close()

    rig.run(loop, main())


def test_a_protocol_can_be_replaced(loop: Any) -> None:
    async def main() -> None:
        transport, protocol, address = await bound(loop)
        second = Protocol()
        transport.set_protocol(second)
        second.connection_made(transport)
        transport.sendto(b"x", address)
        assert await second.get(1) == [(b"x", address)] and not protocol.received
        await second.close()

    rig.run(loop, main())
