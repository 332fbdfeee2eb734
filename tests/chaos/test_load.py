"""Very many connections, timers and tasks on one loop: all are served, the loop never stops, nothing stays."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import itertools
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import rig

IDLE, BUSY = 10_000, 1000

# A loop that serves many does not answer at once: a hundred thousand callbacks that are ready together are one turn,
# and a debug build takes 30 us for each. Of this process's own time: the machine may have other things to do.
LONGEST_SILENCE = 10.0


@contextlib.asynccontextmanager
async def heartbeat() -> AsyncIterator[None]:
    """The loop goes on with other things while the block runs."""
    loop = asyncio.get_running_loop()
    beats: list[float] = [time.process_time()]

    def beat() -> None:
        nonlocal timer
        beats.append(time.process_time())
        timer = loop.call_later(0.005, beat)

    timer = loop.call_soon(beat)
    try:
        yield
        beats.append(time.process_time())
    finally:
        timer.cancel()
    silence = max(later - earlier for earlier, later in itertools.pairwise(beats))
    assert len(beats) > 3 and silence < LONGEST_SILENCE, f"{silence:.2f} s without a heartbeat"


@contextlib.contextmanager
def many_descriptors(wanted: int) -> Iterator[int]:
    """As many descriptors as wanted or as the hard limit allows, for this process and those that it starts.

    Yields how many there are to be had beside those of the test run itself.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield wanted if hard == resource.RLIM_INFINITY else min(wanted, hard - len(rig.descriptors()) - 50)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def nothing_alive(*kinds: type) -> Iterator[None]:
    """No instance that comes into being in the block outlives it."""

    def alive() -> collections.Counter[str]:
        gc.collect()
        return collections.Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, kinds))

    before = alive()
    yield
    assert alive() <= before


# The peers are a process of their own, so that the test's has its descriptors for the other ends. It opens `idle`
# connections that say nothing, then has `busy` ones talk in rounds, then hears of each idle one that it lives.
CLIENTS = textwrap.dedent(
    """
    import select, socket, sys
    port, idle, busy, rounds = map(int, sys.argv[1:])
    sleepers = [socket.create_connection(("127.0.0.1", port)) for _ in range(idle)]
    talkers = [socket.create_connection(("127.0.0.1", port)) for _ in range(busy)]
    print("connected", flush=True)
    for round_ in range(rounds):
        said = [b"%d/%d;" % (number, round_) * (1 + number % 50) for number in range(busy)]
        for sock, words in zip(talkers, said):
            sock.sendall(words)
        for sock, words in zip(talkers, said):
            assert sock.recv(len(words), socket.MSG_WAITALL) == words
    for number, sock in enumerate(sleepers):
        sock.sendall(b"%d" % number)
    for number, sock in enumerate(sleepers):
        word = b"%d" % number
        assert sock.recv(len(word), socket.MSG_WAITALL) == word
    print("served", flush=True)
    sys.stdin.readline()  # until the server has counted
    """
)


class Echo(asyncio.Protocol):
    made = lost = 0

    def connection_made(self, transport: Any) -> None:
        Echo.made += 1
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        assert exc is None
        Echo.lost += 1


def test_ten_thousand_idle_connections_and_a_thousand_busy_ones(our_loop: Any) -> None:
    loop = our_loop
    Echo.made = Echo.lost = 0

    async def main(idle: int) -> None:
        server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1024)
        port = server.sockets[0].getsockname()[1]
        clients = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CLIENTS, str(port), str(idle), str(BUSY), "10"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert clients.stdin is not None and clients.stdout is not None
        async with heartbeat():
            assert await clients.stdout.readline() == b"connected\n"
            assert await clients.stdout.readline() == b"served\n"
            assert Echo.made == idle + BUSY and Echo.lost == 0
            clients.stdin.write(b"\n")
            assert await clients.wait() == 0
            await rig.until(lambda: Echo.lost == Echo.made, "each connection is lost once")
        server.close()
        await server.wait_closed()

    with many_descriptors(IDLE + BUSY) as available, rig.nothing_left_open(), nothing_alive(Echo):
        rig.run(loop, main(available - BUSY))
    assert not loop.reports


