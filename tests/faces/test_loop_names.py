"""Name resolution: what ``socket.getaddrinfo`` answers, without blocking."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import socket
import threading
from typing import Any

import pytest
import rig

HOSTS = [
    "127.0.0.1",
    "::1",
    "fe80::1%lo",
    "::ffff:1.2.3.4",
    "::1.2.3.4",
    "1:0:0:2::",
    "0.0.0.0",
    None,
    "",
    b"127.0.0.1",
]
HOSTS += ["127.1", "1.2.3.04", "a..b", "x" * 70, 3]
PORTS = [80, None, "80", b"80", "http", "", b"", -1, 70000, 2**70, "no such service", 1.5]
FLAGS = [
    0,
    socket.AI_PASSIVE,
    socket.AI_NUMERICHOST,
    socket.AI_NUMERICSERV,
    socket.AI_CANONNAME,
    socket.AI_ADDRCONFIG | socket.AI_V4MAPPED,
]


def directly(*question: Any) -> Any:
    try:
        return socket.getaddrinfo(*question)
    except (OSError, OverflowError, UnicodeError, TypeError) as error:
        return type(error), error.args


async def through(loop: Any, host: Any, port: Any, family: Any, type: Any, proto: Any, flags: Any) -> Any:
    try:
        return await loop.getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)
    except (OSError, OverflowError, UnicodeError, TypeError) as error:
        return error.__class__, error.args


@pytest.mark.parametrize("host", HOSTS)
def test_the_answer_is_the_socket_modules(our_loop: Any, host: Any) -> None:
    """For whatever is asked, if no name server needs to be: the same objects, the same exceptions."""

    async def main() -> None:
        families = (0, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
        kinds = (0, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW)
        few = [(0, 0), (socket.IPPROTO_TCP, 0), (socket.IPPROTO_UDP, 0), *((0, flag) for flag in FLAGS[1:])]
        for port, family, kind, (proto, flags) in itertools.product(PORTS, families, kinds, few):
            question = (host, port, family, kind, proto, flags)
            assert repr(await through(our_loop, *question)) == repr(directly(*question)), question

    rig.run(our_loop, main())


def test_a_name(loop: Any) -> None:
    async def main() -> None:
        for flags in (0, socket.AI_CANONNAME):
            question = ("localhost", 80, socket.AF_INET, socket.SOCK_STREAM, 0, flags)
            assert await through(loop, *question) == directly(*question)
        several = [loop.getaddrinfo("localhost", port, family=socket.AF_INET, type=1) for port in range(1, 60)]
        answers = await asyncio.gather(*several)
        assert [answer[0][4] for answer in answers] == [("127.0.0.1", port) for port in range(1, 60)]

    rig.run(loop, main())


def test_an_address_in_numbers_is_answered_at_once(our_loop: Any) -> None:
    coroutine = our_loop.getaddrinfo("127.0.0.1", 80)
    with pytest.raises(StopIteration) as answer:
        coroutine.send(None)
    assert answer.value.value == socket.getaddrinfo("127.0.0.1", 80)


def test_a_cancelled_lookup_is_forgotten(loop: Any) -> None:
    async def main() -> None:
        task = loop.create_task(loop.getaddrinfo("localhost", 80, family=socket.AF_INET))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):  # asyncio's may be faster than this line
            await task
        assert await loop.getaddrinfo("localhost", 80, family=socket.AF_INET)

    rig.run(loop, main())
    assert not loop.reports


def test_a_loop_can_be_closed_during_a_lookup(loop: Any) -> None:
    async def main() -> None:
        loop.create_task(loop.getaddrinfo("localhost", 80, family=socket.AF_INET))
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    rig.run(loop, rig._wind_up())
    loop.close()
    assert not loop.reports


def test_the_threads_end_with_the_loop() -> None:
    def names() -> int:
        count = 0
        for task in rig.Path("/proc/self/task").iterdir():
            try:
                count += (task / "comm").read_text().startswith("ropewalk-names")
            except OSError:
                continue
        return count

    with rig.borrowed(rig.OURS.values[0]) as loop:
        assert rig.run(loop, loop.getaddrinfo("localhost", 1, family=socket.AF_INET))
        assert names() >= 1
        assert threading.active_count() == 1 or not any("asyncio" in t.name for t in threading.enumerate())
    rig.until_sync(lambda: names() == 0)


def test_what_the_program_puts_in_its_place_is_called(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of programs replace ``socket.getaddrinfo``."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: [args])
    assert rig.run(loop, loop.getaddrinfo("name.invalid", 80)) == [("name.invalid", 80, 0, 0, 0, 0)]


def test_an_executor_of_the_programs_own_is_used(loop: Any) -> None:
    class Executor(concurrent.futures.ThreadPoolExecutor):
        calls = 0

        def submit(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return super().submit(*args, **kwargs)

    executor = Executor()
    loop.set_default_executor(executor)
    assert rig.run(loop, loop.getaddrinfo("localhost", 80, family=socket.AF_INET))
    assert executor.calls == 1
