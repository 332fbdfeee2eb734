"""CPython's own test_asyncio on our loop: every test that passes on asyncio's must pass on ours.

That suite says what an event loop does in more detail than any documentation. The judge runs it,
test by test in processes that may die, once on asyncio's loop for the baseline and once on ours;
this script spreads it over the cores by module, compares, and holds cpython_asyncio_known.txt
to what it says.

    python tests/upstream/cpython_asyncio.py [--loop PACKAGE:FACTORY] [-k PART_OF_A_TEST_ID]
"""

import argparse
import concurrent.futures
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import judges
import verdict
from verdict import Outcome, Results

HERE = Path(__file__).resolve().parent
PREFIX = "test.test_asyncio."
PER_TEST = 30  # seconds; a test that takes longer hangs


class Judge:
    """judge.py, run in parts, several at a time."""

    def __init__(self, folder: Path, scratch: Path, jobs: int) -> None:
        self.script = folder / "asyncio" / "judge.py"
        self.scratch = scratch
        self.jobs = jobs
        self.running: set[subprocess.Popen[bytes]] = set()
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.complained = False

    def modules(self) -> list[str]:
        """The modules of the suite, the ones that take longest first, so that no core waits at the end."""
        path = self.script.with_name("suite_cpython.py")
        spec = importlib.util.spec_from_file_location("suite_cpython", path)
        assert spec and spec.loader
        suite = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(suite)
        long = [
            "test_tasks",
            "test_taskgroups",
            "test_ssl",
            "test_subprocess",
            "test_events",
            "test_sslproto",
        ]
        names = [name for name in suite.MODULES if name not in suite.SKIP_MODULES]
        return sorted(names, key=lambda name: long.index(name) if name in long else len(long))

    def part(self, loop: str, only: str) -> Results:
        """The tests of one part of the suite: those whose id contains `only`."""
        with self.lock:
            if self.stopping.is_set():
                return {}
            place = Path(tempfile.mkdtemp(dir=self.scratch))
            out = place / "results.json"
            command: list[str | Path] = [sys.executable, self.script, "cpython", "--loop", loop, "--out", out]
            command += ["--timeout", str(PER_TEST), "-k", only]
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "JUDGE_TMP": str(place)},
            )
            self.running.add(child)
        said = child.communicate()[0].decode(errors="replace")
        with self.lock:
            self.running.discard(child)
        if not out.exists():
            if self.stopping.is_set():
                return {}
            log = out.with_name(out.name + ".log")
            tail = (said + (log.read_text(errors="replace") if log.exists() else ""))[-2000:]
            if not self.complained:  # the next parts will most likely say the same
                print(f"the judge broke off at {only} on {loop}:\n{tail}", flush=True)
            self.complained = True
            return {}
        results = json.loads(out.read_text())["results"]
        return {test: Outcome(result[0], result[1]) for test, result in results.items()}

    def parts(self, loop: str, several: Iterable[str], what: str) -> Results:
        """Several parts side by side."""
        start = time.monotonic()
        results: Results = {}
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            waiting = {pool.submit(self.part, loop, one): one for one in several}
            for count, future in enumerate(concurrent.futures.as_completed(waiting), 1):
                part = future.result()
                results |= part
                passed = sum(outcome.kind == "pass" for outcome in part.values())
                name = waiting[future].removeprefix(PREFIX).strip(".")
                spent = time.monotonic() - start
                print(
                    f"  {what} [{count}/{len(waiting)}] {spent:4.0f} s  {name}: {passed}/{len(part)}",
                    flush=True,
                )
        return results

    def whole(self, loop: str, only: str) -> Results:
        """The suite in parts, or as one part the tests of it whose id contains `only`."""
        return self.parts(loop, [only] if only else [f"{PREFIX}{name}." for name in self.modules()], loop)

    def stop(self) -> None:
        """End everything that was started."""
        with self.lock:
            self.stopping.set()
            for child in self.running:
                judges.end(child)


def baseline(judge: Judge, cache: Path | None, only: str) -> Results:
    """asyncio's own results on this very Python."""
    sources = sorted(judge.script.parent.glob("*.py"))

    def measure() -> Results:
        results = judge.whole("asyncio", only)
        # A test that failed by chance here would never be asked of our loop.
        for test in [test for test, outcome in results.items() if outcome.kind not in ("pass", "skip")]:
            results[test] = judge.part("asyncio", test).get(test, results[test])
        return {} if judge.stopping.is_set() else results

    results = verdict.kept("asyncio", sources, cache, not only, measure)
    return {test: outcome for test, outcome in results.items() if only in test}


def again(judge: Judge, loop: str, tests: list[str]) -> dict[str, list[Outcome]]:
    """Each test alone, some times more; named without the prefix."""
    found: dict[str, list[Outcome]] = {test: [] for test in tests}
    for turn in range(verdict.RERUNS if tests else 0):
        results = judge.parts(loop, [PREFIX + test for test in tests], f"alone, {turn + 1} of {verdict.RERUNS}:")
        for test in tests:
            found[test].append(results.get(PREFIX + test, verdict.MISSING))
    return found


def compare(judge: Judge, given: argparse.Namespace) -> int:
    expected = {test for test, outcome in baseline(judge, given.cache, given.k).items() if outcome.kind == "pass"}
    if not expected:
        print(f"no test passes on asyncio's own loop{f' with {given.k!r} in its id' if given.k else ''}")
        return judges.report(given, 0, 1, 0, "no baseline")
    ours = judge.whole(given.loop, given.k)
    if not ours:
        print(f"no test ran on {given.loop}: see what the judge said above")
        return judges.report(given, 0, 1, 0, f"no test ran on {given.loop}")
    short = {test.removeprefix(PREFIX): outcome for test, outcome in ours.items()}
    return verdict.give(
        given,
        {test.removeprefix(PREFIX) for test in expected},
        short,
        lambda tests: again(judge, given.loop, tests),
        "on asyncio's loop",
    )


def main() -> int:
    parser = judges.options("CPython's test_asyncio on our loop.")
    parser.add_argument("--loop", default="ropewalk.asyncio:new_event_loop", metavar="PACKAGE:FACTORY")
    parser.add_argument("-k", default="", metavar="PART", help="only tests whose id contains this")
    parser.add_argument("--cache", type=Path, help="keep asyncio's own results in this folder")
    parser.add_argument("--known", type=Path, default=HERE / "cpython_asyncio_known.txt")
    # Most of the suite waits, so there may be more at a time than cores.
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1)
    given = parser.parse_args()
    folder = judges.folder()
    if not folder:
        return judges.absent(given, "no judges here (see tests/upstream/README.md)")
    if importlib.util.find_spec("test") is None or importlib.util.find_spec("test.test_asyncio") is None:
        return judges.absent(given, f"{sys.executable} was installed without CPython's test package")
    with tempfile.TemporaryDirectory(prefix="judge-", ignore_cleanup_errors=True) as scratch:
        judge = Judge(folder, Path(scratch), given.jobs)
        try:
            with judges.interruptible(judge.stop):
                return compare(judge, given)
        except KeyboardInterrupt:
            print("interrupted")
            return 130


if __name__ == "__main__":
    sys.exit(main())
