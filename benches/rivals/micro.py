"""The operations of a loop, each in a process of its own.

Run by the harness with a loop and a row. Each line on standard input asks for a number of
operations; the answer is the CPU time they took, children included that were waited for.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import queue
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import loops
from child import cpu_ns, say, stay_on

Operations = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """One row: what sets it up, and what it needs."""

    setup: Callable[[], AbstractAsyncContextManager[Operations]]
    # The fewest operations that make a meaningful window.
    least: int
    # Whether threads or processes take part, which then get both cores.
    threads: bool


ROWS: dict[str, Row] = {}


def row(
    name: str, *, least: int = 10, threads: bool = False
) -> Callable[[Callable[[], AsyncIterator[Operations]]], None]:
    """Register an async generator that sets up, yields the operations, and tears down."""

    def register(generator: Callable[[], AsyncIterator[Operations]]) -> None:
        setup: Callable[[], AbstractAsyncContextManager[Operations]] = contextlib.asynccontextmanager(generator)
        ROWS[name] = Row(setup, least, threads)

    return register


def batches(total: int, size: int = 1000) -> Generator[int]:
    """`total` in portions of at most `size`, so that no queue grows without bound."""
    while total > 0:
        yield min(size, total)
        total -= size


def nothing() -> None:
    pass


async def nothing_async() -> None:
    pass


@row("call_soon.chain", least=1000)
async def call_soon_chain() -> AsyncIterator[Operations]:
    loop = asyncio.get_running_loop()

    async def run(count: int) -> None:
        done = loop.create_future()

        def step() -> None:
            nonlocal count
            count -= 1
            if count > 0:
                loop.call_soon(step)
            else:
                done.set_result(None)

        loop.call_soon(step)
        await done

    yield run


@row("call_soon.burst", least=1000)
async def call_soon_burst() -> AsyncIterator[Operations]:
    loop = asyncio.get_running_loop()

    async def run(count: int) -> None:
        for size in batches(count):
            done = loop.create_future()
            for _ in range(size - 1):
                loop.call_soon(nothing)
            loop.call_soon(done.set_result, None)
            await done

    yield run


@row("call_later.cancel", least=1000)
async def call_later_cancel() -> AsyncIterator[Operations]:
    loop = asyncio.get_running_loop()

    async def run(count: int) -> None:
        for size in batches(count):
            for index in range(size):
                loop.call_later(10 + index % 50, nothing).cancel()
            # A turn of the loop, in which the cancelled may be swept.
            await asyncio.sleep(0)

    yield run


@row("call_later.fire", least=1000)
async def call_later_fire() -> AsyncIterator[Operations]:
    loop = asyncio.get_running_loop()

    async def run(count: int) -> None:
        for size in batches(count):
            done = loop.create_future()
            left = size

            def fired() -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    done.set_result(None)  # noqa: B023 - awaited before the next batch

            for index in range(size):
                loop.call_later(index % 10 / 10_000, fired)
            await done

    yield run


@row("call_soon_threadsafe.burst", least=1000, threads=True)
async def call_soon_threadsafe_burst() -> AsyncIterator[Operations]:
    loop = asyncio.get_running_loop()
    orders: queue.SimpleQueue[tuple[int, asyncio.Future[None]] | None] = queue.SimpleQueue()

    def caller() -> None:
        while order := orders.get():
            size, done = order
            for _ in range(size - 1):
                loop.call_soon_threadsafe(nothing)
            loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=caller, daemon=True)
    thread.start()

    async def run(count: int) -> None:
        for size in batches(count):
            done = loop.create_future()
            orders.put((size, done))
            await done

    yield run
    orders.put(None)
    thread.join()


@row("call_soon_threadsafe.pingpong", threads=True)
async def call_soon_threadsafe_pingpong() -> AsyncIterator[Operations]:
    loop = asyncio.get_running_loop()
    orders: queue.SimpleQueue[tuple[int, asyncio.Future[None]] | None] = queue.SimpleQueue()

    def caller() -> None:
        answered = threading.Lock()
        answered.acquire()
        while order := orders.get():
            size, done = order
            for _ in range(size):
                loop.call_soon_threadsafe(answered.release)
                answered.acquire()
            loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=caller, daemon=True)
    thread.start()

    async def run(count: int) -> None:
        done = loop.create_future()
        orders.put((count, done))
        await done

    yield run
    orders.put(None)
    thread.join()


@row("task", least=1000)
async def task() -> AsyncIterator[Operations]:
    async def run(count: int) -> None:
        for _ in range(count):
            await asyncio.create_task(nothing_async())

    yield run


@row("sleep0", least=1000)
async def sleep0() -> AsyncIterator[Operations]:
    async def run(count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    yield run


@row("queue.pingpong", least=1000)
async def queue_pingpong() -> AsyncIterator[Operations]:
    there: asyncio.Queue[int] = asyncio.Queue()
    back: asyncio.Queue[int] = asyncio.Queue()

    async def answer() -> None:
        while True:
            await back.put(await there.get())

    answering = asyncio.create_task(answer())

    async def run(count: int) -> None:
        for number in range(count):
            await there.put(number)
            await back.get()

    yield run
    answering.cancel()


@row("gather.100")
async def gather_100() -> AsyncIterator[Operations]:
    async def run(count: int) -> None:
        for _ in range(count):
            await asyncio.gather(*[nothing_async() for _ in range(100)])

    yield run


@row("future", least=1000)
async def future() -> AsyncIterator[Operations]:
    loop = asyncio.get_running_loop()

    async def run(count: int) -> None:
        for _ in range(count):
            waiting = loop.create_future()
            loop.call_soon(waiting.set_result, None)
            await waiting

    yield run


@row("run_in_executor", threads=True)
async def run_in_executor() -> AsyncIterator[Operations]:
    loop = asyncio.get_running_loop()

    async def run(count: int) -> None:
        for _ in range(count):
            await loop.run_in_executor(None, nothing)

    yield run


@row("to_thread", threads=True)
async def to_thread() -> AsyncIterator[Operations]:
    async def run(count: int) -> None:
        for _ in range(count):
            await asyncio.to_thread(nothing)

    yield run


@row("subprocess", threads=True)
async def subprocess() -> AsyncIterator[Operations]:
    program = shutil.which("true")
    assert program is not None

    async def run(count: int) -> None:
        for _ in range(count):
            process = await asyncio.create_subprocess_exec(program)
            if await process.wait() != 0:
                raise ChildProcessError("the child did not end well")

    yield run


def resolver(host: str) -> Callable[[], AsyncIterator[Operations]]:
    async def resolve() -> AsyncIterator[Operations]:
        loop = asyncio.get_running_loop()

        async def run(count: int) -> None:
            for _ in range(count):
                await loop.getaddrinfo(host, 80, type=socket.SOCK_STREAM)

        yield run

    return resolve


row("getaddrinfo.numeric", threads=True)(resolver("127.0.0.1"))
row("getaddrinfo.localhost", threads=True)(resolver("localhost"))


class Answer(asyncio.DatagramProtocol):
    """Sends each datagram back to where it came from."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.transport.sendto(data, address)


