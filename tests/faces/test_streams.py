"""``StreamReader`` and ``StreamWriter``: asyncio's own are the measure of ours."""

from __future__ import annotations

import asyncio
import asyncio.streams
import collections.abc
import gc
import inspect
import os
import random
import socket
import sys
import unittest.mock
import warnings
import weakref
from typing import Any

import pytest
import ropewalk
import ropewalk.asyncio

Original: Any = ropewalk.asyncio.StreamReader.__mro__[1]
Native: Any = ropewalk.asyncio.StreamReader
READS = ["read", "readexactly", "readline", "readuntil"]


def run(main: Any) -> Any:
    return ropewalk.run(asyncio.wait_for(main, 20))


async def connected(limit: int = 2**16) -> tuple[Any, Any, Any]:
    """A server that gives its reader and writer, and what a client needs to reach it."""
    got: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda *pair: got.set_result(pair), "127.0.0.1", 0, limit=limit)
    return server, server.sockets[0].getsockname(), got


# What it looks like ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*READS, "__anext__"])
def test_the_methods_are_coroutine_functions_like_the_originals(name: str) -> None:
    ours, original = getattr(Native, name), getattr(Original, name)
    assert inspect.iscoroutinefunction(ours)
    assert inspect.signature(ours) == inspect.signature(original)
    assert ours.__doc__ == original.__doc__
    assert ours.__name__ == name


def test_a_mock_with_our_class_as_specification_is_asynchronous_where_the_class_is() -> None:
    async def main() -> None:
        reader = unittest.mock.create_autospec(Native, instance=True)
        reader.readline.return_value = b"line\n"
        assert await reader.readline() == b"line\n"
        assert not inspect.isawaitable(reader.at_eof())
        writer = unittest.mock.AsyncMock(spec=ropewalk.asyncio.StreamWriter)
        await writer.drain()
        assert not inspect.isawaitable(writer.write(b""))

    run(main())


def test_a_read_is_a_coroutine_for_everything_that_asks() -> None:
    async def main() -> None:
        reader = Native(loop=asyncio.get_running_loop())
        reader.feed_data(b"abc")
        call = reader.read(1)
        assert asyncio.iscoroutine(call)
        assert inspect.isawaitable(call)
        assert isinstance(call, collections.abc.Coroutine)
        assert call.__qualname__ == "StreamReader.read"
        assert await call == b"a"
        assert await asyncio.create_task(reader.read(1)) == b"b"
        assert await asyncio.wait_for(reader.read(1), 5) == b"c"
        assert await asyncio.gather(asyncio.sleep(0, 1), reader.read(0)) == [1, b""]

    run(main())


