"""Other packages' own test suites on our loop: every test that passes on asyncio's must pass on ours.

A package's tests come from its source distribution, of the version that is installed beside it. pytest
runs them twice in the same environment: plainly, for the baseline, and under `ropewalk run`, as a user
would, so that what the tests start as child processes is on our loop as well. A plugin of ours makes sure
of the loop and writes down how each test ended. Then this script compares, and holds packages_known.txt
to what it says.

    python tests/upstream/packages.py [--only PACKAGE,...] [-k PART_OF_A_TEST_ID]
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import judges
import known
from suites import SUITES, Suite

HERE = Path(__file__).resolve().parent
PER_TEST = 30  # seconds after which pytest-timeout fails a test
SILENCE = 3 * PER_TEST  # seconds without a test's beginning or end after which nothing will help
DEATHS = 10  # of the test process, beyond which the suite is given up
RERUNS = 3
MORE = 9  # if these seem to differ
TOO_MANY = 40  # differences of a suite beyond which the loop is broken, not the test flaky
SHOWN = 25  # differences whose end of traceback is printed


@dataclass(frozen=True)
class Outcome:
    """What one test did: pass, fail, error, skip, crash, hang, missing; and what it said."""

    kind: str
    said: str = ""


MISSING = Outcome("missing", "it was not collected, or not run")


@dataclass
class Ran:
    """A suite, or a part of it, on one loop."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    loops: dict[str, int] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)
    seconds: float = 0