def test_a_thousand_tls_connections_at_once(our_loop: Any) -> None:
    """In 4 heaps of 250, each of which shakes hands, talks and hangs up together."""
    server_context, client_context = rig.tls()
    served = [0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()
        served[0] += 1

    async def talk(port: int, number: int, all_connected: asyncio.Barrier) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context, server_hostname="localhost"
        )
        await all_connected.wait()
        for round_ in range(3):
            line = b"%d %d %s\n" % (number, round_, b"x" * (number % 3 * 20_000))
            writer.write(line)
            assert await reader.readline() == line
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        server = await asyncio.start_server(
            serve, "127.0.0.1", 0, ssl=server_context, backlog=512, limit=1 << 20, ssl_handshake_timeout=rig.PATIENCE
        )
        port = server.sockets[0].getsockname()[1]
        async with heartbeat():
            for heap in range(4):
                barrier = asyncio.Barrier(250)
                await asyncio.gather(*(talk(port, number, barrier) for number in range(250)))
                await rig.until(lambda heap=heap: served[0] == 250 * (heap + 1))
        server.close()
        await server.wait_closed()

    with rig.nothing_left_open(), nothing_alive(asyncio.StreamReader):
        rig.run(our_loop, main())
    assert not our_loop.reports


def test_a_hundred_thousand_timers_of_one_tick_fire_in_order(our_loop: Any) -> None:
    loop, count = our_loop, 100_000
    fired: list[int] = []

    async def main() -> None:
        async with heartbeat():
            when = loop.time() + 0.3
            # Two deadlines, set crosswise: the earlier ones come first, equal ones in the order of setting.
            for number in range(count):
                loop.call_at(when + number % 2 / 1000, fired.append, number)
            await rig.until(lambda: len(fired) == count)
        assert fired == [*range(0, count, 2), *range(1, count, 2)]

    with nothing_alive(asyncio.TimerHandle):
        rig.run(loop, main())
        fired.clear()


@pytest.mark.parametrize("waiting", ["nothing", "a turn", "a future", "a sleep"])
def test_a_hundred_thousand_tasks(our_loop: Any, waiting: str) -> None:
    loop, count = our_loop, 100_000
    begun, ended = [0], [0]

    async def work(gate: asyncio.Future[int]) -> int:
        begun[0] += 1
        if waiting == "a turn":
            await asyncio.sleep(0)
        elif waiting == "a future":
            await asyncio.shield(gate) if begun[0] % 1000 == 0 else await gate
        elif waiting == "a sleep":
            await asyncio.sleep(0.001 * (begun[0] % 100))
        ended[0] += 1
        return ended[0]

    async def main() -> None:
        gate = loop.create_future()
        async with heartbeat():
            tasks = [asyncio.create_task(work(gate)) for _ in range(count)]
            await rig.until(lambda: begun[0] == count)
            gate.set_result(1)
            await rig.until(lambda: ended[0] == count)
        assert sorted(task.result() for task in tasks) == list(range(1, count + 1))

    with nothing_alive(asyncio.Task, asyncio.TimerHandle):
        rig.run(loop, main())
    assert not loop.reports


def test_a_hundred_thousand_tasks_that_are_cancelled(our_loop: Any) -> None:
    loop, count = our_loop, 100_000
    cancelled = [0]

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled[0] += 1
            raise

    async def main() -> None:
        async with heartbeat():
            tasks = [asyncio.create_task(work()) for _ in range(count)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await rig.until(lambda: all(task.cancelled() for task in tasks[-100:]))
        assert cancelled == [count]

    with nothing_alive(asyncio.Task, asyncio.TimerHandle):
        rig.run(loop, main())