def test_streams_of_asyncio_s_own_functions_are_native_on_our_loop() -> None:
    async def main() -> None:
        server, address, got = await connected()
        reader, writer = await asyncio.open_connection(*address)
        their_reader, their_writer = await got
        assert type(reader) is Native
        assert type(their_reader) is Native
        assert type(their_writer) is ropewalk.asyncio.StreamWriter
        for stream in (reader, their_reader):
            assert isinstance(stream, Original)
        assert isinstance(writer, ropewalk.asyncio.StreamWriter.__mro__[1])
        writer.close()
        their_writer.close()
        server.close()

    run(main())


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_face_s_own_functions(kind: str, tmp_path: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert type(writer) is ropewalk.asyncio.StreamWriter
        async for line in reader:
            writer.writelines([line.upper()])
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        if kind == "tcp":
            server = await ropewalk.asyncio.start_server(serve, "127.0.0.1", 0, limit=100)
            reader, writer = await ropewalk.asyncio.open_connection(*server.sockets[0].getsockname(), limit=200)
        else:
            server = await ropewalk.asyncio.start_unix_server(serve, str(tmp_path / "s"), limit=100)
            reader, writer = await ropewalk.asyncio.open_unix_connection(tmp_path / "s", limit=200)
        assert type(reader) is Native
        assert type(writer) is ropewalk.asyncio.StreamWriter
        assert reader._limit == 200
        writer.write(b"one\ntwo\nlast")
        assert writer.can_write_eof()
        writer.write_eof()
        assert await reader.read() == b"ONE\nTWO\nLAST"
        assert reader.at_eof()
        writer.close()
        await writer.wait_closed()
        server.close()

    run(main())


def test_install_and_uninstall_replace_the_names() -> None:
    ropewalk.install()
    try:
        assert asyncio.StreamReader is Native
        assert asyncio.streams.StreamWriter is ropewalk.asyncio.StreamWriter
    finally:
        ropewalk.uninstall()
    assert asyncio.StreamReader is Original
    assert asyncio.streams.StreamReader is Original


# What it reads --------------------------------------------------------------------------------------------------


async def outcome(call: Any) -> Any:
    try:
        return await asyncio.wait_for(call, 0.01)
    except asyncio.IncompleteReadError as error:
        return "incomplete", error.partial, error.expected
    except asyncio.LimitOverrunError as error:
        return "overrun", error.args, error.consumed
    except (ValueError, TimeoutError, RuntimeError, TypeError) as error:
        return type(error), *(error.args if isinstance(error, ValueError) else ())


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_fed_and_read_ours_does_what_asyncio_s_does(seed: int) -> None:
    chance = random.Random(seed)
    limit = chance.choice([1, 3, 8, 100])
    separators: list[Any] = [b"\n", b"ab", b"aab", b"c" * 5, b""]
    if sys.version_info >= (3, 13):
        separators += [(b"\n", b"ab"), (b"aab", b"ab"), (), (b"", b"x"), (b"ba", b"b\na", b"a")]
    steps: list[tuple[str, Any]] = []
    for _ in range(60):
        steps.append(
            chance.choice(
                [
                    ("feed_data", bytes(chance.choices(b"abc\n", k=chance.randrange(12)))),
                    ("feed_data", bytearray(chance.choices(b"abc\n", k=chance.randrange(12)))),
                    ("read", (chance.randrange(12),)),
                    ("readexactly", (chance.randrange(-1, 12),)),
                    ("readuntil", (chance.choice(separators),)),
                    ("readline", ()),
                    ("readuntil", ()),
                    ("look", None),
                ]
            )
        )
    steps += [("feed_eof", None)]
    steps += [(name, (5,) if "x" in name else ()) for name in chance.choices(READS, k=6)]
    steps += [("read", ()), ("read", (-1,)), ("read", (10,)), ("at_eof", None)]

    async def play(reader: Any) -> list[Any]:
        transport = Transport()
        reader.set_transport(transport)
        seen: list[Any] = []
        for name, args in steps:
            if name == "feed_data":
                reader.feed_data(args)
            elif name == "feed_eof":
                reader.feed_eof()
            elif name == "at_eof":
                seen.append(reader.at_eof())
            elif name == "look":
                seen.append((reader._paused, list(transport.calls), reader.at_eof()))
                if seed % 2:  # turns our buffer into asyncio's bytearray
                    seen.append(bytes(reader._buffer))
            else:
                seen.append((name, args, await outcome(getattr(reader, name)(*args))))
        return [*seen, transport.calls]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = await asyncio.gather(
            play(Native(limit=limit, loop=loop)), play(Original(limit=limit, loop=loop))
        )
        for mine, original in zip(ours, theirs, strict=True):
            assert mine == original

    run(main())


def test_bytes_are_handed_on_as_the_object_that_came() -> None:
    async def main() -> None:
        reader = Native(loop=asyncio.get_running_loop())
        chunk = os.urandom(1000)
        reader.feed_data(chunk)
        assert await reader.read(5000) is chunk

    run(main())


def test_nothing_large_is_kept_after_it_was_read() -> None:
    async def main() -> None:
        reader = Native(loop=asyncio.get_running_loop())
        chunk = os.urandom(100_000)
        reader.feed_data(chunk)
        before = sys.getrefcount(chunk)  # the reader's reference among them
        got = await reader.read(100_000)
        assert got is chunk
        del got
        assert sys.getrefcount(chunk) == before - 1

    run(main())


def test_the_buffer_that_a_program_looks_at_is_the_buffer() -> None:
    async def main() -> None:
        reader = Native(loop=asyncio.get_running_loop())
        reader.feed_data(b"abc")
        assert reader._buffer == bytearray(b"abc")
        del reader._buffer[:1]
        reader._buffer.extend(b"de")
        reader.feed_data(b"f")
        assert await reader.read(2) == b"bc"
        assert reader._buffer == b"def"
        reader._buffer = bytearray(b"new\nline")
        assert await reader.readline() == b"new\n"
        reader._buffer.clear()
        reader.feed_eof()
        assert await reader.read() == b""
        exported = memoryview(reader._buffer)
        reader._eof = False
        reader.feed_data(b"")
        with pytest.raises(BufferError):
            reader.feed_data(b"x")
        exported.release()

    run(main())


def test_a_limit_that_a_program_changes_later() -> None:
    async def main() -> None:
        reader = Native(limit=4, loop=asyncio.get_running_loop())
        reader._limit = 2**20
        reader.feed_data(b"a" * 1000 + b"\n")
        assert len(await reader.readline()) == 1001
        assert reader._limit == 2**20
        for limit in (float("inf"), 10**30):
            reader = Native(limit=limit, loop=asyncio.get_running_loop())
            reader.feed_data(b"a" * 1000 + b"\n")
            assert len(await reader.readline()) == 1001
        with pytest.raises(ValueError, match="Limit"):
            Native(limit=0, loop=asyncio.get_running_loop())

    run(main())


def test_a_subclass_sees_what_it_overrides() -> None:
    class Counting(Native):  # type: ignore[misc]
        fed = 0

        def feed_data(self, data: bytes) -> None:
            self.fed += len(data)
            super().feed_data(data)

        async def read(self, n: int = -1) -> Any:
            return b"<" + await super().read(n) + b">"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        reader = Counting(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        theirs.sendall(b"hello")
        assert await reader.read(10) == b"<hello>"
        assert reader.fed == 5
        transport.close()
        theirs.close()

    run(main())


# Waiting, and ceasing to ----------------------------------------------------------------------------------------


def test_a_read_that_is_cancelled_takes_nothing() -> None:
    async def main() -> None:
        reader = Native(loop=asyncio.get_running_loop())
        task = asyncio.create_task(reader.readexactly(4))
        await asyncio.sleep(0)
        reader.feed_data(b"ab")
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reader._waiter is None
        # Cancelled in the same turn in which the bytes come.
        task = asyncio.create_task(reader.readexactly(4))
        await asyncio.sleep(0)
        reader.feed_data(b"cd")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # Cancelled before it began.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(4), 0)
        assert await reader.read(10) == b"abcd"

    run(main())


def test_only_one_may_wait() -> None:
    async def main() -> None:
        reader = Native(loop=asyncio.get_running_loop())
        first = asyncio.create_task(reader.read(1))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match=r"readuntil\(\) called while another coroutine is already waiting"):
            await reader.readline()
        reader.feed_data(b"x")
        assert await first == b"x"

    run(main())


def test_an_exception_reaches_who_waits_and_who_comes_later() -> None:
    async def main() -> None:
        reader = Native(loop=asyncio.get_running_loop())
        waiting = asyncio.create_task(reader.read(1))
        await asyncio.sleep(0)
        problem = ConnectionResetError("gone")
        reader.set_exception(problem)
        for call in (waiting, reader.read(1), reader.readline(), reader.readexactly(0)):
            with pytest.raises(ConnectionResetError) as caught:
                await call
            assert caught.value is problem
        assert reader.exception() is problem

    run(main())


def test_a_call_that_nobody_awaits_is_named_in_a_warning() -> None:
    async def main() -> None:
        reader = Native(loop=asyncio.get_running_loop())
        with pytest.warns(RuntimeWarning, match=r"coroutine 'StreamReader.readline' was never awaited"):
            reader.readline()
            gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reader.readline().close()

    run(main())


def test_a_call_driven_by_hand() -> None:
    async def main() -> None:
        reader = Native(loop=asyncio.get_running_loop())
        call = reader.read(5)
        future = call.send(None)
        assert asyncio.isfuture(future)
        with pytest.raises(KeyError):
            call.throw(KeyError("k"))
        with pytest.raises(RuntimeError, match="cannot reuse"):
            call.send(None)
        call = reader.read(5)
        call.send(None)
        with pytest.raises(RuntimeError, match="await wasn't used with future"):
            call.send(None)
        reader.feed_data(b"abc")
        call = reader.read(5)
        with pytest.raises(StopIteration) as caught:
            call.send(None)
        assert caught.value.value == b"abc"
        kept = caught.value
        reader.feed_data(b"def")
        assert await reader.read(5) == b"def"
        assert kept.value == b"abc"  # an exception that somebody keeps stays as it is

    run(main())


def test_wrong_arguments_are_refused() -> None:
    async def main() -> None:
        reader = Native(loop=asyncio.get_running_loop())
        for call in (reader.read("x"), reader.readexactly(1.5), reader.readuntil(5)):
            with pytest.raises(TypeError):
                await call
        for call in (lambda: reader.readline(1), lambda: reader.readexactly(), lambda: reader.read(1, 2)):
            with pytest.raises(TypeError):
                call()
        with pytest.raises(TypeError):
            await Native.read(object())
        with pytest.raises(TypeError):
            Native.read()

    run(main())


def test_nobody_is_kept_alive() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server, address, got = await connected()
        reader, writer = await asyncio.open_connection(*address)
        their_reader, their_writer = await got
        refs = [weakref.ref(stream) for stream in (reader, their_reader, writer, their_writer)]
        their_writer.write(b"bye")
        their_writer.close()
        assert await reader.read() == b"bye"
        writer.close()
        await writer.wait_closed()
        await their_writer.wait_closed()
        server.close()
        del reader, writer, their_reader, their_writer, got, server
        await asyncio.sleep(0)
        gc.collect()
        assert [ref() for ref in refs] == [None] * 4
        assert loop is not None

    run(main())


# Flow control ---------------------------------------------------------------------------------------------------


def test_a_full_buffer_makes_the_peer_wait_and_nothing_is_lost() -> None:
    async def main() -> None:
        server, address, got = await connected(limit=1000)
        data = os.urandom(20_000_000)  # more than the kernel keeps on both sides
        _, writer = await asyncio.open_connection(*address)
        their_reader, their_writer = await got

        async def send() -> None:
            for start in range(0, len(data), 70_000):
                writer.write(data[start : start + 70_000])
                await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        while not their_reader._paused:
            await asyncio.sleep(0)
        assert not sending.done()
        received = bytearray()
        while chunk := await their_reader.read(random.Random(1).randrange(1, 100_000)):
            received += chunk
        assert received == data
        await sending
        writer.close()
        their_writer.close()
        server.close()

    run(main())


def test_drain_waits_and_raises_as_asyncio_s() -> None:
    async def main() -> None:
        server, address, got = await connected()
        reader, writer = await asyncio.open_connection(*address)
        _, their_writer = await got
        their_writer.write(b"x" * 20_000_000)
        draining = asyncio.create_task(their_writer.drain())
        await asyncio.sleep(0.01)
        assert not draining.done()
        writer.transport.abort()
        with pytest.raises(ConnectionError):
            await draining
        with pytest.raises(ConnectionError):
            await their_writer.drain()
        reader.set_exception(KeyError("mine"))
        with pytest.raises(KeyError):
            await writer.drain()
        their_writer.close()
        server.close()

    run(main())


def test_readers_of_pipes_and_of_other_transports() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        end, start = os.pipe()
        reader = Native(loop=loop)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), open(end, "rb", 0))
        os.write(start, b"through a pipe\n")
        assert await reader.readline() == b"through a pipe\n"
        os.close(start)
        assert await reader.read() == b""

    run(main())
    # On asyncio's own loop, too.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())
