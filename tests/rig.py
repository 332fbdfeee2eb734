"""What the tests of the event loop share: loops to test, a way to be sure that nothing is left behind, TLS.

Wherever asyncio's own loop makes the same promise, a test runs on both loops (`LOOPS`): what asyncio's does is
then the expected result, and a test that expects something else fails on it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import gc
import hashlib
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import time
from base64 import encodebytes
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ropewalk

OURS = pytest.param(ropewalk.new_event_loop, id="ropewalk")
LOOPS = [pytest.param(asyncio.SelectorEventLoop, id="asyncio"), OURS]

# Generous: a test that waits for longer hangs.
PATIENCE = 30.0


def descriptors() -> dict[int, str]:
    """This process's open descriptors and what they are."""
    gc.collect()
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that the listing itself used
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


@contextlib.contextmanager
def nothing_left_open() -> Iterator[None]:
    """Hold the block to giving back each descriptor that it opened, and to closing no other."""
    before = descriptors()
    yield
    after = descriptors()
    assert after == before, f"left open: {after.items() - before.items()}, gone: {before.items() - after.items()}"


@contextlib.contextmanager
def borrowed(factory: Callable[[], Any]) -> Iterator[Any]:
    """A loop for one test. What its exception handler is told is kept in ``loop.reports``."""
    with nothing_left_open():
        loop = factory()
        loop.reports = []
        loop.set_exception_handler(lambda loop, context: loop.reports.append(context))
        try:
            yield loop
        finally:
            if not loop.is_closed():
                run(loop, _wind_up())
                loop.close()
            asyncio.set_event_loop(None)
            loop.reports.clear()
            del loop


async def _wind_up() -> None:
    loop = asyncio.get_running_loop()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


def run(loop: Any, awaitable: Awaitable[Any]) -> Any:
    """Run to its end, or fail."""

    async def bounded() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await awaitable

    return loop.run_until_complete(bounded())


async def until(condition: Callable[[], Any], why: str = "") -> None:
    """Wait for something that says nothing by itself."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"never came true: {why or condition}"
        await asyncio.sleep(0.001)


def until_sync(condition: Callable[[], Any], why: str = "") -> None:
    """The same in a thread."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"never came true: {why or condition}"
        time.sleep(0.001)


