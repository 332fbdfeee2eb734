"""The loop's own socket methods, on both loops alike."""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rig

BIG = bytes(range(256)) * 4096 * 4  # 4 MiB, more than any socket takes at once


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    with rig.pair() as both:
        yield both


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def udp(family: int = socket.AF_INET, address: Any = ("127.0.0.1", 0)) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(address)
    return sock


def test_they_are_coroutines(loop: Any, sockets: Any) -> None:
    one, other = sockets
    assert inspect.iscoroutinefunction(loop.sock_recv)
    coroutine = loop.sock_recv(one, 10)
    assert asyncio.iscoroutine(coroutine)
    coroutine.close()

    async def main() -> None:
        task = loop.create_task(loop.sock_recv(one, 10))
        await turns()
        other.send(b"a")
        assert await task == b"a"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.sock_recv(one, 10), 0.01)
        other.send(b"b")
        assert await asyncio.wait_for(loop.sock_recv(one, 10), rig.PATIENCE) == b"b"

    rig.run(loop, main())


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "later"])
def test_receiving(loop: Any, sockets: Any, waits: bool) -> None:
    one, other = sockets

    async def get(coroutine: Any, data: bytes) -> Any:
        if not waits:
            other.send(data)
            return await coroutine
        task = loop.create_task(coroutine)
        await turns()
        assert not task.done()
        other.send(data)
        return await task

    async def main() -> None:
        for size in (1, 5, 64 * 1024, 1 << 20):
            data = await get(loop.sock_recv(one, size), b"hello")
            assert type(data) is bytes and data == b"hello"[:size]
            if size == 1:
                assert await loop.sock_recv(one, 100) == b"ello"
        buffer = bytearray(8)
        assert await get(loop.sock_recv_into(one, buffer), b"hello") == 5
        assert buffer == b"hello\0\0\0"
        assert await get(loop.sock_recv_into(one, memoryview(buffer)[6:]), b"xyz") == 2
        assert buffer == b"hello\0xy" and await loop.sock_recv(one, 9) == b"z"
        other.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(one, 10) == b"" == await loop.sock_recv(one, 10)
        assert await loop.sock_recv_into(one, buffer) == 0

    rig.run(loop, main())


def test_a_buffer_is_not_held_while_its_bytes_are_waited_for(loop: Any, sockets: Any) -> None:
    one, other = sockets

    async def main() -> None:
        buffer = bytearray(4)
        task = loop.create_task(loop.sock_recv_into(one, buffer))
        await turns()
        buffer.extend(b"1234")
        other.send(b"abcdefgh")
        assert await task == 8 and buffer == b"abcdefgh"

    rig.run(loop, main())


def test_nothing_is_a_legal_size(loop: Any, sockets: Any) -> None:
    one, _ = sockets

    async def main() -> None:
        assert await loop.sock_recv(one, 0) == b""
        assert await loop.sock_recv_into(one, bytearray()) == 0
        await loop.sock_sendall(one, b"")

    rig.run(loop, main())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_sending_much_goes_on_as_there_is_room(loop: Any, sockets: Any, kind: Any) -> None:
    one, other = sockets

    async def main() -> None:
        sending = loop.create_task(loop.sock_sendall(one, kind(BIG)))
        received = bytearray()
        while len(received) < len(BIG):
            received += await loop.sock_recv(other, 1 << 20)
        assert await sending is None and received == BIG

    rig.run(loop, main())


def test_one_socket_reads_and_writes_at_once(loop: Any, sockets: Any) -> None:
    """Two tasks on each socket: the sides know nothing of one another."""
    one, other = sockets

    async def read(sock: socket.socket) -> bytes:
        received = bytearray()
        while len(received) < len(BIG):
            received += await loop.sock_recv(sock, 100_000)
        return bytes(received)

    async def main() -> None:
        back = BIG[::-1]
        here, there, *_ = await asyncio.gather(
            read(one), read(other), loop.sock_sendall(one, BIG), loop.sock_sendall(other, back)
        )
        assert here == back and there == BIG

    rig.run(loop, main())


