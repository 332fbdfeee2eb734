"""Descriptors that are closed behind the loop's back, that come again under an old number, or that run out."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct
from typing import Any

import pytest
import rig
from ropewalk.asyncio import SocketTransport


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_reader_of_a_closed_descriptor_is_silent(loop: Any) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        fd = one.fileno()
        calls: list[int] = []
        loop.add_reader(fd, calls.append, 1)
        other.send(b"x")
        one.close()
        other.close()
        await turns()
        known = len(calls)
        await turns(20)
        assert len(calls) == known
        loop.remove_reader(fd)
        assert not loop.remove_reader(fd)

    rig.run(loop, main())
    assert not loop.reports


@pytest.mark.parametrize("removed", [False, True], ids=["forgotten", "removed late"])
def test_a_number_that_comes_again_is_the_new_descriptors(our_loop: Any, removed: bool) -> None:
    """Nothing that was said of the old descriptor is taken for the new one's."""
    loop = our_loop

    async def main() -> None:
        for _ in range(20):
            one, other = socket.socketpair()
            fd = one.fileno()
            old: list[bytes] = []
            new: list[bytes] = []
            loop.add_reader(fd, old.append, b"old")
            loop.add_writer(fd, old.append, b"writer")
            one.close()
            if removed:
                loop.remove_reader(fd)
                loop.remove_writer(fd)
            old.clear()
            third, fourth = socket.socketpair()
            if third.fileno() != fd:
                third, fourth = fourth, third
            assert third.fileno() == fd

            def read(sock: socket.socket = third, got: list[bytes] = new) -> None:
                got.append(sock.recv(10))

            loop.add_reader(third, read)
            if not removed:
                loop.remove_writer(fd)
            await turns()
            assert new == []
            fourth.send(b"y")
            await rig.until(lambda new=new: new)
            assert new == [b"y"] and old == []
            assert loop.remove_reader(third)
            for sock in (other, third, fourth):
                sock.close()

    rig.run(loop, main())
    assert not loop.reports


def test_a_number_that_comes_again_under_a_transport(our_loop: Any) -> None:
    """A reader was forgotten on the number that an accepted connection gets next."""
    loop = our_loop

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for _ in range(10):
            one, other = socket.socketpair()
            for sock in (one, other):
                loop.add_reader(sock.fileno(), lambda: None)
            numbers = (one.fileno(), other.fileno())
            one.close()
            other.close()
            for fd in numbers:
                loop.remove_reader(fd)
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    rig.run(loop, main())
    assert not loop.reports


def test_a_number_that_comes_again_under_a_transport_unremoved(our_loop: Any) -> None:
    """The same, and nobody said remove_reader: the connection is the number's owner, or is told why not."""
    loop = our_loop

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        one, other = socket.socketpair()
        for sock in (one, other):
            loop.add_reader(sock.fileno(), lambda: None)
        one.close()
        other.close()
        served = 0
        for _ in range(5):
            try:
                reader, writer = await asyncio.open_connection(*address)
            except OSError:
                continue
            writer.write(b"ping")
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                served += await reader.readexactly(4) == b"ping"
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        assert served
        server.close()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    rig.run(loop, main())


def test_a_duplicate_keeps_reporting_under_no_number(our_loop: Any) -> None:
    """epoll watches the open file, not the number: a closed number whose file lives on must not spin or call."""
    loop = our_loop

    async def main() -> None:
        one, other = socket.socketpair()
        fd = one.fileno()
        duplicate = os.dup(fd)
        calls: list[int] = []
        loop.add_reader(fd, calls.append, 1)
        await turns()
        one.close()
        loop.remove_reader(fd)
        other.send(b"x")
        third, fourth = socket.socketpair()
        if third.fileno() != fd:
            third, fourth = fourth, third
        new: list[int] = []
        loop.add_reader(third, new.append, 1)
        before = os.times()
        await asyncio.sleep(0.2)
        after = os.times()
        assert calls == [] and new == []
        # The loop slept, however often the system spoke of a file that nobody here knows.
        assert (after.user + after.system) - (before.user + before.system) < 0.15
        loop.remove_reader(third)
        for sock in (other, third, fourth):
            sock.close()
        os.close(duplicate)

    rig.run(loop, main())


