"""Which packages' suites run on our loop, and what each needs said.

The versions are those that are installed (pyproject.toml pins them, in the group `suites`), and the
tests are those of the same version's source distribution.

websockets ships none, on purpose: its tests are in its repository alone. Releases 13 to 16 hold some by
mistake, and of those none runs a loop. What works its asyncio client and server hard, from a source
distribution, is gql, whose tests run GraphQL clients against servers made with websockets.

anyio's tests over IPv6 look localhost up: where that is no ::1, they fail on every loop, and count on none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """One package's tests, and how pytest is to be started on them."""

    package: str
    code: str
    """The folder of the package's own code in its source distribution, which must not hide the installed one."""
    arguments: tuple[str, ...] = ()
    """What is in their own configuration's addopts and matters here; and what of it cannot run here."""


WITHOUT_PYTEST_ASYNCIO = ("-p", "no:asyncio")  # gql's alone are tests of it
WITHOUT_INTERNET = ("-m", "not network")

SUITES = (
    # Without its benchmarks, which measure, and without what only its own CI runs (Docker, fuzzing).
    Suite(
        "aiohttp",
        "aiohttp",
        (
            *WITHOUT_PYTEST_ASYNCIO,
            "-m",
            "not dev_mode and not autobahn and not internal",
            "--ignore=tests/isolated",
            "--ignore-glob=tests/test_benchmarks_*",
        ),
    ),
    # trio has no loop to replace: its half of the tests would be the same twice.
    Suite("anyio", "src", (*WITHOUT_PYTEST_ASYNCIO, *WITHOUT_INTERNET, "-k", "not trio")),
    Suite("uvicorn", "uvicorn", (*WITHOUT_PYTEST_ASYNCIO, "--ignore=tests/benchmarks")),
    Suite("httpx", "httpx", (*WITHOUT_PYTEST_ASYNCIO, *WITHOUT_INTERNET)),
    Suite("gql", "gql"),
)
