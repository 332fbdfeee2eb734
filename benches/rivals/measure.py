"""What a measurement is: CPU time of a whole process, taken in short windows, in turn.

Wall-clock time says how busy the machine was; CPU time says what the work cost. It drifts too
when others use the cores (caches, clock frequency), so the contenders take turns in short
windows and every ratio is formed inside a turn.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar


class FailedError(Exception):
    """A contender cannot do this row; the text is the short reason for the table."""


def cpu_ns(pid: int) -> int:
    """CPU nanoseconds a process has used, in user and kernel, with its ended threads.

    The process's own CPU clock, which has nanoseconds where /proc/PID/stat has ticks of ten
    milliseconds. Linux encodes it as the complement of the pid over a three-bit kind, 2 being
    scheduled time.
    """
    return time.clock_gettime_ns((~pid << 3) | 2)


class Child:
    """A process that answers each line on its standard input with one line of JSON."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], limit: float):
        self._limit = limit
        self._pending = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        self.pid = self._process.pid

    def close(self) -> None:
        """End the process, however it is; again does nothing."""
        if self._log.closed:
            return
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and wait for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise FailedError(self._cause_of_death()) from None
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer; one that tells an error is raised."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        end = time.monotonic() + self._limit
        while b"\n" not in self._pending:
            if not select.select([descriptor], [], [], max(0, end - time.monotonic()))[0]:
                raise FailedError("hangs")
            received = os.read(descriptor, 65536)
            if not received:
                raise FailedError(self._cause_of_death())
            self._pending += received
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise FailedError(answer["error"])
        return answer

    def died(self) -> str | None:
        """How the process ended, if it did."""
        try:
            self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            return None
        return self._cause_of_death()

    def complaint(self) -> str | None:
        """The error that the process's log ends with, if it ends with one."""
        self._log.flush()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        # The last line of a traceback begins with the name of the exception.
        found = re.match(r"(?:\w+\.)*([A-Z]\w+)(?::|$)", lines[-1]) if lines else None
        return found[1] if found else None

    def _cause_of_death(self) -> str:
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else self.complaint() or f"exit {code}"


@dataclass
class Cell:
    """One contender in one row: nanoseconds (or bytes) per operation in each round, or why not."""

    samples: list[float] = field(default_factory=list)
    operations: int = 0
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None and bool(self.samples)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


def ratios(cell: Cell, base: Cell) -> list[float]:
    """Ratios to `base`, each formed within one round, so that drift cancels."""
    return [a / b for a, b in zip(cell.samples, base.samples, strict=True)]


def ratio(cell: Cell, base: Cell) -> float:
    """The median ratio to `base`."""
    return statistics.median(ratios(cell, base))


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and third quartile."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


@dataclass(frozen=True)
class Window:
    """What one window cost."""

    cpu: int
    wall: int
    bytes: int = 0


# What a contender is called by.
Key = TypeVar("Key")

# Runs that many operations and says what they cost.
Runner = Callable[[int], Window]


def calibrate(run: Runner, least: int, target: float) -> int:
    """Warm up, and find how many operations fill a window of `target` seconds."""
    operations = least
    while True:
        wall = run(operations).wall / 1e9
        if wall > target / 2:
            break
        operations = int(operations * min(10, max(2, target / max(wall, 1e-9))))
    operations = max(least, int(operations * target / wall))
    run(operations)
    return operations


def interleave(
    runners: Mapping[Key, Runner], least: int, target: float, rounds: int, unit: str = "cpu"
) -> dict[Key, Cell]:
    """Measure the contenders in turn, round after round; each round begins with another.

    `unit` is what of a window counts.
    """
    cells = {name: Cell() for name in runners}

    def attempt(name: Key, action: Callable[[], None]) -> None:
        if cells[name].error is None:
            try:
                action()
            except FailedError as error:
                cells[name].error = str(error)

    for name, run in runners.items():

        def warm(name: Key = name, run: Runner = run) -> None:
            cells[name].operations = calibrate(run, least, target)

        attempt(name, warm)
    names = list(runners)
    for number in range(rounds):
        start = number % len(names) if names else 0
        for name in names[start:] + names[:start]:

            def window(name: Key = name) -> None:
                cell = cells[name]
                cell.samples.append(getattr(runners[name](cell.operations), unit) / cell.operations)

            attempt(name, window)
    return cells