class Ask(asyncio.DatagramProtocol):
    """Sends the next datagram when the last one has come back."""

    transport: asyncio.DatagramTransport
    left: int
    done: asyncio.Future[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.left -= 1
        if self.left > 0:
            self.transport.sendto(data)
        else:
            self.done.set_result(None)


@row("udp.pingpong", least=100)
async def udp_pingpong() -> AsyncIterator[Operations]:
    loop = asyncio.get_running_loop()
    answering, _ = await loop.create_datagram_endpoint(Answer, local_addr=("127.0.0.1", 0))
    address = answering.get_extra_info("sockname")
    asking, ask = await loop.create_datagram_endpoint(Ask, remote_addr=address)
    request = bytes(1024)

    async def run(count: int) -> None:
        ask.left, ask.done = count, loop.create_future()
        asking.sendto(request)
        await ask.done

    yield run
    asking.close()
    answering.close()


class Ended(asyncio.Protocol):
    """Knows when its connection is over."""

    def __init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set_result(error)


@row("tcp.connect")
async def tcp_connect() -> AsyncIterator[Operations]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()

    async def run(count: int) -> None:
        for _ in range(count):
            transport, protocol = await loop.create_connection(Ended, host, port)
            transport.close()
            await protocol.ended

    yield run
    server.close()


class ShortSendError(Exception):
    """sendfile has not sent the whole file."""


@row("sendfile.1m", threads=True)
async def sendfile_1m() -> AsyncIterator[Operations]:
    loop = asyncio.get_running_loop()
    size = 1 << 20
    listener = socket.create_server(("127.0.0.1", 0))
    arrived = asyncio.Event()

    def drain() -> None:
        scratch = bytearray(size)
        connection, _ = listener.accept()
        left = size
        # MSG_TRUNC throws the bytes away uncopied: this end costs every loop the same little.
        while taken := connection.recv_into(scratch, left, socket.MSG_TRUNC):
            left -= taken
            if left == 0:
                left = size
                loop.call_soon_threadsafe(arrived.set)
        connection.close()

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
    with tempfile.TemporaryFile() as file:
        file.write(bytes(size))
        file.flush()

        async def run(count: int) -> None:
            for _ in range(count):
                arrived.clear()
                if await loop.sendfile(transport, file) != size:
                    raise ShortSendError
                await arrived.wait()

        yield run
    transport.close()
    await asyncio.to_thread(thread.join)
    listener.close()


@row("loop.create")
async def loop_create() -> AsyncIterator[Operations]:
    make = type(asyncio.get_running_loop())

    async def run(count: int) -> None:
        for _ in range(count):
            make().close()

    yield run


async def serve(name: str) -> None:
    async with ROWS[name].setup() as run:
        say({"ready": True})
        # Blocks the loop between windows, which is the point: an idle contender costs nothing.
        for line in sys.stdin:
            wall, cpu = time.perf_counter_ns(), cpu_ns()
            await run(int(line))
            say({"cpu": cpu_ns() - cpu, "wall": time.perf_counter_ns() - wall})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", required=True, choices=loops.LOOPS)
    parser.add_argument("--row", required=True, choices=ROWS)
    parser.add_argument("--cores", required=True)
    options = parser.parse_args()
    # Before the loop is made, so that its threads inherit it.
    stay_on(options.cores)
    try:
        with asyncio.Runner(loop_factory=loops.factory(options.loop)) as runner:
            runner.run(serve(options.row))
    except BaseException as error:
        say({"error": type(error).__name__})
        raise


if __name__ == "__main__":
    main()
