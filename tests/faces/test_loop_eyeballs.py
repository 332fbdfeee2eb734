"""``create_connection`` with several addresses (RFC 8305): who is tried, in which order, and what is said at last."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import rig


@contextlib.contextmanager
def addresses(loop: Any) -> Iterator[tuple[list[Any], list[Any]]]:
    """What the resolver says of the name `many` from now on, and which of it was tried."""
    infos: list[Any] = []
    tried: list[Any] = []
    connect = loop._connect_sock

    async def getaddrinfo(host: Any, port: Any, **_: Any) -> list[Any]:
        if host != "many":
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(infos)

    async def noting(exceptions: Any, info: Any, *rest: Any) -> Any:
        tried.append(info[4][0])
        if not info[4][0].startswith("127."):  # nothing leaves this machine
            error = ConnectionRefusedError(f"{info[4][0]} is refused")
            exceptions.append([error])
            raise error
        return await connect(exceptions, info, *rest)

    loop.getaddrinfo = getaddrinfo
    loop._connect_sock = noting
    try:
        yield infos, tried
    finally:
        del loop.getaddrinfo, loop._connect_sock


def info(host: str, port: int) -> Any:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0)[: 4 if ":" in host else 2]


def nobody() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_one_after_the_other_until_one_answers(loop: Any) -> None:
    async def main() -> None:
        with rig.listening() as server, addresses(loop) as (infos, tried):
            port = server.getsockname()[1]
            infos += [info("127.0.0.1", nobody()), info("127.0.0.2", nobody()), info("127.0.0.1", port)]
            transport, _ = await loop.create_connection(asyncio.Protocol, "many", 1)
            assert transport.get_extra_info("peername") == ("127.0.0.1", port)
            assert tried == ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
            transport.close()

    rig.run(loop, main())


def test_a_slow_one_is_not_waited_for(loop: Any) -> None:
    """The first never answers; the second is tried after the delay, and the first is given up."""

    async def main() -> None:
        with rig.listening() as server, addresses(loop) as (infos, tried):
            port = server.getsockname()[1]
            infos += [info("127.0.0.9", 9), info("127.0.0.1", port)]
            connect = loop._connect_sock
            given_up = []

            async def slow(exceptions: Any, address: Any, *rest: Any) -> Any:
                if address[4][0] != "127.0.0.9":
                    return await connect(exceptions, address, *rest)
                tried.append("127.0.0.9")
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    given_up.append(True)
                    raise

            loop._connect_sock = slow
            began = loop.time()
            transport, _ = await loop.create_connection(asyncio.Protocol, "many", 1, happy_eyeballs_delay=0.05)
            assert loop.time() - began >= 0.05
            assert tried == ["127.0.0.9", "127.0.0.1"]
            assert given_up == [True]
            transport.close()

    rig.run(loop, main())


@pytest.mark.parametrize("interleave", [0, 1, 2])
def test_families_take_turns(loop: Any, interleave: int) -> None:
    async def main() -> None:
        with addresses(loop) as (infos, tried):
            port = nobody()
            infos += [info("::1", port), info("::2", port), info("::3", port), info("127.0.0.1", port)]
            with pytest.raises(OSError):
                await loop.create_connection(
                    asyncio.Protocol, "many", 1, happy_eyeballs_delay=0.01, interleave=interleave
                )
            expected = {
                0: ["::1", "::2", "::3", "127.0.0.1"],
                1: ["::1", "127.0.0.1", "::2", "::3"],
                2: ["::1", "::2", "127.0.0.1", "::3"],
            }
            assert tried == expected[interleave]

    rig.run(loop, main())


def test_what_went_wrong_with_all_of_them(loop: Any) -> None:
    async def main() -> None:
        with addresses(loop) as (infos, _):
            port = nobody()
            infos += [info("127.0.0.1", port), info("127.0.0.2", port)]
            with pytest.raises(ConnectionRefusedError):
                await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
            with pytest.raises(OSError, match="Multiple exceptions"):
                await loop.create_connection(asyncio.Protocol, "many", 1)
            if sys.version_info >= (3, 12):
                with pytest.raises(ExceptionGroup) as caught:
                    await loop.create_connection(asyncio.Protocol, "many", 1, all_errors=True)
                assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError] * 2
            infos.clear()
            with pytest.raises(OSError, match="getaddrinfo"):
                await loop.create_connection(asyncio.Protocol, "many", 1)

    rig.run(loop, main())


def test_arguments_that_exclude_each_other(loop: Any) -> None:
    async def main() -> None:
        with socket.socket() as sock:
            for kwargs in (
                {"host": "127.0.0.1", "port": 1, "sock": sock},
                {"server_hostname": "name", "host": "127.0.0.1", "port": 1},
                {"ssl_handshake_timeout": 1, "host": "127.0.0.1", "port": 1},
                {},
            ):
                with pytest.raises(ValueError):
                    await loop.create_connection(asyncio.Protocol, **kwargs)

    rig.run(loop, main())