def test_a_socket_closed_under_sock_recv(loop: Any) -> None:
    async def main() -> None:
        with rig.pair() as (ours, _):
            receiving = loop.create_task(loop.sock_recv(ours, 10))
            await turns()
            ours.close()
            await turns()
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving
            # The number may be used again.
            with rig.pair() as (one, other):
                other.send(b"x")
                assert await loop.sock_recv(one, 10) == b"x"

    rig.run(loop, main())
    assert not loop.reports


def test_removing_after_closing(loop: Any) -> None:
    one, other = socket.socketpair()
    loop.add_reader(one, lambda: None)
    fd = one.fileno()
    one.close()
    with contextlib.suppress(ValueError):  # asyncio finds the closed socket's registration by looking for it
        loop.remove_reader(one)
    loop.remove_reader(fd)
    assert not loop.remove_reader(fd)
    other.close()


def test_a_closed_socket_cannot_be_watched(loop: Any) -> None:
    one, other = socket.socketpair()
    one.close()
    other.close()
    for add in (loop.add_reader, loop.add_writer):
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            add(one, lambda: None)
    with pytest.raises(OSError, match="Bad file descriptor"):
        loop.add_reader(987654, lambda: None)


def test_a_regular_file_cannot_be_watched(loop: Any, tmp_path: Any) -> None:
    with open(tmp_path / "file", "w") as file:
        with pytest.raises(PermissionError):
            loop.add_reader(file, lambda: None)
        assert not loop.remove_reader(file)


@pytest.mark.parametrize("number", [-1, -5, 2**31, 2**40, None, "3", 1.5, object()], ids=repr)
def test_what_is_no_descriptor(loop: Any, number: Any) -> None:
    for call in (loop.add_reader, loop.add_writer):
        with pytest.raises((ValueError, OSError, OverflowError)):
            call(number, lambda: None)


def test_a_transports_socket_closed_behind_its_back(our_loop: Any) -> None:
    """A bug of the program, which must not become another connection's."""
    loop = our_loop

    async def main() -> None:
        lost: list[Any] = []

        class Watcher(asyncio.Protocol):
            def connection_lost(self, exc: BaseException | None) -> None:
                lost.append(exc)

        one, other = socket.socketpair()
        transport, _ = await loop.connect_accepted_socket(Watcher, one)
        other.send(b"x" * 10)
        os.close(one.detach())
        other.close()
        with rig.pair() as (third, fourth):  # most likely of the same numbers
            await turns()
            transport.write(b"stray")
            transport.abort()
            await rig.until(lambda: lost)
            fourth.send(b"y")
            try:
                assert third.recv(10) == b"y"
            except BlockingIOError:
                pytest.fail("the neighbour's bytes were taken")

    with contextlib.suppress(OSError):
        rig.run(loop, main())


# Out of descriptors -------------------------------------------------------------------------------------------------


def test_no_descriptors_left_for_accept() -> None:
    """The handler is told once a retry, other work goes on, nothing spins, and serving resumes."""
    done = rig.script(
        """
        import asyncio, errno, resource, socket, time
        import ropewalk
        asyncio.constants.ACCEPT_RETRY_DELAY = 0.2
        reports = []
        class Echo(asyncio.Protocol):
            def connection_made(self, transport): self.transport = transport
            def data_received(self, data): self.transport.write(data)
        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: reports.append(context))
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            clients = [socket.socket() for _ in range(5)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (20, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            hoard = []
            try:
                while True:
                    hoard.append(socket.socket())
            except OSError as error:
                assert error.errno == errno.EMFILE
            for client in clients:
                client.setblocking(False)
                await loop.sock_connect(client, address)  # the kernel queues them
            ticks = 0
            began, cpu = time.monotonic(), time.process_time()
            while len(reports) < 3:
                await asyncio.sleep(0.01)
                ticks += 1
                assert time.monotonic() - began < 15
            took, cpu = time.monotonic() - began, time.process_time() - cpu
            assert took >= 0.3, took
            assert ticks > 10, ticks
            assert cpu < took / 2 + 0.2, (cpu, took)
            told = len(reports)
            for report in reports:
                assert report["exception"].errno == errno.EMFILE, report
                assert report["message"] == "socket.accept() out of system resource", report
                assert report["socket"] is not None
            assert told <= took / 0.2 + 2, (told, took)
            for sock in hoard:
                sock.close()
            for client in clients:
                await loop.sock_sendall(client, b"hello")
                assert await loop.sock_recv(client, 5) == b"hello"
                client.close()
            known = len(reports)
            await asyncio.sleep(0.5)
            assert len(reports) == known
            server.close()
            print("well")
        ropewalk.run(main())
        """
    )
    assert done.stdout == "well\n"


