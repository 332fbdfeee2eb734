"""What each of the demo's programs reports of itself, as one line of JSON.

Only the downloads are measured, not the start of Python and the imports, which are the same
under both launchers. CPU is that of the process and of its children.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def pages(count: int) -> list[str]:
    """The addresses of so many pages of the site that the program was given."""
    return [f"{sys.argv[1]}/{page}" for page in range(count)]


@contextmanager
def measured() -> Iterator[dict[str, object]]:
    """Time what is inside, and print it with what was put into the mapping: sizes, and the class of what it ran on."""
    said: dict[str, object] = {}
    wall, cpu = time.perf_counter(), cpu_seconds()
    yield said
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    sizes = said.pop("sizes")
    assert isinstance(sizes, list)
    print(json.dumps({"wall": wall, "cpu": cpu, "pages": len(sizes), "bytes": sum(sizes), **said}))


def cpu_seconds() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    # From Python 3.14 on a pool's processes are children of a fork server, which lives on when they are gone.
    for living in children():
        after_name = Path(f"/proc/{living}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, after_name[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def children() -> list[str]:
    """The process ids of living children, where the system lists them in /proc."""
    return [pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()]
