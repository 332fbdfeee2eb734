"""TLS by every way to it, with both engines of ours and on asyncio's loop: what the context says holds."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rig
import ropewalk
from ropewalk.asyncio._tls import SSLTransport, TLSProtocol

MIB = 1 << 20
OURS = [pytest.param("openssl", id="ropewalk-openssl"), pytest.param("memory", id="ropewalk-memory")]
ALL = [pytest.param("asyncio", id="asyncio"), *OURS]


def loop_with(engine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(TLSProtocol, "wants_openssl", engine == "openssl")
    with rig.borrowed(asyncio.SelectorEventLoop if engine == "asyncio" else ropewalk.new_event_loop) as loop:
        loop.engine = engine
        yield loop


@pytest.fixture(params=ALL)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield from loop_with(request.param, monkeypatch)


@pytest.fixture(params=OURS)
def our_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield from loop_with(request.param, monkeypatch)


class Recorder(rig.Recorder):
    async def got(self, size: int) -> bytes:
        await rig.until(lambda: len(self.data) >= size or self.lost, f"{size} bytes")
        assert len(self.data) == size, (len(self.data), self.lost)
        return bytes(self.data)


class Echo(Recorder):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Connection:
    """A client and a server's protocol, connected over TLS."""

    def __init__(self, loop: Any, client: Any = Recorder, server: Any = Recorder, **options: Any) -> None:
        self.loop, self.options = loop, options
        self.factories = client, server
        self.contexts = options.pop("contexts", None) or rig.tls()

    async def __aenter__(self) -> Connection:
        accepted: list[Any] = []

        def factory() -> Any:
            accepted.append(self.factories[1]())
            return accepted[-1]

        self.server = await self.loop.create_server(factory, "127.0.0.1", 0, ssl=self.contexts[0], **self.options)
        _, self.near = await self.loop.create_connection(
            self.factories[0],
            *self.server.sockets[0].getsockname(),
            ssl=self.contexts[1],
            server_hostname="localhost",
            **self.options,
        )
        await rig.until(lambda: accepted and accepted[0].heard, "the server's handshake")
        self.far = accepted[0]
        return self

    async def __aexit__(self, *_: object) -> None:
        for end in (self.near, self.far):
            end.transport.close()
        for end in (self.near, self.far):
            await rig.until(lambda end=end: "lost" in end.heard, "the end")
        self.server.close()
        await self.server.wait_closed()


