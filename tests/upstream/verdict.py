"""What passes on the original must pass on ours: holds two runs of a suite against each other, and a list to both.

A failure is run again, alone, before it counts; the list of known failures (`known.py`) excuses those that cannot pass,
and fails the check when one of them does.
"""

import argparse
import hashlib
import json
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import judges
import known

RERUNS = 2
TOO_MANY = 40  # failures beyond which ours is broken, not flaky, and nothing is rerun
SHOWN = 25  # failures whose end of traceback is printed
NAMED = 200  # failures that are printed at all


@dataclass(frozen=True)
class Outcome:
    """What one test did: pass, fail, error, skip, timeout, crash; and what it said."""

    kind: str
    said: str = ""


Results = dict[str, Outcome]
# Runs tests again, each alone, `RERUNS` times.
Again = Callable[[list[str]], Mapping[str, list[Outcome]]]

MISSING = Outcome("missing", "it does not exist, or its module does not load, on ours")


def kept(
    name: str, sources: Iterable[Path], cache: Path | None, whole: bool, measure: Callable[[], Results]
) -> Results:
    """The original's own results on this very Python. They do not change, so those of a whole run are kept."""
    key = hashlib.sha256(sys.version.encode() + sys.executable.encode())
    for file in sources:
        key.update(file.read_bytes())
    place = cache / f"{name}-{sysconfig.get_config_var('SOABI')}-{key.hexdigest()[:16]}.json" if cache else None
    if place and place.exists():
        print(f"  {name}: kept from an earlier run, in {place.name}", flush=True)
        return {test: Outcome(*outcome) for test, outcome in json.loads(place.read_text()).items()}
    results = measure()
    if place and whole and results:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({test: [one.kind, one.said] for test, one in results.items()}))
    return results


def give(given: argparse.Namespace, expected: set[str], ours: Results, again: Again, where: str) -> int:
    """Compare what passes on the original with our run, say what differs, and report; the exit code of the check.

    `where` says in the note on what the original ran. The options have the list (`known`) and the part of the suite
    that was run (`k`, empty for all).
    """
    listed = known.read(given.known, sys.version_info[:2])
    outcomes = {test: ours.get(test, MISSING) for test in expected}
    excused = {test: line for test in expected for line in listed if line.matches(test)}

    failing = sorted(test for test in expected if outcomes[test].kind != "pass" and test not in excused)
    revived = sorted(test for test in expected if outcomes[test].kind == "pass" and test in excused)
    flaky: list[str] = []
    if len(failing) > TOO_MANY:
        print(f"{len(failing)} tests fail: too many to be chance, none is run again", flush=True)
    elif failing:
        for test, more in again(failing).items():
            if any(outcome.kind == "pass" for outcome in more):
                flaky.append(test)
    failing = [test for test in failing if test not in flaky]
    for test, more in again(revived).items():
        if any(outcome.kind != "pass" for outcome in more):
            revived.remove(test)  # it passes now and then: still a known failure

    unused = [line for line in listed if not given.k and not any(line.matches(test) for test in expected)]
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
        print(f"STALE  {test} passes: take it off line {excused[test].line} of {given.known.name}")
    for line in unused:
        print(f"STALE  line {line.line} of {given.known.name} matches no test here: {line.pattern}")
    still = len(excused) - len(revived)
    passed = len(expected) - len(failing) - len(excused)
    failed = len(failing) + len(revived) + len(unused)
    note = f"of {len(expected)} that pass {where}; {still} known to fail"
    if flaky:
        note += f"; {len(flaky)} flaky"
    print(note)
    return judges.report(given, passed, failed, still, note)
