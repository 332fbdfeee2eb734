"""Race ropewalk's loop, locks, queues and pools against the others, and print the rows it loses.

    python benches/rivals/run.py --quick
    python benches/rivals/run.py --rows 'echo.*.x100,task' --malloc plain,tuned --json out.json

What is measured, and how to read it: benches/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import floor
import kits
import loops
import rows
import table
from measure import Cell, FailedError, Runner, Window, interleave

MALLOC = {
    # As it is.
    "plain": {"GLIBC_TUNABLES": ""},
    # Large blocks stay with the process instead of being mapped and unmapped each time.
    "tuned": {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=8000000:glibc.malloc.trim_threshold=80000000"},
}

# Loops, and packages of locks and queues; ropewalk is both.
KNOWN = [name for name in (floor.FLOOR, *loops.LOOPS, *kits.KITS) if name != loops.OURS] + [loops.OURS]

# A handful that tells whether a change helped, in under a minute.
QUICK = "echo.protocol.1k.x100,echo.streams.1k.x100,echo.sock.1k.x100,echo.tls.protocol.1k.x100,call_soon.chain,call_later.cancel,task,sleep0"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rows", help="comma-separated patterns; a bare word matches anywhere in the name")
    add("--only", help=f"who races: comma-separated, of {','.join(KNOWN)}")
    add("--wall", action="store_true", help="compare wall-clock time, not CPU time")
    add("--rounds", type=int, help="windows per contender (11, with --quick 7)")
    add("--window", type=float, help="seconds per window (0.05, with --quick 0.03)")
    add("--quick", action="store_true", help="few rows, fewer and shorter windows")
    add("--malloc", default="plain", help=f"comma-separated, of {','.join(MALLOC)}")
    add("--limit", type=float, default=20, help="seconds until a contender counts as hanging")
    add("--base", default=f"uvloop,asyncio,{floor.FLOOR},stdlib", help="columns to form ratios to")
    add("--json", type=Path, help="write every sample to this file")
    add("--markdown", action="store_true", help="print Markdown tables")
    add("--python", default=sys.executable, help="the interpreter that runs the loops")
    add("--list", action="store_true", help="print the names of the rows and stop")
    return parser.parse_args()


def split(value: str, known: Sequence[str], what: str) -> list[str]:
    chosen = value.split(",")
    if unknown := [name for name in chosen if name not in known]:
        sys.exit(f"unknown {what} {', '.join(unknown)}\nhint: there are {', '.join(known)}")
    return chosen


def available(python: str, wanted: Sequence[str]) -> dict[str, str]:
    """Who can be had here, with their versions; says who cannot."""
    found = {}
    for name in wanted:
        if name == floor.FLOOR:
            found[name] = ""
            continue
        script = "loops.py" if name in loops.LOOPS else "kits.py"
        asked = subprocess.run([python, str(rows.HERE / script), name], capture_output=True, text=True)
        if asked.returncode == 0:
            found[name] = asked.stdout.strip()
        else:
            reason = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
            print(f"left out: {name} ({reason})", file=sys.stderr)
    return found


def needed(chosen: Sequence[rows.Row]) -> list[str]:
    """Everybody who takes part in one of these rows."""
    return [name for name in KNOWN if any(row.takes(name) for row in chosen)]


def version_of(python: str) -> str:
    """What an interpreter says it is."""
    return subprocess.check_output([python, "-c", "import sys; print(sys.version)"], text=True).strip()


CERTIFY = """
import sys, trustme
issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
issued.private_key_and_cert_chain_pem.write_to_path(sys.argv[1])
"""


def certify(python: str, certificate: Path) -> None:
    """Make the certificate of the TLS rows."""
    made = subprocess.run([python, "-c", CERTIFY, certificate], capture_output=True, text=True)
    if made.returncode:
        sys.exit(f"{made.stderr}hint: {python} -m pip install -r {rows.HERE}/requirements.txt")


def guarded(contender: rows.Contender) -> Runner:
    """Runs a contender, and ends it when it fails: one that spins would disturb the others."""

    def run(operations: int) -> Window:
        try:
            return contender.run(operations)
        except FailedError:
            contender.close()
            raise

    return run


def race(
    row: rows.Row,
    bench: rows.Bench,
    names: Sequence[str],
    mallocs: Sequence[str],
    rounds: int,
    window: float,
    unit: str,
) -> list[table.Result]:
    """One row: start everything, measure in turn, stop everything."""
    failed: dict[tuple[str, str], Cell] = {}
    runners: dict[tuple[str, str], Runner] = {}
    with ExitStack() as stack:
        contenders: dict[tuple[str, str], rows.Contender] = {}
        for malloc in mallocs:
            for name in names:
                if row.takes(name):
                    contender = row.enter(bench, name, os.environ | MALLOC[malloc])
                    stack.callback(contender.close)
                    contenders[malloc, name] = contender
        for key, contender in contenders.items():
            try:
                contender.ready()
                runners[key] = guarded(contender)
            except FailedError as error:
                contender.close()
                failed[key] = Cell(error=str(error))
        cells = interleave(runners, row.least, window, rounds, unit) | failed
    return [
        table.Result(
            row.name, row.group, unit, malloc, {name: cells[malloc, name] for name in names if (malloc, name) in cells}
        )
        for malloc in mallocs
    ]


def document(results: Sequence[table.Result], versions: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """What --json writes: nanoseconds per operation of every window, and the circumstances."""
    return {
        "unit": "ns (or bytes) per operation",
        "python": version_of(options.python),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "versions": versions,
        "rounds": options.rounds,
        "window": options.window,
        "results": [
            {
                "row": result.name,
                "unit": result.unit,
                "malloc": result.malloc,
                "contenders": {
                    name: {"error": cell.error}
                    if not cell.ok
                    else {
                        "median": cell.median,
                        "operations": cell.operations,
                        "samples": cell.samples,
                    }
                    for name, cell in result.cells.items()
                },
            }
            for result in results
        ],
    }


def main() -> None:
    options = arguments()
    chosen = rows.select(options.rows or (QUICK if options.quick else "*"))
    if options.list:
        print("\n".join(row.name for row in chosen))
        return
    if not chosen:
        sys.exit(f"no row matches {options.rows}\nhint: --list prints the names")
    options.rounds = options.rounds or (7 if options.quick else 11)
    options.window = options.window or (0.03 if options.quick else 0.05)
    wanted = split(options.only, KNOWN, "contender") if options.only else needed(chosen)
    mallocs = split(options.malloc, list(MALLOC), "malloc setting")
    bases = split(options.base, KNOWN, "column")
    versions = available(options.python, wanted)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("one core only: the client disturbs the server, trust no figure", file=sys.stderr)

    started = time.monotonic()
    results: list[table.Result] = []
    with tempfile.TemporaryDirectory() as directory:
        certificate = Path(directory) / "certificate.pem"
        echo = [row for row in chosen if isinstance(row, rows.EchoRow)]
        tls = any(row.tls for row in echo)
        if tls:
            certify(options.python, certificate)
        bench = rows.Bench(
            python=options.python,
            programs=floor.programs(options.python) if echo else floor.Programs(Path(), (), ""),
            certificate=certificate,
            server_core=cores[0],
            client_core=cores[-1],
            limit=options.limit,
        )
        for number, row in enumerate(chosen, 1):
            print(f"\r\033[K{number}/{len(chosen)} {row.name}", end="", file=sys.stderr, flush=True)
            unit = "wall" if options.wall and row.unit == "cpu" else row.unit
            results += race(row, bench, list(versions), mallocs, options.rounds, options.window, unit)
    print("\r\033[K", end="", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(document(results, versions, options), indent=1) + "\n")
    names = ", ".join(f"{name} {version}".strip() for name, version in versions.items())
    print(
        f"{names}; Python {version_of(options.python).partition(' ')[0]}; "
        f"{options.rounds} windows of {options.window} s; {time.monotonic() - started:.0f} s\n"
    )
    print(table.report(results, list(versions), bases, options.markdown))


if __name__ == "__main__":
    main()