class Recorder(asyncio.Protocol):
    """A protocol that notes what it is told, and in which order."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.heard: list[str] = []
        self.lost: list[BaseException | None] = []
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.heard.append("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes and data and "eof" not in self.heard and not self.lost
        self.data += data

    def eof_received(self) -> Any:
        self.heard.append("eof")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.heard.append("lost")
        self.lost.append(exc)

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")

    async def ended(self) -> BaseException | None:
        await until(lambda: self.lost, "connection_lost")
        assert len(self.lost) == 1
        return self.lost[0]


def listening(backlog: int = 128) -> socket.socket:
    """A listening TCP socket on a port of its own."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(backlog)
    return sock


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected non-blocking sockets."""
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


# Programs of their own ---------------------------------------------------------------------------------------

CRASHED = ("Fatal Python error", "panicked at", "Segmentation fault", "core dumped", "AddressSanitizer")


def script(
    code: str,
    *args: str,
    flags: tuple[str, ...] = (),
    expect: int = 0,
    timeout: float = PATIENCE,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program on this Python; it must end with status `expect` and must not crash."""
    process = subprocess.Popen(
        [*command(*flags), "-c", textwrap.dedent(code), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=None if env is None else {**os.environ, **env},
        start_new_session=True,  # so that its children, too, can be ended
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # -X faulthandler shows where it hangs
        output, errors = process.communicate()
        pytest.fail(f"no end after {timeout} s\n--- stdout\n{output}\n--- stderr\n{errors}")
    done = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
    said = f"status {done.returncode}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
    assert done.returncode == expect, said
    assert not [sign for sign in CRASHED if sign in done.stderr], said
    return done


def command(*flags: str) -> list[str]:
    """How to start this Python as it was started."""
    dev = ["-X", "dev"] if sys.flags.dev_mode else []
    return [sys.executable, "-X", "faulthandler", *dev, *flags]


# TLS ---------------------------------------------------------------------------------------------------------


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body


def _integer(value: int) -> bytes:
    return _der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _prime(bits: int) -> int:
    small = [n for n in range(3, 2000, 2) if all(n % d for d in range(3, int(n**0.5) + 1, 2))]
    while True:
        n = secrets.randbits(bits) | 1 | 3 << (bits - 2)
        if (n - 1) % 65537 and all(n % p for p in small) and all(pow(a, n - 1, n) == 1 for a in (2, 3, 5)):
            return n


def _pem(label: str, der: bytes) -> str:
    return f"-----BEGIN {label}-----\n{encodebytes(der).decode()}-----END {label}-----\n"


def _certificate() -> str:
    """A self-signed certificate for localhost and its key. Written here, it needs no package and no program."""
    p, q, e = _prime(1024), _prime(1024), 65537
    n, d = p * q, pow(e, -1, (p - 1) * (q - 1))
    key = _der(0x30, *map(_integer, (0, n, e, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p))))

    def oid(*numbers: int) -> bytes:
        body = bytearray([40 * numbers[0] + numbers[1]])
        for number in numbers[2:]:
            digits = [number & 127]
            while number := number >> 7:
                digits.append(128 | number & 127)
            body += bytes(reversed(digits))
        return _der(6, bytes(body))

    def extension(last: int, value: bytes, critical: bool = False) -> bytes:
        flag = [b"\x01\x01\xff"] if critical else []
        return _der(0x30, oid(2, 5, 29, last), *flag, _der(4, value))

    rsa_sha256 = _der(0x30, oid(1, 2, 840, 113549, 1, 1, 11), _der(5))
    name = _der(0x30, _der(0x31, _der(0x30, oid(2, 5, 4, 3), _der(0x0C, b"localhost"))))
    public = _der(0x30, _integer(n), _integer(e))
    key_id = hashlib.sha1(public).digest()
    body = _der(
        0x30,
        _der(0xA0, _integer(2)),
        _integer(secrets.randbits(64)),
        rsa_sha256,
        name,
        _der(0x30, _der(0x17, b"200101000000Z"), _der(0x17, b"491231235959Z")),
        name,
        _der(0x30, _der(0x30, oid(1, 2, 840, 113549, 1, 1, 1), _der(5)), _der(3, b"\0", public)),
        _der(
            0xA3,
            _der(
                0x30,
                extension(17, _der(0x30, _der(0x82, b"localhost"), _der(0x87, bytes([127, 0, 0, 1])))),
                extension(19, _der(0x30, b"\x01\x01\xff"), critical=True),
                extension(15, _der(3, b"\x02\x84"), critical=True),
                extension(14, _der(4, key_id)),
                extension(35, _der(0x30, _der(0x80, key_id))),
            ),
        ),
    )
    padded = _der(
        0x30, _der(0x30, oid(2, 16, 840, 1, 101, 3, 4, 2, 1), _der(5)), _der(4, hashlib.sha256(body).digest())
    )
    padded = b"\0\1" + b"\xff" * (253 - len(padded)) + b"\0" + padded
    signature = pow(int.from_bytes(padded, "big"), d, n).to_bytes(256, "big")
    whole = _der(0x30, body, rsa_sha256, _der(3, b"\0", signature))
    return _pem("CERTIFICATE", whole) + _pem("RSA PRIVATE KEY", key)


@functools.cache
def _certificate_file() -> Path:
    file = Path(tempfile.mkdtemp(), "localhost.pem")
    file.write_text(_certificate())
    atexit.register(shutil.rmtree, file.parent, ignore_errors=True)
    return file


def fresh_tls(mutual: bool = False) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a test's own, to change: a server's and a client's that verifies it, and is verified if mutual."""
    file = _certificate_file()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(file)
    client = ssl.create_default_context(cafile=str(file))
    if mutual:
        server.load_verify_locations(file)
        server.verify_mode = ssl.CERT_REQUIRED
        client.load_cert_chain(file)
    return server, client


@functools.cache
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context and that of a client that verifies it as `localhost`."""
    return fresh_tls()


class TLSPeer:
    """The other end of a TLS connection, record by record: what it sends, and when, is the test's business.

    Works on a non-blocking socket; `send` and `recv` are ciphertext, `write` and `read` are data.
    """

    def __init__(self, loop: Any, sock: socket.socket, context: ssl.SSLContext, server_side: bool = False) -> None:
        self.loop, self.sock = loop, sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(
            self.incoming, self.outgoing, server_side, server_hostname=None if server_side else "localhost"
        )

    def step(self, call: Callable[[], Any]) -> Any:
        """What the call gives, or None if it needs something from the other side first."""
        try:
            return call()
        except ssl.SSLWantReadError:
            return None

    def pending(self) -> bytes:
        """Ciphertext that is to be sent."""
        return self.outgoing.read()

    async def flush(self) -> None:
        await self.loop.sock_sendall(self.sock, self.pending())

    async def receive(self) -> bool:
        """Take what comes from the socket; False at its end."""
        data = await self.loop.sock_recv(self.sock, 1 << 16)
        self.incoming.write(data)
        return bool(data)

    async def shake_hands(self, hold_last: bool = False) -> None:
        """With `hold_last` the client's last flight stays in `outgoing`."""
        while True:
            try:
                self.ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.flush()
                if not await self.receive():
                    raise ConnectionResetError from None
        if not hold_last:
            await self.flush()

    async def write(self, data: bytes) -> None:
        self.ssl.write(data)
        await self.flush()

    async def read(self, size: int = 1 << 16) -> bytes:
        """Some data; b"" when the other side has said that it is done."""
        while True:
            try:
                return self.ssl.read(size)
            except ssl.SSLWantReadError:
                if not await self.receive():
                    raise ConnectionResetError from None
            except ssl.SSLZeroReturnError:
                return b""

    async def read_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = await self.read()
            assert part, f"ended after {len(data)} of {size} bytes"
            data += part
        assert len(data) == size
        return bytes(data)