def test_accept_and_connect(loop: Any) -> None:
    async def main() -> None:
        with rig.listening() as listener:
            listener.setblocking(False)
            for waits in (True, False):
                with socket.socket() as client:
                    client.setblocking(False)
                    accepting = loop.create_task(loop.sock_accept(listener)) if waits else None
                    await turns()
                    assert await loop.sock_connect(client, listener.getsockname()) is None
                    connection, address = await (accepting or loop.sock_accept(listener))
                    with connection:
                        assert type(connection) is socket.socket
                        assert connection.gettimeout() == 0 and not os.get_blocking(connection.fileno())
                        assert not connection.get_inheritable()
                        assert address == client.getsockname() == connection.getpeername()
                        assert (connection.family, connection.type, connection.proto) == (
                            listener.family,
                            listener.type,
                            listener.proto,
                        )
                        await loop.sock_sendall(client, b"x")
                        assert await loop.sock_recv(connection, 5) == b"x"

    rig.run(loop, main())


def test_connect_to_a_name(loop: Any) -> None:
    async def main() -> None:
        with rig.listening() as listener, socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("localhost", listener.getsockname()[1]))
            assert client.getpeername() == listener.getsockname()

    rig.run(loop, main())


def test_unix_sockets(loop: Any, tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            for sock in (listener, client):
                sock.setblocking(False)
            with pytest.raises(FileNotFoundError) as none:
                await loop.sock_connect(client, str(tmp_path / "none"))
            assert none.value.errno == errno.ENOENT
            listener.bind(str(tmp_path / "sock"))
            listener.listen()
            await loop.sock_connect(client, str(tmp_path / "sock"))
            connection, address = await loop.sock_accept(listener)
            with connection:
                assert address == ""
                await loop.sock_sendall(connection, b"x")
                assert await loop.sock_recv(client, 5) == b"x"

    rig.run(loop, main())


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"]
)
def test_a_refused_connect_says_whom_it_tried(loop: Any, family: Any, host: str) -> None:
    async def main() -> None:
        with socket.socket(family) as unused, socket.socket(family) as client:
            try:
                unused.bind((host, 0))
            except OSError:
                pytest.skip(f"no {host} here")
            address = unused.getsockname()
            client.setblocking(False)
            with pytest.raises(ConnectionRefusedError) as refused:
                await loop.sock_connect(client, address[:2])
            assert refused.value.errno == errno.ECONNREFUSED
            assert refused.value.strerror == f"Connect call failed {address}"

    rig.run(loop, main())


def test_datagrams(loop: Any) -> None:
    async def main() -> None:
        with udp() as one, udp() as other:
            here, there = one.getsockname(), other.getsockname()
            assert await loop.sock_sendto(one, b"hello", there) == 5
            assert await loop.sock_recvfrom(other, 100) == (b"hello", here)
            waiting = loop.create_task(loop.sock_recvfrom(other, 3))
            await turns()
            assert await loop.sock_sendto(one, bytearray(b"hello"), there) == 5
            assert await waiting == (b"hel", here)
            assert await loop.sock_sendto(one, b"", there) == 0
            assert await loop.sock_recvfrom(other, 100) == (b"", here)
            buffer = bytearray(4)
            waiting = loop.create_task(loop.sock_recvfrom_into(other, buffer))
            await turns()
            await loop.sock_sendto(one, memoryview(b"hello"), there)
            assert await waiting == (4, here) and buffer == b"hell"
            await loop.sock_sendto(one, b"12345", ("localhost", there[1]))
            assert await loop.sock_recvfrom_into(other, buffer, 2) == (2, here) and buffer == b"12ll"
            with pytest.raises(ValueError, match="nbytes is greater"):
                await loop.sock_recvfrom_into(other, buffer, 5)
            with pytest.raises(OSError) as too_long:
                await loop.sock_sendto(one, bytes(70_000), there)
            assert too_long.value.errno == errno.EMSGSIZE

    rig.run(loop, main())


