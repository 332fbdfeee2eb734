"""CPython's own test_asyncio on our loop: every test that passes on asyncio's must pass on ours.

That suite says what an event loop does in more detail than any documentation. The judge runs it,
test by test in processes that may die, once on asyncio's loop for the baseline and once on ours;
this script spreads it over the cores by module, compares, and holds cpython_asyncio_known.txt
to what it says.

    python tests/upstream/cpython_asyncio.py [--loop PACKAGE:FACTORY] [-k PART_OF_A_TEST_ID]
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import judges
import known

HERE = Path(__file__).resolve().parent
PREFIX = "test.test_asyncio."
PER_TEST = 30  # seconds; a test that takes longer hangs
RERUNS = 2
TOO_MANY = 40  # failures beyond which the loop is broken, not flaky, and nothing is rerun
SHOWN = 25  # failures whose end of traceback is printed
NAMED = 200  # failures that are printed at all


@dataclass(frozen=True)
class Outcome:
    """What one test did: pass, fail, error, skip, timeout, crash; and what it said."""

    kind: str
    said: str


Results = dict[str, Outcome]


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
        """End everything that was started. The judge's workers lead sessions of their own, so they go first."""
        with self.lock:
            self.stopping.set()
            for child in self.running:
                with contextlib.suppress(OSError):
                    workers = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
                    for worker in map(int, workers):
                        os.killpg(worker, signal.SIGKILL)
                child.kill()


def baseline(judge: Judge, cache: Path | None, only: str) -> Results:
    """asyncio's own results on this very Python. They do not change, so they are kept."""
    key = hashlib.sha256(sys.version.encode() + sys.executable.encode())
    for file in sorted(judge.script.parent.glob("*.py")):
        key.update(file.read_bytes())
    kept = cache / f"asyncio-{sysconfig.get_config_var('SOABI')}-{key.hexdigest()[:16]}.json" if cache else None
    if kept and kept.exists():
        print(f"  asyncio: kept from an earlier run, in {kept.name}", flush=True)
        results = {test: Outcome(*outcome) for test, outcome in json.loads(kept.read_text()).items()}
        return {test: outcome for test, outcome in results.items() if only in test}
    results = judge.whole("asyncio", only)
    # A test that failed by chance here would never be asked of our loop.
    for test in [test for test, outcome in results.items() if outcome.kind not in ("pass", "skip")]:
        results[test] = judge.part("asyncio", test).get(test, results[test])
    if kept and not only and results and not judge.stopping.is_set():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({test: [one.kind, one.said] for test, one in results.items()}))
    return results


def again(judge: Judge, loop: str, tests: list[str]) -> dict[str, list[Outcome]]:
    """Each test alone, some times more."""
    found: dict[str, list[Outcome]] = {test: [] for test in tests}
    for turn in range(RERUNS if tests else 0):
        results = judge.parts(loop, tests, f"alone, {turn + 1} of {RERUNS}:")
        for test in tests:
            found[test].append(results.get(test, Outcome("missing", "the judge did not find it again")))
    return found


@contextlib.contextmanager
def interruptible(judge: Judge) -> Iterator[None]:
    """Ctrl-C and a polite kill end the judges too."""

    def stop(number: int, frame: object) -> None:
        judge.stop()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        judge.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def matches(line: known.Known, test: str) -> bool:
    return line.matches(test.removeprefix(PREFIX))


def compare(judge: Judge, given: argparse.Namespace, listed: list[known.Known]) -> int:
    expected = {test for test, outcome in baseline(judge, given.cache, given.k).items() if outcome.kind == "pass"}
    if not expected:
        print(f"no test passes on asyncio's own loop{f' with {given.k!r} in its id' if given.k else ''}")
        return judges.report(given, 0, 1, 0, "no baseline")
    ours = judge.whole(given.loop, given.k)
    if not ours:
        print(f"no test ran on {given.loop}: see what the judge said above")
        return judges.report(given, 0, 1, 0, f"no test ran on {given.loop}")
    missing = Outcome("missing", "it does not exist, or its module does not load, on this loop")
    outcomes = {test: ours.get(test, missing) for test in expected}
    excused = {test: line for test in expected for line in listed if matches(line, test)}

    failing = sorted(test for test in expected if outcomes[test].kind != "pass" and test not in excused)
    revived = sorted(test for test in expected if outcomes[test].kind == "pass" and test in excused)
    flaky: list[str] = []
    if len(failing) > TOO_MANY:
        print(f"{len(failing)} tests fail: too many to be chance, none is run again", flush=True)
    elif failing:
        for test, more in again(judge, given.loop, failing).items():
            if any(outcome.kind == "pass" for outcome in more):
                flaky.append(test)
    failing = [test for test in failing if test not in flaky]
    for test, more in again(judge, given.loop, revived).items():
        if any(outcome.kind != "pass" for outcome in more):
            revived.remove(test)  # it passes now and then: still a known failure

    unused = [line for line in listed if not given.k and not any(matches(line, test) for test in expected)]
    print()
    for count, test in enumerate(failing):
        if count == NAMED:
            print(f"... and {len(failing) - NAMED} more")
            break
        outcome = outcomes[test]
        print(f"FAILED {test}: {outcome.kind}")
        if count < SHOWN:
            print("".join(f"         {line}\n" for line in outcome.said.splitlines()[-12:]), end="")
    for test in flaky:
        print(f"flaky  {test}: {outcomes[test].kind}, then passed alone")
    for test in revived:
        print(f"STALE  {test} passes: take it off line {excused[test].line} of cpython_asyncio_known.txt")
    for line in unused:
        print(f"STALE  line {line.line} of cpython_asyncio_known.txt matches no test here: {line.pattern}")
    still = len(excused) - len(revived)
    passed = len(expected) - len(failing) - len(excused)
    failed = len(failing) + len(revived) + len(unused)
    note = f"of {len(expected)} that pass on asyncio's loop; {still} known to fail"
    if flaky:
        note += f"; {len(flaky)} flaky"
    print(note)
    return judges.report(given, passed, failed, still, note)


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
    listed = known.read(given.known, sys.version_info[:2])
    with tempfile.TemporaryDirectory(prefix="judge-", ignore_cleanup_errors=True) as scratch:
        judge = Judge(folder, Path(scratch), given.jobs)
        try:
            with interruptible(judge):
                return compare(judge, given, listed)
        except KeyboardInterrupt:
            print("interrupted")
            return 130


if __name__ == "__main__":
    sys.exit(main())
