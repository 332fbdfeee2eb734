"""What all tests share: a loop in which nothing may be left open, a word on what they run on, and no run that is not
what it seems.
"""

import gc
import sys
import sysconfig
from collections.abc import Iterator
from typing import Any

import pytest
import rig

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def gil() -> str:
    """Whether this interpreter's lock is on, now: an extension module may have turned it on."""
    return "on" if getattr(sys, "_is_gil_enabled", lambda: True)() else "off"


def pytest_report_header() -> str:
    build = "free-threaded" if FREE_THREADED else "ordinary"
    return f"interpreter: {sys.executable}, {build} build, GIL {gil()}"


@pytest.fixture(scope="module", autouse=True)
def spare_the_collector() -> None:
    """What lives by now lives to the end: the collected tests, their reports. The many collections of garbage that tests
    ask for need not go through it each time; that made up half of the time of a whole run.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tests of a free-threaded build that ran with the lock on have shown nothing."""
    if FREE_THREADED and gil() == "on":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FREE_THREADED:
        terminalreporter.write_line(f"GIL at the end: {gil()}", red=gil() == "on", green=gil() == "off")


@pytest.fixture(params=rig.LOOPS)
def loop(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Either loop: what asyncio's does is what is expected."""
    with rig.borrowed(request.param) as loop:
        yield loop


@pytest.fixture(params=[rig.OURS])
def our_loop(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Ropewalk's loop, for what is its own promise or too much work to do twice."""
    with rig.borrowed(request.param) as loop:
        yield loop