def test_unix_datagrams_longer_than_any_of_the_internet(loop: Any, tmp_path: Path) -> None:
    async def main() -> None:
        with (
            udp(socket.AF_UNIX, str(tmp_path / "one")) as one,
            udp(socket.AF_UNIX, str(tmp_path / "other")) as other,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody,
        ):
            data = os.urandom(100_000)
            assert await loop.sock_sendto(one, data, str(tmp_path / "other")) == len(data)
            assert await loop.sock_recvfrom(other, 200_000) == (data, str(tmp_path / "one"))
            one.sendto(data, str(tmp_path / "other"))
            assert await loop.sock_recv(other, 200_000) == data
            nobody.sendto(b"x", str(tmp_path / "other"))
            assert await loop.sock_recvfrom(other, 10) == (b"x", None)

    rig.run(loop, main())


def test_a_connected_stream_has_no_sender(loop: Any) -> None:
    async def main() -> None:
        with rig.listening() as listener, socket.create_connection(listener.getsockname()) as client:
            connection, _ = listener.accept()
            with connection:
                connection.send(b"x")
                client.setblocking(False)
                assert await loop.sock_recvfrom(client, 10) == (b"x", None)

    rig.run(loop, main())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda loop, sock: loop.sock_recv(sock, -1),
        lambda loop, sock: loop.sock_recv(sock, "1"),
        lambda loop, sock: loop.sock_recv(None, 1),
        lambda loop, sock: loop.sock_recv_into(sock, b"read only"),
        lambda loop, sock: loop.sock_recv_into(sock, memoryview(bytearray(8))[::2]),
        lambda loop, sock: loop.sock_recvfrom_into(sock, b"read only"),
        lambda loop, sock: loop.sock_sendall(sock, "text"),
        lambda loop, sock: loop.sock_sendall(sock, memoryview(bytearray(8))[::2]),
        lambda loop, sock: loop.sock_sendto(sock, b"x", 1),
        lambda loop, sock: loop.sock_sendto(sock, "text", ("127.0.0.1", 1)),
        lambda loop, sock: loop.sock_connect(sock, 1),
        lambda loop, sock: loop.sock_accept(sock),
        lambda loop, sock: loop.sock_accept(3),
    ],
)
def test_what_is_wrong_raises_what_it_raises_in_asyncio(sockets: Any, wrong: Any) -> None:
    raised = []
    for factory in (asyncio.SelectorEventLoop, rig.OURS.values[0]):
        with rig.borrowed(factory) as loop, pytest.raises(Exception) as caught:
            rig.run(loop, wrong(loop, sockets[0]))
        raised.append((caught.type, str(caught.value)))
    assert raised[0] == raised[1]


def test_a_closed_socket_is_an_error(loop: Any, sockets: Any) -> None:
    one, _ = sockets
    one.close()
    for coroutine in (loop.sock_recv(one, 1), loop.sock_sendall(one, b"x"), loop.sock_accept(one)):
        with pytest.raises(OSError) as bad:
            rig.run(loop, coroutine)
        assert bad.value.errno == errno.EBADF


def test_a_lost_peer_is_an_error(loop: Any) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        one.setblocking(False)
        with one:
            waiting = loop.create_task(loop.sock_sendall(one, BIG))
            await turns()
            other.close()
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                await waiting

    rig.run(loop, main())


