"""What all tests share: a word on what they run on, and no run that is not what it seems."""

import sys
import sysconfig

import pytest

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def gil() -> str:
    """Whether this interpreter's lock is on, now: an extension module may have turned it on."""
    return "on" if getattr(sys, "_is_gil_enabled", lambda: True)() else "off"


def pytest_report_header() -> str:
    build = "free-threaded" if FREE_THREADED else "ordinary"
    return f"interpreter: {sys.executable}, {build} build, GIL {gil()}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tests of a free-threaded build that ran with the lock on have shown nothing."""
    if FREE_THREADED and gil() == "on":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FREE_THREADED:
        terminalreporter.write_line(f"GIL at the end: {gil()}", red=gil() == "on", green=gil() == "off")
