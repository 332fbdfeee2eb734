"""A pytest plugin, loaded into other projects' suites: which loops they made, and how each test ended.

It writes one JSON object a line, at once, so that a process that dies leaves what it knew, and the test
that was running then. What to write where, and which tests to run, comes in LOOP_RESULTS, as JSON:
a folder of the suite's own may be anywhere, and tests start pytest in its own process, without this plugin.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import collections
import gc
import json
import os
from typing import Any

import pytest

Report = pytest.TestReport | pytest.CollectReport

SAID = 4000  # characters of a traceback that are kept: its end


class Results:
    """The file of results, and what is counted on the way."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.only = set(given["only"]) if given["only"] is not None else None
        self.without = set(given["without"])
        self.part = given["part"]
        self.file = open(given["results"], "a", encoding="utf-8")  # for the life of the process
        self.pid = os.getpid()
        self.loops: collections.Counter[str] = collections.Counter()
        self.worst: dict[str, tuple[str, str]] = {}
        self.ended = 0

    def write(self, **line: Any) -> None:
        if os.getpid() == self.pid:  # a test may fork and come back to pytest in the child
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()

    # What runs -----------------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        chosen, left = [], []
        for item in items:
            wanted = item.nodeid not in self.without and (self.only is None or item.nodeid in self.only)
            (chosen if wanted and self.part in item.nodeid else left).append(item)
        items[:] = chosen
        config.hook.pytest_deselected(items=left)
        self.write(collected=[item.nodeid for item in chosen])
        self.freeze()

    @staticmethod
    def freeze() -> None:
        """Take what is alive now out of the garbage collector's sight.

        Some suites collect garbage after each test, and would look each time at pytest's own objects, of
        thousands of tests, and at the reports that it keeps. Without those aiohttp's takes a third of the time.
        """
        gc.collect()
        gc.freeze()

    # How it ends ---------------------------------------------------------------------------------------

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.worst[nodeid] = ("pass", "")
        self.write(started=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome == "failed":
            kind = "fail" if report.when == "call" else "error"
            if self.worst[report.nodeid][0] not in ("fail", "error"):  # the first of several says most
                self.worst[report.nodeid] = (kind, report.longreprtext[-SAID:])
        elif report.outcome == "skipped" and self.worst[report.nodeid][0] == "pass":
            self.worst[report.nodeid] = ("skip", "")  # an expected failure is none of ours either

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        kind, said = self.worst.pop(nodeid, ("pass", ""))
        self.write(ended=nodeid, kind=kind, said=said)
        self.ended += 1
        if self.ended % 100 == 0:
            self.freeze()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.write(uncollected=report.nodeid, said=report.longreprtext[-SAID:])

    # On which loop -------------------------------------------------------------------------------------

    def count_loops(self) -> None:
        """Every loop of asyncio and of ours is made by this one initialiser."""
        original = asyncio.base_events.BaseEventLoop.__init__

        def init(loop: Any, *args: Any, **kwargs: Any) -> None:
            kinds = [base.__module__.partition(".")[0] for base in type(loop).__mro__]
            self.loops["ropewalk" if "ropewalk" in kinds else "asyncio"] += 1
            original(loop, *args, **kwargs)

        asyncio.base_events.BaseEventLoop.__init__ = init  # type: ignore[method-assign]

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.write(finished=int(exitstatus), loops=dict(self.loops))


def pytest_configure(config: pytest.Config) -> None:
    given = os.environ.pop("LOOP_RESULTS", None)  # taken out: children are not this run
    if given is None:
        return
    wishes = json.loads(given)
    results = Results(wishes)
    loop = asyncio.new_event_loop()
    loop.close()
    package = type(loop).__module__.partition(".")[0]
    if package != wishes["loop"]:
        raise pytest.UsageError(f"asyncio.new_event_loop() makes {type(loop)}, not one of {wishes['loop']}")
    results.count_loops()
    config.pluginmanager.register(results, "loop-results")