def test_no_descriptors_left_for_a_loop() -> None:
    done = rig.script(
        """
        import errno, os, resource
        import ropewalk
        ropewalk.new_event_loop().close()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for limit in range(3, 12):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                ropewalk.new_event_loop().close()
                made = limit
                break
            except OSError as error:
                assert error.errno == errno.EMFILE, error
        else:
            raise SystemExit("never made")
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(os.listdir("/proc/self/fd")) == 4, os.listdir("/proc/self/fd")
        print("well")
        """
    )
    assert done.stdout == "well\n"
    assert "Error" not in done.stderr


def test_no_descriptors_left_for_a_child_or_a_connection() -> None:
    done = rig.script(
        """
        import asyncio, errno, os, resource, socket
        import ropewalk
        async def main():
            loop = asyncio.get_running_loop()
            server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            await loop.run_in_executor(None, int)
            free = 0
            for free in range(9):
                resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
                hoard = []
                try:
                    while True:
                        hoard.append(os.dup(0))
                except OSError:
                    pass
                for _ in range(free):
                    os.close(hoard.pop())
                results = []
                try:
                    process = await asyncio.create_subprocess_exec("true", stdout=-1, stdin=-1)
                    await process.communicate()
                    results.append(process.returncode)
                except OSError as error:
                    results.append(error.errno)
                try:
                    sock = socket.create_connection(address)
                    reader, writer = await asyncio.open_connection(sock=sock)
                    writer.close()
                    await writer.wait_closed()
                    results.append(0)
                except OSError as error:
                    results.append(error.errno)
                assert set(results) <= {0, errno.EMFILE}, results
                for fd in hoard:
                    os.close(fd)
            loop.set_exception_handler(lambda *_: None)
            process = await asyncio.create_subprocess_exec("true")
            assert await process.wait() == 0
            server.close()
            print("well")
        ropewalk.run(main())
        """
    )
    assert done.stdout == "well\n"


# Many ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["close", "abort", "reset"])
def test_thousands_of_connections_come_and_go(our_loop: Any, ending: str) -> None:
    """10,000 over the three endings; each one is made once and lost once, and nothing of them stays."""
    loop = our_loop
    made, lost = [0], [0]

    class Server(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            made[0] += 1
            transport.write(b"hello")

        def connection_lost(self, exc: BaseException | None) -> None:
            lost[0] += 1

    class Client(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            made[0] += 1

        def data_received(self, data: bytes) -> None:
            if ending == "reset":
                sock = self.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if ending == "abort":
                self.transport.abort()
            else:
                self.transport.close()

        def connection_lost(self, exc: BaseException | None) -> None:
            lost[0] += 1

    async def main() -> None:
        server = await loop.create_server(Server, "127.0.0.1", 0, backlog=256)
        address = server.sockets[0].getsockname()
        total = 0
        for _ in range(17):
            await asyncio.gather(*(loop.create_connection(Client, *address) for _ in range(200)))
            total += 400
            await rig.until(lambda total=total: made[0] == lost[0] == total, "all made, all lost")
        server.close()
        await server.wait_closed()

    with rig.nothing_left_open():
        rig.run(loop, main())
        gc.collect()
        assert not [thing for thing in gc.get_objects() if isinstance(thing, (Server, Client, SocketTransport))]
    assert made == lost == [6800]
    assert not loop.reports


def test_many_connections_at_once(our_loop: Any) -> None:
    """More than one poll can report, all speaking at the same moment."""
    loop = our_loop

    async def main() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(100):
                writer.write(data)
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=512)
        address = server.sockets[0].getsockname()
        streams = []
        for _ in range(5):
            streams += await asyncio.gather(*(asyncio.open_connection(*address) for _ in range(80)))
        for round_ in range(3):
            for i, (_, writer) in enumerate(streams):
                writer.write(b"%d-%d|" % (round_, i))
            for i, (reader, _) in enumerate(streams):
                assert await reader.readuntil(b"|") == b"%d-%d|" % (round_, i)
        for _, writer in streams:
            writer.close()
        for _, writer in streams:
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    rig.run(loop, main())
    assert not loop.reports
