"""What the processes that time themselves have in common."""

from __future__ import annotations

import json
import os
import resource
import time


def cpu_ns() -> int:
    """CPU time of this process and of the children it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time_ns() + int((children.ru_utime + children.ru_stime) * 1e9)


def say(answer: dict[str, object]) -> None:
    """Answer the harness."""
    print(json.dumps(answer), flush=True)


def stay_on(cores: str) -> None:
    """Run on these cores, and have the threads that are started later do so too."""
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
