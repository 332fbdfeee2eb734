"""CPython's own tests of threading, queue and thread pools on ours: what passes on the original must pass on ours.

Two ways. The judge's runners take a module in the original's place (`ropewalk.threading`), or put its names there one
by one; and CPython's test modules run as they are, with everything installed by `ropewalk.install()`. Each class of
tests has a process of its own, which may die or hang. cpython_pools_known.txt has the tests that cannot pass.

    python tests/upstream/cpython_pools.py [--only SUITE,...] [-k PART_OF_A_TEST_ID]
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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import judges
import verdict
from verdict import Outcome, Results

HERE = Path(__file__).resolve().parent
ORIGINAL, OURS = "the standard library", "ropewalk"
PER_CLASS = 150  # seconds; then its tests are run one by one
PER_TEST = 30  # seconds; a test that takes longer hangs


@dataclass(frozen=True)
class Suite:
    """Some tests, and what tells their runner on what to run them."""

    name: str
    runner: str
    on: Mapping[str, Mapping[str, str]]
    needs: str
    """The module of CPython's tests that they are of: not every Python has it."""


def replacing(name: str, runner: str, needs: str, original: str, ours: str) -> Suite:
    """Tests that are given the module to test."""
    return Suite(name, runner, {ORIGINAL: {"TARGET": original}, OURS: {"TARGET": ours}}, needs)


def installed(module: str, classes: str = "") -> Suite:
    """A module of CPython's tests, whole, with ropewalk installed."""
    given = {"WHOLE_MODULE": module, "WHOLE_CLASSES": classes}
    on = {which: {**given, "WHOLE_ON": "ropewalk" if which == OURS else "original"} for which in (ORIGINAL, OURS)}
    return Suite(f"installed.{module.removeprefix('test.')}", "whole_module", on, module)


POOLS = "test.test_concurrent_futures"
OF_THREADS = r"^(?!.*Process).*(Thread|Interpreter|Future)"
# The ones that take longest first, so that no core waits at the end.
SUITES = (
    installed(f"{POOLS}.test_shutdown", OF_THREADS),
    installed("test.test_threading"),
    replacing("threading", "r_threading", "test.test_threading", "threading", "ropewalk.threading"),
    replacing("futures", "r_cf", POOLS, "pools_stdlib", "pools_ropewalk"),
    installed(f"{POOLS}.test_interpreter_pool"),
    installed(f"{POOLS}.test_thread_pool"),
    installed(f"{POOLS}.test_wait", OF_THREADS),
    installed(f"{POOLS}.test_as_completed", OF_THREADS),
    installed(f"{POOLS}.test_init", OF_THREADS),
    installed(f"{POOLS}.test_future"),
    installed("test.test_queue"),
    installed("test.test_sched"),
    installed("test.test_asyncio.test_threads"),
    installed("test.test_asyncio.test_futures"),
    replacing("locks", "r_locks", "test.lock_tests", "threading", "ropewalk.threading"),
    replacing("queue", "r_queue", "test.test_queue", "queue", "ropewalk.queue"),
)


