"""Loops in several threads at once, with everything that may reach from one thread into another.

Made for free-threaded Python, where all of it really happens at the same time, and no less true with the GIL. A few
rounds find what is likely; ``ROPEWALK_ROUNDS=100 ./dev test tests/chaos/test_hammer.py`` looks for what is not.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rig
import ropewalk

ROUNDS = int(os.environ.get("ROPEWALK_ROUNDS", "2"))
THREADS = 4

pytestmark = pytest.mark.timeout(60 + 30 * ROUNDS)


@contextlib.contextmanager
def meanwhile(*work: Callable[[], Any]) -> Iterator[None]:
    """Each of these again and again in a thread of its own; what one raises fails the test."""
    over = threading.Event()
    errors: list[BaseException] = []

    def again(job: Callable[[], Any]) -> None:
        try:
            while not over.wait(0.0005):
                job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=again, args=(job,), daemon=True) for job in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(rig.PATIENCE)
    assert errors == []
    assert not any(thread.is_alive() for thread in threads)


@contextlib.contextmanager
def running(count: int) -> Iterator[list[Any]]:
    """So many loops, each run by a thread."""
    loops = [ropewalk.new_event_loop() for _ in range(count)]
    reports: list[Any] = []
    for loop in loops:
        loop.set_exception_handler(lambda loop, context: reports.append(context))
    threads = [threading.Thread(target=loop.run_forever, daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield loops
        for loop in loops:
            submit(loop, rig._wind_up()).result(rig.PATIENCE)
    finally:
        for loop in loops:
            loop.call_soon_threadsafe(loop.stop)
        for thread in threads:
            thread.join(rig.PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
        for loop in loops:
            loop.close()
    assert reports == []


def submit(loop: Any, coro: Any) -> concurrent.futures.Future[Any]:
    return asyncio.run_coroutine_threadsafe(coro, loop)


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def talk(address: Any, rounds: int) -> int:
    reader, writer = await asyncio.open_connection(*address)
    for number in range(rounds):
        words = b"%d " % number * random.randrange(1, 3000)
        writer.write(words)
        assert await reader.readexactly(len(words)) == words
    writer.close()
    await writer.wait_closed()
    return rounds


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_servers_and_clients_on_separate_loops(round_: int) -> None:
    async def serve() -> Any:
        return await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)

    with rig.nothing_left_open(), running(THREADS) as loops, meanwhile(gc.collect):
        servers = [submit(loop, serve()).result(rig.PATIENCE) for loop in loops]
        addresses = [server.sockets[0].getsockname() for server in servers]
        talks = [submit(loop, talk(address, 5)) for loop in loops for address in addresses for _ in range(4)]
        assert [talk.result(rig.PATIENCE) for talk in talks] == [5] * len(talks)
        for loop, server in zip(loops, servers, strict=True):
            loop.call_soon_threadsafe(server.close)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_coroutines_handed_from_loop_to_loop(round_: int) -> None:
    """Each waits for one on the next loop, which waits for one on the loop after it, and so on."""

    async def descend(depth: int, place: int) -> int:
        if depth == 0:
            await asyncio.sleep(0)
            return 0
        place = (place + 1) % THREADS
        return 1 + await asyncio.wrap_future(submit(loops[place], descend(depth - 1, place)))

    with running(THREADS) as loops, meanwhile(gc.collect):
        asked = [submit(loops[place], descend(20, place)) for place in range(THREADS) for _ in range(25)]
        assert [answer.result(rig.PATIENCE) for answer in asked] == [20] * len(asked)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_cancelling_from_other_threads(round_: int) -> None:
    """Whatever moment it is cancelled at, a call is run or cancelled, and its future is done."""
    count = 300
    ran: list[int] = []
    begun, ended = [0] * THREADS, [0] * THREADS

    async def work(place: int) -> None:
        begun[place] += 1
        try:
            await asyncio.sleep(random.random() / 1000)
        finally:
            ended[place] += 1

    def harass(place: int) -> None:
        loop = loops[place]
        for number in range(count):
            future = submit(loop, work(place))
            handle = loop.call_soon_threadsafe(ran.append, number)
            later = random.choice((lambda: None, future.cancel, handle.cancel))
            later()
            repr(handle)
            handle.cancelled()
            future.cancel()
            with contextlib.suppress(concurrent.futures.CancelledError):
                future.result(rig.PATIENCE)
            assert future.done()

    with running(THREADS) as loops, meanwhile(gc.collect), concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for job in [pool.submit(harass, place) for place in range(THREADS)]:
            job.result(rig.PATIENCE)
    assert begun == ended
    assert len(ran) <= THREADS * count


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_loops_closed_while_others_post(round_: int) -> None:
    """A post is accepted or refused. What was accepted and not run is let go."""

    class Thing:
        pass

    for _ in range(15):
        loop = ropewalk.new_event_loop()

        def post(loop: Any = loop) -> None:
            with contextlib.suppress(RuntimeError):
                for _ in range(50):
                    loop.call_soon_threadsafe(print, Thing()).cancel()
                    loop.call_soon_threadsafe(id, Thing())

        def look(loop: Any = loop) -> None:
            repr(loop), loop.is_closed(), loop.time(), loop.is_running()

        with meanwhile(post, post, look, gc.collect):
            loop.run_until_complete(asyncio.sleep(random.random() / 200))
            loop.close()
        del post, look, loop
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Thing)]


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_what_only_the_loops_thread_may_call_called_by_others(round_: int) -> None:
    """As wrong as with asyncio, and like there no danger to the process: nothing crashes, and the loop goes on."""
    loop = ropewalk.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    transports: list[Any] = []

    class Client(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transports.append(transport)

        def data_received(self, data: bytes) -> None:
            pass

    def schedule() -> None:
        loop.call_soon(int)
        loop.call_soon(int).cancel()
        timers = [loop.call_later(0.001 * number, int) for number in range(4)]
        for timer in timers[::2]:
            timer.cancel()
            repr(timer), timer.cancelled(), timer.when()
        loop.create_future().cancel()

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            loop.add_reader(ours, int)
            loop.add_writer(ours, int)
        loop.remove_writer(ours)
        loop.remove_reader(ours)

    def meddle() -> None:
        for transport in transports[-3:]:
            with contextlib.suppress(RuntimeError, OSError):
                transport.write(b"x" * 1000)
                transport.pause_reading()
                transport.resume_reading()
                transport.get_write_buffer_size()
                transport.get_extra_info("peername")
                repr(transport)
                if random.random() < 0.3:
                    random.choice((transport.close, transport.abort))()

    async def main() -> None:
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        end = loop.time() + 0.4
        while loop.time() < end:
            with contextlib.suppress(OSError):
                await loop.create_connection(Client, *server.sockets[0].getsockname())
            await asyncio.sleep(0.001)
        for transport in transports:
            transport.abort()
        server.close()

    with rig.pair() as (ours, _theirs):
        with meanwhile(schedule, schedule, watch, meddle, meddle, gc.collect):
            rig.run(loop, main())
        rig.run(loop, asyncio.sleep(0.01))
        loop.close()
    transports.clear()
    gc.collect()


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_children_on_every_loop_and_signals_in_the_main_thread(round_: int) -> None:
    async def spawn(number: int) -> int:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-ISc", f"import sys; sys.stdout.write(sys.stdin.read()); sys.exit({number})"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        output, _ = await child.communicate(b"%d" % number * 10_000)
        assert output == b"%d" % number * 10_000
        assert child.returncode is not None
        return child.returncode

    heard = [0]

    def hear() -> None:
        heard[0] += 1

    async def main() -> None:
        spawned = [submit(loops[number % THREADS], spawn(number)) for number in range(3 * THREADS)]
        codes = await asyncio.gather(*map(asyncio.wrap_future, spawned))
        assert codes == list(range(3 * THREADS))
        before = heard[0]
        os.kill(os.getpid(), signal.SIGUSR1)
        await rig.until(lambda: heard[0] > before)

    with running(THREADS) as loops, rig.borrowed(ropewalk.new_event_loop) as loop:
        loop.add_signal_handler(signal.SIGUSR1, hear)
        with meanwhile(lambda: os.kill(os.getpid(), signal.SIGUSR1), gc.collect):
            rig.run(loop, main())
        assert not loop.reports


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_loops_come_and_go_in_every_thread(round_: int) -> None:
    """Handles, tasks, connections of one thread's loop die in others, by the collector."""

    def live() -> None:
        for _ in range(15):
            loop = ropewalk.new_event_loop()

            async def main(loop: Any = loop) -> None:
                ours, theirs = socket.socketpair()
                transport, _ = await loop.connect_accepted_socket(Echo, ours)
                theirs.sendall(b"hello")
                loop.call_later(1000, print, loop)
                cycle: list[Any] = [loop.call_later(1000, print, transport)]
                cycle.append(cycle)
                await asyncio.sleep(0.001)
                assert theirs.recv(5) == b"hello"
                theirs.close()
                transport.abort()
                await asyncio.sleep(0)
                await asyncio.sleep(0)

            loop.run_until_complete(main())
            loop.close()

    with rig.nothing_left_open(), meanwhile(gc.collect, gc.get_objects):
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            for job in [pool.submit(live) for _ in range(THREADS)]:
                job.result(rig.PATIENCE)
