"""The rows of the table: what is run, in which processes, and who takes part."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import loops
import micro
import primitives
from floor import FLOOR, Programs
from measure import Child, FailedError, Window, cpu_ns

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Bench:
    """Where and how the contenders run."""

    python: str
    programs: Programs
    certificate: Path
    server_core: int
    client_core: int
    limit: float


class Contender(Protocol):
    """One loop or package in one row: processes that stay alive, idle, between their windows."""

    def ready(self) -> None:
        """Wait until the processes can be measured."""

    def run(self, operations: int) -> Window:
        """Do that many operations."""

    def close(self) -> None:
        """End the processes; again does nothing."""


class Row(Protocol):
    """One line of the table."""

    @property
    def name(self) -> str: ...

    @property
    def least(self) -> int:
        """The fewest operations that make a meaningful window."""

    @property
    def group(self) -> str:
        """Rows of one group stand in one table: they have the same contenders."""

    @property
    def unit(self) -> str:
        """What is compared, a field of `Window`."""

    def takes(self, name: str) -> bool: ...

    def enter(self, bench: Bench, name: str, environment: Mapping[str, str]) -> Contender: ...


class EchoContender:
    """A server on one core and the load client on the other."""

    def __init__(self, row: EchoRow, bench: Bench, loop: str, environment: Mapping[str, str]) -> None:
        self._row, self._bench, self._environment = row, bench, environment
        self._server = Child(row.server(bench, loop), environment, bench.limit)
        self._load: Child | None = None

    def ready(self) -> None:
        port = self._server.answer()["port"]
        command = self._row.load(self._bench, port)
        self._load = Child(command, self._environment, self._bench.limit)
        self._talk(self._load.answer)

    def run(self, operations: int) -> Window:
        load = self._load
        assert load is not None
        before = cpu_ns(self._server.pid)
        answer = self._talk(lambda: load.ask(str(operations)))
        return Window(cpu_ns(self._server.pid) - before, answer["wall"])

    def _talk(self, exchange: Any) -> Any:
        try:
            return exchange()
        except FailedError:
            # A client that lost its server can only tell that; the server knows why.
            if reason := self._server.died() or self._server.complaint():
                raise FailedError(reason) from None
            raise

    def close(self) -> None:
        self._server.close()
        if self._load is not None:
            self._load.close()


@dataclass(frozen=True)
class EchoRow:
    """Ping-pong against a server; the operation is one request with its answer."""

    kind: str
    tls: bool
    kib: int
    connections: int
    group: str = "event loops"
    unit: str = "cpu"

    @property
    def name(self) -> str:
        security = "tls." if self.tls else ""
        return f"echo.{security}{self.kind}.{self.kib}k.x{self.connections}"

    @property
    def least(self) -> int:
        return 20 * self.connections

    def takes(self, name: str) -> bool:
        return name == FLOOR or name in loops.LOOPS

    def server(self, bench: Bench, loop: str) -> list[str]:
        if loop == FLOOR:
            command = bench.programs.command("server")
        else:
            command = [bench.python, str(HERE / "servers.py"), "--loop", loop, "--kind", self.kind]
        command += ["--core", str(bench.server_core)]
        if self.tls:
            command += ["--certificate", str(bench.certificate)]
            if loop == FLOOR:
                command += ["--openssl", bench.programs.openssl]
        return command

    def load(self, bench: Bench, port: int) -> list[str]:
        return [
            *bench.programs.command("load"),
            *("--port", str(port)),
            *("--connections", str(self.connections)),
            *("--size", str(self.kib * 1024)),
            *("--core", str(bench.client_core)),
            *(("--openssl", bench.programs.openssl) if self.tls else ()),
        ]

    def enter(self, bench: Bench, loop: str, environment: Mapping[str, str]) -> Contender:
        return EchoContender(self, bench, loop, environment)


class SelfTimed:
    """A process that times itself; both ends of whatever it does are in it."""

    def __init__(
        self, bench: Bench, script: str, given: Sequence[str], threads: bool, environment: Mapping[str, str]
    ) -> None:
        cores = [bench.server_core, bench.client_core] if threads else [bench.server_core]
        self._child = Child(
            [bench.python, str(HERE / script), *given, "--cores", ",".join(map(str, cores))], environment, bench.limit
        )

    def ready(self) -> None:
        self._child.answer()

    def run(self, operations: int) -> Window:
        answer = self._child.ask(str(operations))
        return Window(answer["cpu"], answer["wall"], answer.get("bytes", 0))

    def close(self) -> None:
        self._child.close()


@dataclass(frozen=True)
class MicroRow:
    """One operation of the loop, in one process."""

    name: str
    least: int
    group: str = "event loops"
    unit: str = "cpu"

    def takes(self, name: str) -> bool:
        return name in loops.LOOPS

    def enter(self, bench: Bench, name: str, environment: Mapping[str, str]) -> Contender:
        given = ["--loop", name, "--row", self.name]
        return SelfTimed(bench, "micro.py", given, micro.ROWS[self.name].threads, environment)


@dataclass(frozen=True)
class PrimitiveRow:
    """One operation on a lock, a queue or a pool, in one process."""

    primitive: str
    least: int
    unit: str
    group: str = "threads"

    @property
    def name(self) -> str:
        return f"threads.{self.primitive}"

    def takes(self, name: str) -> bool:
        return name in primitives.ROWS[self.primitive].who

    def enter(self, bench: Bench, name: str, environment: Mapping[str, str]) -> Contender:
        given = ["--kit", name, "--row", self.primitive]
        return SelfTimed(bench, "primitives.py", given, primitives.ROWS[self.primitive].threads, environment)


def every() -> list[Row]:
    """All rows, in the order of the table."""
    found: list[Row] = []
    for kind, tls in (
        ("protocol", False),
        ("streams", False),
        ("sock", False),
        ("protocol", True),
        ("streams", True),
    ):
        for kib in (1, 10, 100):
            for connections in (3, 100):
                found.append(EchoRow(kind, tls, kib, connections))
    found += [MicroRow(name, row.least) for name, row in micro.ROWS.items()]
    found += [PrimitiveRow(name, row.least, row.unit) for name, row in primitives.ROWS.items()]
    return found


def select(patterns: str) -> list[Row]:
    """The rows that match any of the comma-separated patterns; a bare word matches anywhere."""
    globs = [pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*" for pattern in patterns.split(",")]
    return [row for row in every() if any(fnmatch.fnmatchcase(row.name, glob) for glob in globs)]
