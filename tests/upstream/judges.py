"""Where the judges are, and how a check reports to ./dev.

A judge is a script that runs another project's own test suite, from where that project installs
it, against something of ours. None is copied into this repository: they are looked for in the
folder named by ROPEWALK_JUDGES, then in ../shared/judges beside the checkout.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def folder() -> Path | None:
    """The folder of judges, or None where this machine has none."""
    named = os.environ.get("ROPEWALK_JUDGES")
    if named:
        if not Path(named).is_dir():
            sys.exit(f"ROPEWALK_JUDGES names {named}, which is no folder")
        return Path(named).resolve()
    beside = ROOT.parent / "shared" / "judges"
    return beside if beside.is_dir() else None


def options(description: str) -> argparse.ArgumentParser:
    """The options that every check has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--counts", type=Path, help="write passed, failed, skipped and a note here, as JSON")
    parser.add_argument("--require", action="store_true", help="fail, rather than say so, if the judge is not here")
    return parser


def report(given: argparse.Namespace, passed: int, failed: int, skipped: int, note: str) -> int:
    """Leave the counts where ./dev looks for them; the exit code of the check."""
    if given.counts:
        counts = {"passed": passed, "failed": failed, "skipped": skipped, "note": note}
        given.counts.write_text(json.dumps(counts))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def absent(given: argparse.Namespace, why: str) -> int:
    """The check cannot run here: that is for the reader to see, and a failure where it is required."""
    print(f"not run: {why}")
    return report(given, 0, 1 if given.require else 0, 0, f"not run: {why}")


@contextlib.contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and a polite kill end what was started, by `stop`; and so does the end of the block."""

    def heard(number: int, frame: object) -> None:
        stop()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def end(judge: "subprocess.Popen[Any]") -> None:
    """End a judge. Its workers lead sessions of their own, so they go first."""
    with contextlib.suppress(OSError):
        workers = Path(f"/proc/{judge.pid}/task/{judge.pid}/children").read_text().split()
        for worker in map(int, workers):
            os.killpg(worker, signal.SIGKILL)
    judge.kill()