class Judge:
    """runner.py, on several suites at a time."""

    def __init__(self, folder: Path, scratch: Path, jobs: int, part: str) -> None:
        self.script = folder / "pools" / "runner.py"
        self.scratch = scratch
        self.jobs = jobs
        self.part = part
        self.running: set[subprocess.Popen[bytes]] = set()
        self.lock = threading.Lock()
        self.stopping = threading.Event()

    def run(self, suite: Suite, which: str, only: str = "") -> Results:
        """One suite on the original or on ours; `only` is part of the name of a class."""
        with self.lock:
            if self.stopping.is_set():
                return {}
            handle, out = tempfile.mkstemp(dir=self.scratch)
            os.close(handle)
            command: list[str | Path] = [sys.executable, self.script, suite.runner, "-q", "-j", out]
            command += ["-t", str(PER_CLASS), "-T", str(PER_TEST), "-k", only]
            paths = [str(HERE / "plugins"), *filter(None, [os.environ.get("PYTHONPATH")])]
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **suite.on[which], "PYTHONPATH": os.pathsep.join(paths)},
            )
            self.running.add(child)
        said = child.communicate()[0].decode(errors="replace")
        with self.lock:
            self.running.discard(child)
        text = Path(out).read_text()
        if not text:
            if not self.stopping.is_set():
                print(f"  {suite.name} did not run on {which}:\n{said[-2000:]}", flush=True)
            return {}
        return {
            f"{suite.name}.{name}.{test}": Outcome(kind, self.by_hand(suite, which, f"{name}.{test}"))
            for name, tests in json.loads(text).items()
            for test, kind in tests.items()
            if self.part in f"{suite.name}.{name}.{test}"
        }

    def by_hand(self, suite: Suite, which: str, test: str) -> str:
        """How to see for oneself what a test says."""
        given = " ".join(f"{name}='{value}'" for name, value in suite.on[which].items())
        paths = f"PYTHONPATH=python:{HERE / 'plugins'}:{self.script.parent}"
        return f"{paths} {given} {sys.executable} -m unittest {suite.runner}.{test}"

    def whole(self, suites: list[Suite], which: str) -> Results:
        """All of them, side by side."""
        start = time.monotonic()
        results: Results = {}
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            waiting = {pool.submit(self.run, suite, which): suite for suite in suites}
            for count, future in enumerate(concurrent.futures.as_completed(waiting), 1):
                part = future.result()
                results |= part
                passed = sum(outcome.kind == "pass" for outcome in part.values())
                spent = time.monotonic() - start
                place = f"{which} [{count}/{len(waiting)}] {spent:4.0f} s"
                print(f"  {place}  {waiting[future].name}: {passed}/{len(part)}", flush=True)
        return results

    def again(self, suites: list[Suite], which: str, tests: list[str]) -> dict[str, list[Outcome]]:
        """The classes of some tests, alone, some times more."""
        found: dict[str, list[Outcome]] = {test: [] for test in tests}
        classes = sorted({test.rpartition(".")[0] for test in tests})
        for turn in range(verdict.RERUNS):
            for name in classes:
                suite, _, of = name.rpartition(".")
                (chosen,) = [one for one in suites if one.name == suite]
                results = self.run(chosen, which, of)
                for test in tests:
                    if test.rpartition(".")[0] == name:
                        found[test].append(results.get(test, verdict.MISSING))
                print(f"  alone, {turn + 1} of {verdict.RERUNS}: {name}", flush=True)
        return found

    def stop(self) -> None:
        """End everything that was started."""
        with self.lock:
            self.stopping.set()
            for child in self.running:
                judges.end(child)


def compare(judge: Judge, suites: list[Suite], given: argparse.Namespace) -> int:
    sources = [*sorted(judge.script.parent.glob("*.py")), HERE / "plugins" / "whole_module.py", Path(__file__)]

    def measure() -> Results:
        results = judge.whole(suites, ORIGINAL)
        # A test that failed by chance here would never be asked of ours.
        failed = [test for test, outcome in results.items() if outcome.kind not in ("pass", "skip")]
        for test, more in judge.again(suites, ORIGINAL, failed).items():
            results[test] = next((one for one in more if one.kind == "pass"), results[test])
        return {} if judge.stopping.is_set() else results

    original = verdict.kept("pools", sources, given.cache, not given.k and not given.only, measure)
    names = tuple(f"{suite.name}." for suite in suites)
    wanted = {test: outcome for test, outcome in original.items() if given.k in test and test.startswith(names)}
    expected = {test for test, outcome in wanted.items() if outcome.kind == "pass"}
    if not expected:
        print("no test passes on the original")
        return judges.report(given, 0, 1, 0, "no baseline")
    ours = judge.whole(suites, OURS)
    given.k = given.k or given.only  # a part: then lines of the list may match nothing
    return verdict.give(
        given, expected, ours, lambda tests: judge.again(suites, OURS, tests), "on the standard library's"
    )


def here(module: str) -> bool:
    """Whether this Python has a module of tests."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def main() -> int:
    parser = judges.options("CPython's tests of threading, queue and thread pools on ours.")
    parser.add_argument("--only", metavar="SUITE,...", help="of " + ", ".join(suite.name for suite in SUITES))
    parser.add_argument("-k", default="", metavar="PART", help="only tests whose id contains this")
    parser.add_argument("--cache", type=Path, help="keep the original's own results in this folder")
    parser.add_argument("--known", type=Path, default=HERE / "cpython_pools_known.txt")
    # Most of the tests wait, so there may be more at a time than cores.
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1)
    given = parser.parse_args()
    folder = judges.folder()
    if not folder:
        return judges.absent(given, "no judges here (see tests/upstream/README.md)")
    if not here("test.lock_tests"):
        return judges.absent(given, f"{sys.executable} was installed without CPython's test package")
    chosen = given.only.split(",") if given.only else [suite.name for suite in SUITES]
    if unknown := set(chosen) - {suite.name for suite in SUITES}:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    suites = [suite for suite in SUITES if suite.name in chosen and here(suite.needs)]
    with tempfile.TemporaryDirectory(prefix="judge-", ignore_cleanup_errors=True) as scratch:
        judge = Judge(folder, Path(scratch), given.jobs, given.k)
        try:
            with judges.interruptible(judge.stop):
                return compare(judge, suites, given)
        except KeyboardInterrupt:
            print("interrupted")
            return 130


if __name__ == "__main__":
    sys.exit(main())