def test_tls_sockets_are_refused(loop: Any) -> None:
    _, context = rig.tls()
    with socket.socket() as bare, context.wrap_socket(bare, server_hostname="localhost") as sock:
        for coroutine in (
            loop.sock_recv(sock, 1),
            loop.sock_recv_into(sock, bytearray(1)),
            loop.sock_recvfrom(sock, 1),
            loop.sock_recvfrom_into(sock, bytearray(1)),
            loop.sock_sendall(sock, b"x"),
            loop.sock_sendto(sock, b"x", ("127.0.0.1", 1)),
            loop.sock_connect(sock, ("127.0.0.1", 1)),
            loop.sock_accept(sock),
        ):
            with pytest.raises(TypeError, match="SSLSocket"):
                rig.run(loop, coroutine)
        assert isinstance(sock, ssl.SSLSocket)


def test_debug_mode_asks_for_non_blocking_sockets(loop: Any) -> None:
    loop.set_debug(True)
    one, other = socket.socketpair()
    with one, other:
        for coroutine in (
            loop.sock_recv(one, 1),
            loop.sock_recv_into(one, bytearray(1)),
            loop.sock_recvfrom(one, 1),
            loop.sock_recvfrom_into(one, bytearray(1)),
            loop.sock_sendall(one, b"x"),
            loop.sock_sendto(one, b"x", ("127.0.0.1", 1)),
            loop.sock_connect(one, ("127.0.0.1", 1)),
            loop.sock_accept(one),
        ):
            with pytest.raises(ValueError, match="the socket must be non-blocking"):
                rig.run(loop, coroutine)
        one.setblocking(False)
        other.send(b"x")
        assert rig.run(loop, loop.sock_recv(one, 5)) == b"x"


def test_a_socket_of_a_class_of_its_own_is_used_by_its_methods(loop: Any) -> None:
    class Shouting(socket.socket):
        def recv(self, size: int, flags: int = 0) -> bytes:
            return super().recv(size, flags).upper()

    async def main() -> None:
        one, other = socket.socketpair()
        with Shouting(fileno=one.detach()) as sock, other:
            sock.setblocking(False)
            task = loop.create_task(loop.sock_recv(sock, 10))
            await turns()
            other.send(b"quiet")
            assert await task == b"QUIET"

    rig.run(loop, main())


def test_a_descriptor_of_a_transport_is_not_waited_for(loop: Any, sockets: Any) -> None:
    one, _ = sockets

    async def main() -> None:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=one)
        with pytest.raises(RuntimeError, match="is used by"):
            await loop.sock_recv(one, 1)
        transport.close()
        await turns()

    rig.run(loop, main())


def test_a_waited_for_socket_can_become_a_transport(loop: Any, sockets: Any) -> None:
    """As a client of a proxy does: some talk by hand, then a protocol."""
    one, other = sockets

    async def main() -> None:
        talk = loop.create_task(loop.sock_recv(one, 100))
        await turns()
        other.send(b"talk")
        assert await talk == b"talk"
        received: list[bytes] = []

        class Protocol(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                received.append(data)

        transport, _ = await loop.create_connection(Protocol, sock=one)
        other.send(b"data")
        await rig.until(lambda: received)
        transport.write(b"back")
        assert await loop.sock_recv(other, 100) == b"back"
        transport.close()
        await turns()

    rig.run(loop, main())


def test_audit_events_are_raised() -> None:
    code = """
        import asyncio, socket, sys, ropewalk
        events = []
        sys.addaudithook(lambda event, args: event.startswith("socket.") and events.append((event, args)))
        async def main():
            loop = asyncio.get_running_loop()
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", 9))
            await loop.sock_sendto(sock, b"x", ("127.0.0.1", 9))
            await loop.getaddrinfo("127.0.0.1", 9, type=1)
            await loop.getaddrinfo("localhost", 9, type=1)
            sock.close()
        ropewalk.run(main())
        found = [(event, args) for event, args in events if event != "socket.__new__"]
        assert ("socket.getaddrinfo", ("127.0.0.1", 9, 0, 1, 0, 0)) in found, found
        assert ("socket.getaddrinfo", ("localhost", 9, 0, 1, 0, 0)) in found, found
        assert {"socket.connect", "socket.sendto"} <= {event for event, _ in found}, found
    """
    rig.script(code)
