"""Plain Python against ropewalk: the same programs, unmodified, one after the other, in one table.

    ./dev demo

Each program downloads pages from a small web site on loopback. The runs alternate, plain and
ropewalk, plain and ropewalk, so that a busy moment of the machine meets both; the table shows medians.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

HERE = Path(__file__).resolve().parent
LAUNCHERS = {"plain": [sys.executable], "ropewalk": [sys.executable, "-m", "ropewalk", "run"]}
PROGRAMS = ["tasks", "threads", "processes"]
# One round: each program under both launchers. The one that is over soonest is measured more often.
ROUND = ["tasks", "threads", "tasks", "processes"]
FEWEST, MOST = 3, 7  # rounds
ENOUGH = 40.0  # seconds that all rounds together may take, as the first one foretells
LONGEST = 60.0  # seconds for one run


@dataclass
class Run:
    """What one run of a program reported."""

    wall: float
    cpu: float
    pages: int
    bytes: int
    on: str = ""
    """The class of the event loop or the pool that it ran on."""


@dataclass
class Measured:
    """All runs of one program, by launcher."""

    runs: dict[str, list[Run]] = field(default_factory=lambda: {name: [] for name in LAUNCHERS})

    def median(self, launcher: str, what: str) -> float:
        return float(statistics.median(getattr(run, what) for run in self.runs[launcher]))

    def ratio(self, what: str) -> float:
        return self.median("ropewalk", what) / self.median("plain", what)


class Broken(Exception):
    """A run did not end as it should."""


@contextlib.contextmanager
def started(command: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    """A child in a session of its own, which is over, with all that it started, when the block is."""
    child = subprocess.Popen(command, text=True, start_new_session=True, **options)  # type: ignore[call-overload]
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def run(launcher: str, program: str, address: str) -> Run:
    command = [*LAUNCHERS[launcher], str(HERE / f"{program}.py"), address]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            out, err = child.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            raise Broken(f"{program} ({launcher}) ran past {LONGEST:.0f} s") from None
        code = child.returncode
    if code:
        raise Broken(f"{program} ({launcher}) ended with {code}:\n{err.strip()[-2000:]}")
    return Run(**json.loads(out.splitlines()[-1]))


def measure(address: str, console: Console) -> dict[str, Measured]:
    """Rounds of every program under both launchers, until there are enough."""
    results = {program: Measured() for program in PROGRAMS}
    live = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    each = len(ROUND) * len(LAUNCHERS)
    rounds, turn = FEWEST, 0
    start = time.monotonic()
    with live:
        task = live.add_task("", total=rounds * each)
        while turn < rounds:
            if not console.is_terminal:
                console.print(f"round {turn + 1}" + (f" of {rounds} ..." if turn else " ..."))
            for step, program in enumerate(ROUND):
                # Who goes first changes, so that neither always finds the caches warm.
                for launcher in list(LAUNCHERS)[:: 1 if (turn + step // 2) % 2 == 0 else -1]:
                    live.update(task, description=f"round {turn + 1}  {program:9} {launcher:8}")
                    results[program].runs[launcher].append(run(launcher, program, address))
                    live.advance(task)
            turn += 1
            if turn == 1:
                fitting = int(ENOUGH / (time.monotonic() - start))
                rounds = max(FEWEST, min(MOST, fitting))
                live.update(task, total=rounds * each)
    for program, result in results.items():
        sizes = {one.bytes for runs in result.runs.values() for one in runs}
        if len(sizes) != 1:
            raise Broken(f"{program} downloaded different bytes in different runs: {sorted(sizes)}")
    return results


def ratio(value: float) -> Text:
    """A ratio, in green where ropewalk takes clearly less and in red where it takes clearly more."""
    return Text(f"{value:.2f}", style="bold green" if value < 0.95 else "bold red" if value > 1.05 else "")


def table(results: dict[str, Measured]) -> Table:
    """One row a program: time and CPU under both, what ropewalk takes of plain Python's, and its pages a second."""
    shown = Table(box=box.ROUNDED, header_style="bold")
    shown.add_column("program", no_wrap=True)
    for heading in ("time\nplain", "time\nropewalk", "\nratio", "CPU\nplain", "CPU\nropewalk", "\nratio"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("pages/s\nropewalk", justify="right", no_wrap=True)
    for program, result in results.items():
        cells: list[Text | str] = [program]
        for what in ("wall", "cpu"):
            cells += [f"{result.median(launcher, what):.2f}" for launcher in LAUNCHERS]
            cells.append(ratio(result.ratio(what)))
        pages = result.runs["ropewalk"][0].pages
        shown.add_row(*cells, f"{pages / result.median('ropewalk', 'wall'):,.0f}")
    return shown


def notes(results: dict[str, Measured]) -> Iterator[str]:
    """What the reader needs to judge the figures."""
    yield "Seconds, medians of alternating runs; ratio = ropewalk / plain, below 1 is less."
    for program, result in results.items():
        plain, ours = (result.runs[launcher] for launcher in LAUNCHERS)
        code = f", on {plain[0].on}, then on {ours[0].on}" if ours[0].on else "; Python's own code under both"
        yield f"{program}: {plain[0].pages} pages, {len(plain)} runs of each{code}."
    yield "The site answers after 20 to 60 ms, and no loop makes that shorter."


def main() -> int:
    console = Console(highlight=False)
    version = sys.version.split()[0]
    gil = "" if getattr(sys, "_is_gil_enabled", lambda: True)() else ", GIL off"
    console.print(
        f"[bold]ropewalk[/bold]: the same programs under plain Python {version}{gil} and under `ropewalk run`"
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill cleans up as Ctrl-C does
    site = [sys.executable, str(HERE / "website.py")]
    try:
        with started(site, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as website:
            assert website.stdout
            results = measure(website.stdout.readline().strip(), console)
    except Broken as error:
        console.print("[bold red]error:[/bold red]", Text(str(error)))
        return 1
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    console.print()
    console.print(table(results))
    for note in notes(results):
        console.print(note, style="dim")
    return 0


if __name__ == "__main__":
    sys.exit(main())