def both(*contexts: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    for context in contexts:
        context.minimum_version = context.maximum_version = version


# The path -------------------------------------------------------------------------------------------------------------


def test_every_way_is_the_native_one(our_loop: Any) -> None:
    server_tls, client_tls = rig.tls()

    def check(transport: Any) -> None:
        assert type(transport) is SSLTransport
        assert isinstance(transport, asyncio.sslproto._SSLProtocolTransport)
        assert transport._ssl_protocol._engine == our_loop.engine

    async def main() -> None:
        async with Connection(our_loop) as c:
            check(c.near.transport)
            check(c.far.transport)
        async with asyncio.timeout(rig.PATIENCE):

            async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await writer.start_tls(server_tls)
                check(writer.transport)
                writer.write(await reader.readline())
                writer.close()

            server = await asyncio.start_server(upgrade, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await writer.start_tls(client_tls, server_hostname="localhost")
            check(writer.transport)
            writer.write(b"line\n")
            assert await reader.read() == b"line\n"
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

    rig.run(our_loop, main())
    assert not our_loop.reports


def test_contexts_with_callbacks_of_python_use_pythons_object(our_loop: Any, tmp_path: Path) -> None:
    """Only `_ssl` itself passes on what those raise."""
    server_tls, client_tls = rig.fresh_tls()
    client_tls.keylog_filename = str(tmp_path / "keys")
    seen: list[Any] = []
    server_tls._msg_callback = lambda *args: seen.append(args)  # type: ignore[attr-defined]

    async def main() -> None:
        async with Connection(our_loop, server=Echo, contexts=(server_tls, client_tls)) as c:
            assert c.near.transport._ssl_protocol._engine == "memory"
            assert c.far.transport._ssl_protocol._engine == "memory"
            before = len(seen)
            c.near.transport.write(b"x" * 20_000)
            await c.near.got(20_000)
            assert len(seen) > before

    rig.run(our_loop, main())
    assert "CLIENT_TRAFFIC_SECRET_0" in (tmp_path / "keys").read_text()
    assert not our_loop.reports


def test_an_environment_variable_chooses_the_engine() -> None:
    code = "from ropewalk.asyncio._tls import TLSProtocol; print(TLSProtocol.wants_openssl)"
    assert rig.script(code, env={"ROPEWALK_TLS": "memory"}).stdout == "False\n"
    assert rig.script(code, env={"ROPEWALK_TLS": ""}).stdout == "True\n"


# What the context says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_extra_info(loop: Any, version: ssl.TLSVersion) -> None:
    contexts = rig.fresh_tls(mutual=True)
    both(*contexts, version=version)

    async def main() -> None:
        async with Connection(loop, server=Echo, contexts=contexts) as c:
            c.near.transport.write(b"tickets, if any, come before this")
            await c.near.got(33)
            for end, context in zip((c.far, c.near), contexts, strict=True):
                ask = end.transport.get_extra_info
                assert ask("sslcontext") is context
                assert ask("peercert")["subject"][0][0] == ("commonName", "localhost")
                assert ask("cipher")[1] == version.name.replace("_", ".")
                assert ask("compression") is None
                assert ask("ssl_object").version() == version.name.replace("_", ".")
                assert ask("ssl_object").getpeercert() == ask("peercert")
                assert ask("socket").fileno() >= 0
                assert ask("nothing", "default") == "default"
            assert c.near.transport.get_extra_info("ssl_object").session is not None
            assert c.near.transport.get_extra_info("peername") == c.far.transport.get_extra_info("sockname")

    rig.run(loop, main())
    assert not loop.reports


def test_a_client_without_a_certificate_is_refused(loop: Any) -> None:
    server_tls, _ = rig.fresh_tls(mutual=True)
    both(server_tls, version=ssl.TLSVersion.TLSv1_2)

    async def main() -> None:
        server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=server_tls)
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await loop.create_connection(
                Recorder, *server.sockets[0].getsockname(), ssl=rig.tls()[1], server_hostname="localhost"
            )
        server.close()

    rig.run(loop, main())


def test_a_certificate_may_be_asked_for_later(loop: Any) -> None:
    """Post-handshake authentication: the client answers from inside a read, the server learns it in one."""
    server_tls, client_tls = rig.fresh_tls(mutual=True)
    server_tls.verify_mode = ssl.CERT_OPTIONAL
    server_tls.post_handshake_auth = client_tls.post_handshake_auth = True

    async def main() -> None:
        async with Connection(loop, client=Echo, contexts=(server_tls, client_tls)) as c:
            session = c.far.transport.get_extra_info("ssl_object")
            assert session.getpeercert() is None
            session.verify_client_post_handshake()
            c.far.transport.write(b"who are you?")
            await c.far.got(12)
            assert session.getpeercert()["subject"][0][0] == ("commonName", "localhost")

    rig.run(loop, main())
    assert not loop.reports


def test_sni_and_alpn(loop: Any) -> None:
    server_tls, client_tls = rig.fresh_tls()
    other_tls, _ = rig.fresh_tls()
    asked: list[Any] = []

    def choose(session: Any, name: str | None, context: ssl.SSLContext) -> None:
        asked.append((name, context))
        session.context = other_tls

    server_tls.sni_callback = choose
    other_tls.set_alpn_protocols(["h2", "http/1.1"])
    server_tls.set_alpn_protocols(["h2", "http/1.1"])
    client_tls.set_alpn_protocols(["spdy", "http/1.1"])

    async def main() -> None:
        async with Connection(loop, server=Echo, contexts=(server_tls, client_tls)) as c:
            for end in (c.near, c.far):
                assert end.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
            assert c.far.transport.get_extra_info("ssl_object").context is other_tls
            c.near.transport.write(b"hello")
            assert await c.near.got(5) == b"hello"

    rig.run(loop, main())
    assert asked == [("localhost", server_tls)]
    assert not loop.reports


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")
def test_keys_are_updated(loop: Any) -> None:
    """The peer wants new keys, ours too: OpenSSL answers from inside a read."""
    server_tls, _ = rig.fresh_tls()

    async def main() -> None:
        accepted: list[Echo] = []

        def factory() -> Echo:
            accepted.append(Echo())
            return accepted[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_tls)
        port = server.sockets[0].getsockname()[1]
        client = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-quiet", "-no_ign_eof"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert client.stdin is not None and client.stdout is not None and client.stderr is not None
        for line in (b"one\n", b"K\n", b"two\n", b"k\n", b"three\n"):
            client.stdin.write(line)
            if len(line) > 2:
                assert await client.stdout.readexactly(len(line)) == line
            else:
                while b"KEYUPDATE" not in await client.stderr.readline():
                    pass
        client.stdin.write(b"Q\n")
        client.stdin.close()
        await client.wait()
        await accepted[0].ended()
        server.close()

    rig.run(loop, main())
    assert not loop.reports


# Bytes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_bytes_of_every_size_arrive(loop: Any, version: ssl.TLSVersion) -> None:
    contexts = rig.fresh_tls()
    both(*contexts, version=version)

    async def main() -> None:
        async with Connection(loop, server=Echo, contexts=contexts) as c:
            for size in (1, 1000, 16_383, 16_384, 16_385, 65_536, 114_688, 114_689, 300_000, 3 * MIB):
                sent = os.urandom(size)
                c.near.data.clear()
                c.near.transport.write(sent)
                assert await c.near.got(size) == sent

    rig.run(loop, main())
    assert not loop.reports


def test_ways_of_writing(loop: Any) -> None:
    async def main() -> None:
        async with Connection(loop) as c:
            write = c.near.transport.write
            buffer = bytearray(b"a" * 10)
            write(b"")
            write(buffer)
            buffer[:] = b"b" * 10
            write(memoryview(buffer)[::1])
            c.near.transport.writelines([b"c" * 5, bytearray(b"d" * 5), memoryview(b"e" * 5)])
            c.near.transport.writelines(bytes([i]) for i in b"fgh")
            c.near.transport.writelines([b"", b"x" * 20_000, b"y", b"z" * 40_000])
            c.near.transport.writelines([])
            expected = b"a" * 10 + b"b" * 10 + b"cccccdddddeeeee" + b"fgh" + b"x" * 20_000 + b"y" + b"z" * 40_000
            assert await c.far.got(len(expected)) == expected
            with pytest.raises(TypeError, match="data: expecting a bytes-like instance, got str"):
                write("text")
            with pytest.raises(TypeError):
                write()
            assert not c.near.transport.can_write_eof()
            with pytest.raises(NotImplementedError):
                c.near.transport.write_eof()

    rig.run(loop, main())
    assert not loop.reports


def test_what_waits_may_be_changed(our_loop: Any) -> None:
    """A buffer that there was no room for is copied: it is the caller's again when write returns."""

    async def main() -> None:
        async with Connection(our_loop) as c:
            c.far.transport.pause_reading()
            buffer = bytearray(100_000)
            count = 0
            while "pause" not in c.near.heard:
                buffer[:] = bytes([count]) * len(buffer)
                c.near.transport.write(buffer)
                count += 1
            buffer.clear()
            c.far.transport.resume_reading()
            data = await c.far.got(count * 100_000)
            assert all(data[i * 100_000] == i == data[(i + 1) * 100_000 - 1] for i in range(count))

    rig.run(our_loop, main())


class Buffered(asyncio.BufferedProtocol):
    """Lends small and odd buffers, new ones each time."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.heard: list[str] = []
        self.hints: list[int] = []
        self.sizes = [1, 7, 1000, 16_384, 100_000]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.heard.append("made")

    def get_buffer(self, sizehint: int) -> bytearray:
        self.hints.append(sizehint)
        self.lent = bytearray(self.sizes[len(self.hints) % len(self.sizes)])
        return self.lent

    def buffer_updated(self, nbytes: int) -> None:
        assert 0 < nbytes <= len(self.lent)
        self.data += self.lent[:nbytes]
        self.lent.clear()  # BufferError if it was still in use

    def eof_received(self) -> None:
        self.heard.append("eof")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.heard.append("lost")


def test_buffered_protocols_get_every_byte(our_loop: Any) -> None:
    """asyncio reads into a copy of what a bytearray lent, and so loses all records of a read but the first."""

    async def main() -> None:
        async with Connection(our_loop, server=Buffered) as c:
            sent = os.urandom(MIB)
            for part in range(0, MIB, 33_333):
                c.near.transport.write(sent[part : part + 33_333])
            await rig.until(lambda: len(c.far.data) == MIB)
            assert c.far.data == sent
            c.near.transport.close()
            await rig.until(lambda: "lost" in c.far.heard)
            assert c.far.heard == ["made", "eof", "lost"]

    rig.run(our_loop, main())
    assert not our_loop.reports


def test_a_buffered_protocol_that_lends_nothing(our_loop: Any) -> None:
    class Empty(Buffered):
        def get_buffer(self, sizehint: int) -> bytearray:
            return bytearray()

    async def main() -> None:
        async with Connection(our_loop, server=Empty) as c:
            c.near.transport.write(b"hello")
            await rig.until(lambda: "lost" in c.far.heard)

    rig.run(our_loop, main())
    assert "empty buffer" in str(our_loop.reports[0]["exception"])


@pytest.mark.parametrize("pauses", ["between", "inside"])
def test_a_paused_protocol_gets_nothing_and_loses_nothing(loop: Any, pauses: str) -> None:
    class Pausing(Recorder):
        def data_received(self, data: bytes) -> None:
            assert not paused
            super().data_received(data)
            if pauses == "inside":
                self.transport.pause_reading()
                paused.append(True)
                loop.call_later(0.001, self.go_on)

        def go_on(self) -> None:
            paused.clear()
            self.transport.resume_reading()

    paused: list[bool] = []

    async def main() -> None:
        async with Connection(loop, server=Pausing) as c:
            sent = os.urandom(2 * MIB)
            if pauses == "between":
                c.far.transport.pause_reading()
                assert not c.far.transport.is_reading()
                paused.append(True)
            c.near.transport.write(sent)
            if pauses == "between":
                # It is read ahead, up to the mark, and waits.
                await rig.until(lambda: c.far.transport.get_read_buffer_size() >= 256 * 1024)
                c.far.go_on()
            assert await c.far.got(len(sent)) == sent

    rig.run(loop, main())
    assert not loop.reports


def test_marks(our_loop: Any) -> None:
    async def main() -> None:
        async with Connection(our_loop) as c:
            transport = c.near.transport
            assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
            with pytest.raises(ValueError, match="must be >= low"):
                transport.set_write_buffer_limits(high=1, low=2)
            transport.set_write_buffer_limits(high=200_000, low=100_000)
            c.far.transport.pause_reading()
            total = 0
            while "pause" not in c.near.heard:
                transport.write(b"x" * 10_000)
                total += 10_000
                assert total < 200 * MIB
            assert 200_000 <= transport.get_write_buffer_size() < 220_000
            assert c.near.heard == ["made", "pause"]
            c.far.transport.resume_reading()
            await c.far.got(total)
            assert c.near.heard == ["made", "pause", "resume"]
            assert transport.get_write_buffer_size() == 0

    rig.run(our_loop, main())
    assert not our_loop.reports


def test_both_directions_at_once(loop: Any) -> None:
    class Full(Recorder):
        """Sends 4 MiB as it is allowed to, and reads meanwhile."""

        left = 64
        paused = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=100_000)
            loop.call_soon(self.go_on)

        def go_on(self) -> None:
            while self.left and not self.paused:
                self.left -= 1
                self.transport.write(bytes([self.left]) * 65_536)

        def pause_writing(self) -> None:
            self.paused = True

        def resume_writing(self) -> None:
            self.paused = False
            self.go_on()

    async def main() -> None:
        async with Connection(loop, client=Full, server=Full) as c:
            expected = b"".join(bytes([i]) * 65_536 for i in reversed(range(64)))
            assert await c.near.got(len(expected)) == expected
            assert await c.far.got(len(expected)) == expected

    rig.run(loop, main())
    assert not loop.reports


# Ends -----------------------------------------------------------------------------------------------------------------


def test_close_sends_what_was_written(loop: Any) -> None:
    async def main() -> None:
        async with Connection(loop) as c:
            c.far.transport.pause_reading()
            c.near.transport.write(b"x" * MIB)
            c.near.transport.write(b"y" * 4 * MIB)
            c.near.transport.close()
            assert c.near.transport.is_closing()
            c.near.transport.write(b"too late")
            c.far.transport.resume_reading()
            assert await c.far.got(5 * MIB) == b"x" * MIB + b"y" * 4 * MIB
            assert await c.far.ended() is None
            assert await c.near.ended() is None
            assert [word for word in c.far.heard if word in ("made", "eof", "lost")] == ["made", "eof", "lost"]

    rig.run(loop, main())
    assert not loop.reports


def test_abort_ends_at_once(loop: Any) -> None:
    async def main() -> None:
        async with Connection(loop) as c:
            c.far.transport.pause_reading()
            c.near.transport.write(b"x" * 4 * MIB)
            c.near.transport.abort()
            assert await c.near.ended() is None
            for _ in range(10):
                c.near.transport.write(b"nobody hears this")
            c.far.transport.resume_reading()
            await c.far.ended()

    rig.run(loop, main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_the_end_from_inside_a_callback(loop: Any, how: str) -> None:
    class Ending(Recorder):
        def data_received(self, data: bytes) -> None:
            assert not self.transport.is_closing()
            super().data_received(data)
            getattr(self.transport, how)()

    async def main() -> None:
        async with Connection(loop, server=Ending) as c:
            c.near.transport.write(b"x" * 300_000)
            # Closed while the peer still sends: OpenSSL may call that an error, as asyncio has it.
            await c.far.ended()
            await c.near.ended()

    rig.run(loop, main())


def test_another_protocol_from_inside_a_callback(loop: Any) -> None:
    class Switching(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.set_protocol(second)
            second.transport = self.transport

    second = Recorder()

    async def main() -> None:
        async with Connection(loop, server=Switching) as c:
            c.near.transport.write(b"first")
            await c.far.got(5)
            assert c.far.transport.get_protocol() is second
            c.near.transport.write(b"second")
            assert await second.got(6) == b"second"
            c.near.transport.close()
            assert await second.ended() is None
            c.far.heard.append("lost")

    rig.run(loop, main())
    assert not loop.reports


def test_a_protocol_that_raises(loop: Any) -> None:
    class Raising(Recorder):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError("the protocol's")

    async def main() -> None:
        async with Connection(loop, server=Raising) as c:
            c.near.transport.write(b"x")
            assert isinstance(await c.far.ended(), ZeroDivisionError)
            await c.near.ended()

    rig.run(loop, main())
    assert [str(report["exception"]) for report in loop.reports] == ["the protocol's"]
    assert loop.reports[0]["message"] == "Fatal error on SSL protocol"


def test_a_peer_that_does_not_say_goodbye(loop: Any) -> None:
    """The shutdown has a timeout of its own."""
    server_tls, client_tls = rig.tls()

    async def main() -> None:
        accepted: list[Recorder] = []

        def factory() -> Recorder:
            accepted.append(Recorder())
            return accepted[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_tls, ssl_shutdown_timeout=0.05)
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, server.sockets[0].getsockname())
            peer = rig.TLSPeer(loop, sock, client_tls)
            await peer.shake_hands()
            await rig.until(lambda: accepted and accepted[0].heard)
            accepted[0].transport.close()
            assert isinstance(await accepted[0].ended(), TimeoutError)
        server.close()

    rig.run(loop, main())


def test_a_true_answer_to_the_end_has_no_effect(loop: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(Recorder):
        def eof_received(self) -> Any:
            return True

    async def main() -> None:
        async with Connection(loop, server=Stubborn) as c:
            c.near.transport.close()
            assert await c.far.ended() is None

    rig.run(loop, main())
    assert "has no effect when using ssl" in caplog.text


def test_tls_in_tls(loop: Any) -> None:
    server_tls, client_tls = rig.tls()

    async def main() -> None:
        async with Connection(loop) as c:
            inner_far, inner_near = Echo(), Recorder()
            upgraded = asyncio.gather(
                loop.start_tls(c.far.transport, inner_far, server_tls, server_side=True),
                loop.start_tls(c.near.transport, inner_near, client_tls, server_hostname="localhost"),
            )
            inner_far.transport, inner_near.transport = await upgraded
            sent = os.urandom(300_000)
            inner_near.transport.write(sent)
            assert await inner_near.got(len(sent)) == sent
            inner_near.transport.close()
            await inner_near.ended()
            await inner_far.ended()
            c.near.heard.append("lost")
            c.far.heard.append("lost")

    rig.run(loop, main())
    assert not loop.reports


def test_a_server_in_debug_mode_tells_of_failed_handshakes(loop: Any) -> None:
    loop.set_debug(True)
    server_tls, _ = rig.tls()

    async def main() -> None:
        server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=server_tls)
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, server.sockets[0].getsockname())
            await loop.sock_sendall(sock, b"GET / HTTP/1.0\r\n\r\n")
            while await loop.sock_recv(sock, 100):
                pass
        await rig.until(lambda: loop.reports)
        server.close()

    rig.run(loop, main())
    assert loop.reports[0]["message"] == "Error on transport creation for incoming connection"
    assert isinstance(loop.reports[0]["exception"], ssl.SSLError)