class Runner:
    """Fetches suites, runs them, and ends what it started."""

    def __init__(self, cache: Path, scratch: Path) -> None:
        self.cache = cache
        self.scratch = scratch
        self.running: set[subprocess.Popen[bytes]] = set()
        self.lock = threading.Lock()
        self.stopping = threading.Event()

    def start(self, command: Sequence[str | Path], **how: object) -> subprocess.Popen[bytes]:
        """A child in a process group of its own, so that its children end with it."""
        with self.lock:
            if self.stopping.is_set():
                raise KeyboardInterrupt
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, **how)  # type: ignore[call-overload]
            self.running.add(child)
        return child  # type: ignore[no-any-return]

    def end(self, child: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        with self.lock:
            self.running.discard(child)

    def stop(self) -> None:
        with self.lock:
            self.stopping.set()
            for child in self.running:
                with contextlib.suppress(OSError):
                    os.killpg(child.pid, signal.SIGKILL)

    # The tests -----------------------------------------------------------------------------------------

    def fetch(self, suite: Suite) -> Path:
        """The folder of the suite: its package's source distribution without the package's own code."""
        version = importlib.metadata.version(suite.package)
        name = f"{suite.package}-{version}"
        place = self.cache / name
        if place.exists():
            return place
        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            command += ["--no-deps", "--no-binary", suite.package, "--dest", folder, f"{suite.package}=={version}"]
            child = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            try:
                said = child.communicate()[0].decode(errors="replace")
            finally:
                self.end(child)
            found = list(Path(folder).glob("*.tar.gz"))
            if child.returncode or len(found) != 1:
                raise OSError(f"pip download of {name} ended with {child.returncode}: {said[-1000:]}")
            with tarfile.open(found[0]) as archive:
                archive.extractall(Path(folder, "all"), filter="data")
            (top,) = Path(folder, "all").iterdir()
            (top / suite.code).rename(Path(folder, "code"))
            top.rename(place)
        return place

    # Running them --------------------------------------------------------------------------------------

    def run(self, suite: Suite, loop: str, part: str = "", only: Sequence[str] | None = None) -> Ran:
        """All tests, those with a part of an id in common, or only some; again behind a test that kills pytest."""
        began = time.monotonic()
        ran = Ran()
        while not self.once(suite, loop, part, only, ran):
            if len(ran.trouble) > DEATHS:
                ran.trouble.append("given up")
                break
        ran.seconds = time.monotonic() - began
        return ran

    def once(self, suite: Suite, loop: str, part: str, only: Sequence[str] | None, ran: Ran) -> bool:
        """One process of pytest; whether it came to its end."""
        home = Path(tempfile.mkdtemp(dir=self.scratch))  # a short path: tests put Unix sockets below it
        results, log = home / "results", home / "log"
        results.touch()
        wishes = {"results": str(results), "loop": loop, "part": part, "only": only, "without": list(ran.outcomes)}
        files = sorted({test.partition("::")[0] for test in only}) if only else []
        command: list[str | Path] = [sys.executable]
        command += ["-m", "ropewalk", "run"] if loop == "ropewalk" else []
        command += ["-m", "pytest", "-p", "loop_results", "-p", "no:cacheprovider", "-o", "addopts=", "-q"]
        command += ["--tb=short", "--continue-on-collection-errors", f"--basetemp={home / 't'}"]
        command += [f"--timeout={PER_TEST}", *suite.arguments, *files]
        env = {**os.environ, "LOOP_RESULTS": json.dumps(wishes), "PYTHONPATH": str(HERE / "plugins")}
        env |= {"PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1", "TERM": "dumb"}
        # Tests start the commands that the environment has.
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        place = self.fetch(suite)
        with log.open("wb") as output:
            child = self.start(command, cwd=place, env=env, stdout=output, stderr=subprocess.STDOUT)
            try:
                hung = not self.attend(child, results)
            finally:
                self.end(child)
        return self.read(results, log, hung, child.returncode, ran)

    def attend(self, child: subprocess.Popen[bytes], results: Path) -> bool:
        """Wait for a child that goes on writing results; whether it ended by itself."""
        size, since = -1, time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(2)
                return True
            if (now := results.stat().st_size) != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > SILENCE:
                return False

    def read(self, results: Path, log: Path, hung: bool, code: int, ran: Ran) -> bool:
        """Take in what one process wrote; whether it finished."""
        running, finished = "", None
        for text in results.read_text().splitlines():
            line = json.loads(text)
            if "started" in line:
                running = line["started"]
            elif "ended" in line:
                ran.outcomes[line["ended"]] = Outcome(line["kind"], line["said"])
                running = ""
            elif "uncollected" in line:
                ran.trouble.append(f"{line['uncollected']} does not load: {line['said']}")
            elif "finished" in line:
                finished = line["finished"]
                for kind, count in line["loops"].items():
                    ran.loops[kind] = ran.loops.get(kind, 0) + count
        tail = log.read_text(errors="replace")[-3000:]
        if finished in (0, 1, 5):  # all passed, some failed, none was chosen
            return True
        if not running:
            ran.trouble.append(f"pytest ended with {code}:\n{tail}")
            return True
        kind = "hang" if hung else "crash"
        ran.outcomes[running] = Outcome(kind, f"the process ended with {code}\n{tail}")
        ran.trouble.append(f"{kind} in {running}")
        return False


@dataclass
class Verdict:
    """One suite on both loops."""

    suite: Suite
    passed: int = 0
    doubts: dict[str, Outcome] = field(default_factory=dict)
    failing: dict[str, Outcome] = field(default_factory=dict)
    flaky: dict[str, str] = field(default_factory=dict)
    revived: list[str] = field(default_factory=list)
    excused: set[str] = field(default_factory=set)
    unused: list[known.Known] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    note: str = ""


def compare(runner: Runner, suite: Suite, part: str, listed: list[known.Known]) -> Verdict:
    """Run a suite on both loops, and say what differs: what is in doubt is for `settle`."""
    verdict = Verdict(suite)
    theirs, ours = (progress(suite, loop, runner.run(suite, loop, part)) for loop in ("asyncio", "ropewalk"))
    # A test that failed by chance on asyncio's loop would never be asked of ours.
    doubtful = [test for test, outcome in theirs.outcomes.items() if outcome.kind not in ("pass", "skip")]
    if doubtful:
        theirs.outcomes |= runner.run(suite, "asyncio", only=doubtful).outcomes
    expected = [test for test, outcome in theirs.outcomes.items() if outcome.kind == "pass"]
    verdict.note = f"{len(expected)} pass on asyncio's loop in {theirs.seconds:.0f} s; ropewalk's {ours.seconds:.0f} s"
    verdict.note += f", {ours.loops.get('ropewalk', 0)} loops"
    if not expected:
        verdict.trouble += ["no test passes on asyncio's own loop", *theirs.trouble]
        return verdict
    verdict.trouble += [f"on ropewalk's loop: {one}" for one in ours.trouble if one not in theirs.trouble]
    if not part and not ours.loops.get("ropewalk"):
        verdict.trouble.append("no loop of ropewalk's was made")
    if ours.loops.get("asyncio") or theirs.loops.get("ropewalk"):
        verdict.trouble.append(f"loops of the other kind were made: {ours.loops} on ours, {theirs.loops} on asyncio's")

    excused = {test: line for test in expected for line in listed if line.matches(f"{suite.package}/{test}")}
    failing = [test for test in expected if ours.outcomes.get(test, MISSING).kind != "pass" and test not in excused]
    revived = [test for test in excused if ours.outcomes.get(test, MISSING).kind == "pass"]
    verdict.unused = [line for line in listed if not part and line not in excused.values()]
    verdict.excused = set(excused)
    verdict.doubts = {test: ours.outcomes.get(test, MISSING) for test in failing}
    verdict.revived = revived
    verdict.passed = len(expected) - len(excused)
    return verdict


def settle(runner: Runner, verdict: Verdict) -> None:
    """Look at each difference again: alone, and when no other suite runs beside it any more.

    Many of these tests are races that their own loop wins only on an idle machine.
    """
    doubts, suite = verdict.doubts, verdict.suite
    again = len(doubts) <= TOO_MANY
    if not again:
        print(f"  {suite.package}: {len(doubts)} tests fail: too many to be chance, none is run again", flush=True)
    for test, outcome in doubts.items():
        passes = alone(runner, suite, test, RERUNS) if again else Counter(asyncio=RERUNS, tries=RERUNS)
        if again and differs(passes, RERUNS):
            # Some pass every other time on both loops. Three tries do not tell that from a fault of ours.
            passes += alone(runner, suite, test, MORE)
        if differs(passes, passes["tries"]) and 2 * passes["ropewalk"] < passes["asyncio"]:
            verdict.failing[test] = outcome
        else:
            verdict.flaky[test] = f"{outcome.kind}, then alone: {dict(passes)}"
    # A listed test that passes now and then is still a known failure.
    revived = (test for test in verdict.revived if alone(runner, suite, test, RERUNS)["ropewalk"] == RERUNS)
    verdict.revived = list(revived)
    verdict.passed -= len(verdict.failing)


def differs(passes: Counter[str], tries: int) -> bool:
    """Whether asyncio's own loop passes most of the tries, and ours does not."""
    most = (2 * tries) // 3
    return passes["asyncio"] >= most > passes["ropewalk"]


def alone(runner: Runner, suite: Suite, test: str, tries: int) -> Counter[str]:
    """How often a test passes in a process of its own, on either loop."""
    passes = Counter(tries=tries)
    for _ in range(tries):
        for loop in ("asyncio", "ropewalk"):
            outcome = runner.run(suite, loop, only=[test]).outcomes.get(test, MISSING)
            passes[loop] += outcome.kind == "pass"
    print(f"  {suite.package}: {test}: passes alone: {dict(passes)}", flush=True)
    return passes


def progress(suite: Suite, loop: str, ran: Ran) -> Ran:
    kinds = [outcome.kind for outcome in ran.outcomes.values()]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    print(f"  {suite.package} on {loop}: {counts}; {ran.seconds:.0f} s, loops {ran.loops}", flush=True)
    return ran


def describe(verdict: Verdict) -> None:
    """What a person needs to look into the differences of one suite."""
    name = verdict.suite.package
    for one in verdict.trouble:
        print(f"TROUBLE {name}: {one}")
    for count, (test, outcome) in enumerate(verdict.failing.items()):
        print(f"FAILED {name}/{test}: {outcome.kind}")
        if count < SHOWN:
            print("".join(f"         {line}\n" for line in outcome.said.splitlines()[-20:]), end="")
    for test, said in verdict.flaky.items():
        print(f"flaky  {name}/{test}: {said}")
    for test in verdict.revived:
        print(f"STALE  {name}/{test} passes: take it off packages_known.txt")
    for line in verdict.unused:
        print(f"STALE  line {line.line} of packages_known.txt matches no test here: {line.pattern}")
    print(f"{name}: {verdict.passed} passed, {len(verdict.failing)} failed; {verdict.note}")


def main() -> int:
    parser = judges.options("Other packages' own tests on our loop.")
    names = [suite.package for suite in SUITES]
    parser.add_argument("--only", metavar="PACKAGE,...", help="of " + ", ".join(names))
    parser.add_argument("-k", default="", metavar="PART", help="only tests whose id contains this")
    parser.add_argument("--cache", type=Path, default=judges.ROOT / "target" / "upstream", help="where suites are kept")
    parser.add_argument("--known", type=Path, default=HERE / "packages_known.txt")
    # uvicorn's, above all, waits most of the time: there may be more at a time than cores.
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1, help="suites at a time")
    given = parser.parse_args()
    chosen = given.only.split(",") if given.only else names
    if importlib.util.find_spec("pytest_timeout") is None:
        parser.error("not in this environment: ./dev test --only packages makes one, of the group `suites`")
    if unknown := set(chosen) - set(names):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    listed = known.read(given.known, sys.version_info[:2])
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="suite-", ignore_cleanup_errors=True) as scratch:
        runner = Runner(given.cache.absolute(), Path(scratch))
        try:
            with judges.interruptible(runner.stop), concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
                waiting = []
                for suite in SUITES:
                    if suite.package in chosen:
                        its = [line for line in listed if line.pattern.startswith(f"{suite.package}/")]
                        waiting.append(pool.submit(compare, runner, suite, given.k, its))
                verdicts = [future.result() for future in concurrent.futures.as_completed(waiting)]
                for verdict in verdicts:
                    settle(runner, verdict)
        except KeyboardInterrupt:
            print("interrupted")
            return 130
    print()
    for verdict in verdicts:
        describe(verdict)
    passed = sum(verdict.passed for verdict in verdicts)
    failed = sum(
        len(verdict.failing) + len(verdict.revived) + len(verdict.unused) + len(verdict.trouble) for verdict in verdicts
    )
    excused = sum(len(verdict.excused) - len(verdict.revived) for verdict in verdicts)
    flaky = sum(len(verdict.flaky) for verdict in verdicts)
    note = f"{', '.join(sorted(verdict.suite.package for verdict in verdicts))}; {excused} known to fail; {flaky} flaky"
    return judges.report(given, passed, failed, excused, note)


if __name__ == "__main__":
    sys.exit(main())
