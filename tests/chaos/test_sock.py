"""The loop's socket methods when descriptors go and come, tasks are cancelled, and others want the same socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import rig

BIG = bytes(4 << 20)


@pytest.fixture(params=rig.LOOPS)
def loop(request: pytest.FixtureRequest) -> Iterator[Any]:
    with rig.borrowed(request.param) as loop:
        yield loop


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def exchange(loop: Any, one: socket.socket, other: socket.socket, data: bytes = b"x") -> None:
    """Have one socket wait for what the other sends."""
    waiting = loop.create_task(loop.sock_recv(one, 100))
    await turns(2)
    other.send(data)
    assert await waiting == data


@pytest.mark.parametrize("way", ["closed", "detached", "collected"])
def test_a_number_that_comes_again_is_another_socket(loop: Any, way: str) -> None:
    """The loop may remember sockets that it waited for; a new one of the same number is none of them."""

    async def main() -> None:
        for _ in range(20):
            one, other = socket.socketpair()
            number = one.fileno()
            for sock in (one, other):
                sock.setblocking(False)
            await exchange(loop, one, other)
            if way == "closed":
                one.close()
            elif way == "detached":
                os.close(one.detach())
            else:
                with pytest.warns(ResourceWarning):
                    del one, sock
                    other, gone = socket.socketpair()[1], other
                    gc.collect()
                gone.close()
            third, fourth = socket.socketpair()
            if fourth.fileno() == number:
                third, fourth = fourth, third
            for sock in (third, fourth):
                sock.setblocking(False)
            await exchange(loop, third, fourth)
            await exchange(loop, third, fourth)
            await exchange(loop, fourth, third)
            for sock in (other, third, fourth):
                sock.close()

    rig.run(loop, main())


def test_a_descriptor_that_changes_hands_is_registered_again(loop: Any) -> None:
    async def main() -> None:
        with rig.pair() as (one, other):
            await exchange(loop, one, other)
            with socket.socket(fileno=one.detach()) as again:
                again.setblocking(False)
                await exchange(loop, again, other)
                await exchange(loop, again, other)

    rig.run(loop, main())


def test_a_socket_that_is_closed_under_a_wait_does_not_take_the_next_ones_bytes(loop: Any) -> None:
    """Even if both turn ready, close and open in one turn."""

    async def main() -> None:
        one, other = socket.socketpair()
        one.setblocking(False)
        number = one.fileno()
        waiting = loop.create_task(loop.sock_recv(one, 100))
        await turns()
        fresh: list[socket.socket] = []

        def swap() -> None:
            one.close()
            third, fourth = socket.socketpair()
            if fourth.fileno() == number:
                third, fourth = fourth, third
            assert third.fileno() == number
            fourth.send(b"of the new one")
            fresh.extend((third, fourth))

        other.send(b"of the old one")
        loop.call_soon(swap)
        await turns(10)
        third, fourth = fresh
        third.setblocking(False)
        assert await loop.sock_recv(third, 100) == b"of the new one"
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            assert await waiting == b"of the old one"
        for sock in (other, third, fourth):
            sock.close()

    rig.run(loop, main())


@pytest.mark.parametrize("late", [False, True], ids=["before", "after the bytes came"])
def test_a_cancelled_wait_loses_nothing(late: bool) -> None:
    with rig.borrowed(rig.OURS.values[0]) as loop, rig.pair() as (one, other):

        async def main() -> None:
            for _ in range(50):
                waiting = loop.create_task(loop.sock_recv(one, 100))
                await turns(2)
                if late:
                    other.send(b"x")
                    loop.call_soon(lambda waiting=waiting: loop.call_soon(waiting.cancel))
                    with contextlib.suppress(asyncio.CancelledError):
                        assert await waiting == b"x"
                        continue
                else:
                    waiting.cancel()
                    other.send(b"x")
                    with pytest.raises(asyncio.CancelledError):
                        await waiting
                assert await loop.sock_recv(one, 100) == b"x"

        rig.run(loop, main())


def test_a_cancelled_accept_loses_no_connection() -> None:
    with rig.borrowed(rig.OURS.values[0]) as loop, rig.listening() as listener:
        listener.setblocking(False)

        async def main() -> None:
            for depth in range(6):
                waiting = loop.create_task(loop.sock_accept(listener))
                await turns(2)
                with socket.create_connection(listener.getsockname()) as client:
                    for _ in range(depth):
                        await asyncio.sleep(0)
                    waiting.cancel()
                    try:
                        connection, address = await waiting
                    except asyncio.CancelledError:
                        connection, address = await loop.sock_accept(listener)
                    assert address == client.getsockname()
                    connection.close()

        rig.run(loop, main())


def test_a_cancelled_operation_holds_nothing(loop: Any) -> None:
    async def main() -> None:
        class Data(bytearray):
            pass

        with rig.pair() as (one, other):
            data = Data(BIG)
            held = weakref.ref(data)
            tasks = [loop.create_task(loop.sock_sendall(one, data)), loop.create_task(loop.sock_recv(one, 1))]
            await turns()
            del data
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            tasks.clear()
            del task
            await turns()
            gc.collect()
            assert held() is None
            await exchange(loop, one, other)

    rig.run(loop, main())


def test_a_listener_that_nobody_holds_any_more_is_closed(loop: Any) -> None:
    async def main() -> None:
        listener = rig.listening()
        listener.setblocking(False)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.sock_accept(listener), 0.001)
        number = listener.fileno()
        await turns()
        with pytest.warns(ResourceWarning):
            del listener
            gc.collect()
        with pytest.raises(OSError):
            os.fstat(number)

    rig.run(loop, main())


def test_a_loop_can_be_closed_while_sockets_wait(loop: Any) -> None:
    with rig.pair() as (one, _), rig.listening() as listener:
        listener.setblocking(False)

        async def main() -> None:
            for coroutine in (loop.sock_recv(one, 1), loop.sock_sendall(one, BIG), loop.sock_accept(listener)):
                loop.create_task(coroutine)
            await turns()

        rig.run(loop, main())
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        tasks.clear()
        del task
        gc.collect()


def test_a_reader_takes_its_side_and_leaves_the_other(loop: Any) -> None:
    """add_reader on a socket with an operation under way on the other side."""

    async def main() -> None:
        with rig.pair() as (one, other):
            await exchange(loop, one, other)
            sending = loop.create_task(loop.sock_sendall(one, BIG))
            await turns()
            assert not sending.done()
            calls: list[bytes] = []
            loop.add_reader(one, lambda: calls.append(one.recv(100)))
            other.send(b"r")
            await rig.until(lambda: calls)
            received = 0
            while received < len(BIG):
                received += len(await loop.sock_recv(other, 1 << 20))
            await sending
            assert calls == [b"r"]
            assert loop.remove_reader(one)
            assert not loop.remove_writer(one)
            await exchange(loop, one, other)

    rig.run(loop, main())


def test_a_writer_and_then_an_operation_of_the_other_side(loop: Any) -> None:
    async def main() -> None:
        with rig.pair() as (one, other):
            calls: list[int] = []
            loop.add_writer(one, calls.append, 1)
            for _ in range(3):
                await exchange(loop, one, other)
            known = len(calls)
            await rig.until(lambda: len(calls) > known)
            assert loop.remove_writer(one)
            await exchange(loop, one, other)

    rig.run(loop, main())


def test_an_operation_takes_the_place_of_a_reader(loop: Any) -> None:
    async def main() -> None:
        with rig.pair() as (one, other):
            calls: list[int] = []
            loop.add_reader(one, calls.append, 1)
            await exchange(loop, one, other)
            assert not calls and not loop.remove_reader(one)

    rig.run(loop, main())


def test_a_reader_after_waiting_is_told_by_level(loop: Any) -> None:
    async def main() -> None:
        with rig.pair() as (one, other):
            await exchange(loop, one, other)
            other.send(b"stays")
            calls: list[int] = []
            loop.add_reader(one, calls.append, 1)
            await rig.until(lambda: len(calls) > 5)
            assert loop.remove_reader(one) and not loop.remove_reader(one)
            assert await loop.sock_recv(one, 100) == b"stays"

    rig.run(loop, main())


def test_a_second_wait_on_one_side_takes_the_firsts_place(loop: Any) -> None:
    async def main() -> None:
        with rig.pair() as (one, other):
            first = loop.create_task(loop.sock_recv(one, 100))
            await turns()
            second = loop.create_task(loop.sock_recv(one, 100))
            await turns()
            other.send(b"x")
            assert await second == b"x" and not first.done()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await exchange(loop, one, other)

    rig.run(loop, main())


def test_a_socket_that_a_thread_reads_from_now_on_does_not_wake_the_loop_for_ever() -> None:
    with rig.borrowed(rig.OURS.values[0]) as loop, rig.pair() as (one, other):

        async def main() -> None:
            await exchange(loop, one, other)
            for _ in range(50):  # more edges than the loop puts up with
                other.send(b"x")
                assert one.recv(1) == b"x"
                await turns(10)
            await exchange(loop, one, other)
            await exchange(loop, one, other)

        rig.run(loop, main())


def test_a_duplicate_that_lives_on_is_no_trouble(loop: Any) -> None:
    """epoll goes on telling of a closed descriptor whose file is open elsewhere."""

    async def main() -> None:
        for _ in range(5):
            one, other = socket.socketpair()
            one.setblocking(False)
            number = one.fileno()
            await exchange(loop, one, other)
            kept = one.dup()
            one.close()
            for _ in range(20):
                other.send(b"x")
                await turns(10)
            third, fourth = socket.socketpair()
            if fourth.fileno() == number:
                third, fourth = fourth, third
            third.setblocking(False)
            await exchange(loop, third, fourth)
            other.send(b"y")
            await exchange(loop, third, fourth)
            for sock in (kept, other, third, fourth):
                sock.close()

    rig.run(loop, main())


def test_a_connect_is_not_taken_for_done_by_old_news(loop: Any) -> None:
    """An unconnected socket that was waited for has said that it hung up."""

    async def main() -> None:
        with socket.socket() as client, rig.listening() as listener:
            client.setblocking(False)
            with pytest.raises(OSError):
                await loop.sock_recv(client, 1)
            with contextlib.suppress(OSError):
                await loop.sock_sendall(client, b"x")
            await loop.sock_connect(client, listener.getsockname())
            assert client.getpeername() == listener.getsockname()

    rig.run(loop, main())


def test_a_forked_child_goes_on_and_so_does_the_parent() -> None:
    rig.script(
        """
        import asyncio, os, socket, ropewalk
        async def exchange(loop, one, other):
            waiting = loop.create_task(loop.sock_recv(one, 100))
            await asyncio.sleep(0); await asyncio.sleep(0)
            other.send(b"x")
            assert await waiting == b"x"
        async def main():
            loop = asyncio.get_running_loop()
            assert await loop.getaddrinfo("localhost", 1, family=socket.AF_INET)
            one, other = socket.socketpair()
            one.setblocking(False)
            await exchange(loop, one, other)
            child = os.fork()
            third, fourth = socket.socketpair()
            third.setblocking(False)
            for _ in range(3):
                await exchange(loop, third, fourth)
            assert await loop.getaddrinfo("localhost", 1, family=socket.AF_INET)
            if child:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            await exchange(loop, one, other)
            if not child:
                loop.stop()
                os._exit(0)
        ropewalk.run(main())
        """,
        flags=("-W", "ignore"),
    )


def test_many_sockets_come_and_go(loop: Any) -> None:
    async def serve(listener: socket.socket) -> None:
        async def echo(sock: socket.socket) -> None:
            with sock:
                while data := await loop.sock_recv(sock, 1000):
                    await loop.sock_sendall(sock, data)

        async with asyncio.TaskGroup() as group:
            while True:
                connection, _ = await loop.sock_accept(listener)
                group.create_task(echo(connection))

    async def client(address: Any) -> None:
        for number in range(20):
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
                data = b"%d" % number
                await loop.sock_sendall(sock, data)
                assert await loop.sock_recv(sock, 100) == data

    async def main() -> None:
        with rig.listening() as listener:
            listener.setblocking(False)
            server = loop.create_task(serve(listener))
            await asyncio.gather(*(client(listener.getsockname()) for _ in range(20)))
            server.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await server

    rig.run(loop, main())
