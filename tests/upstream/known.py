"""The lists of known failures: tests that pass on asyncio's loop and cannot pass on ours, each with its reason.

One line each:   test id | reason            or   test id | reason | versions

* in an id stands for anything, and nothing else does: the ids of parametrised tests are full of brackets.
Versions are conditions joined by commas, such as >=3.13, <3.14; a line without them holds for all.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Known:
    """One line of a list."""

    pattern: str
    reason: str
    line: int

    def matches(self, test: str) -> bool:
        wanted = ".*".join(map(re.escape, self.pattern.split("*")))
        return re.fullmatch(wanted, test, re.DOTALL) is not None


def read(path: Path, version: tuple[int, int]) -> list[Known]:
    """The lines of the list that hold for this version of Python."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split(" | ")]
        if len(parts) not in (2, 3) or not all(parts):
            sys.exit(f"{path.name}:{number}: not `test id | reason [| versions]`: {line}")
        conditions = parts[2].split(",") if len(parts) == 3 else []
        if all(holds(condition.strip(), version, f"{path.name}:{number}") for condition in conditions):
            found.append(Known(parts[0], parts[1], number))
    return found


def holds(condition: str, version: tuple[int, int], where: str) -> bool:
    """Whether a condition such as >=3.13 holds for a version."""
    match = re.fullmatch(r"(<|<=|==|>=|>)(\d+)\.(\d+)", condition)
    if not match:
        sys.exit(f"{where}: no condition on a version: {condition!r}")
    sign, bound = match[1], (int(match[2]), int(match[3]))
    return {
        "<": version < bound,
        "<=": version <= bound,
        "==": version == bound,
        ">=": version >= bound,
        ">": version > bound,
    }[sign]
