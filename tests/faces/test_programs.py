"""Real programs, as their authors wrote them, do under `ropewalk run` what they do under `python`.

The programs are not kept here: they are looked for in the folder that ROPEWALK_PROGRAMS names, then in
../shared/programs beside the checkout, with the check.py that holds a plain run against one of ours. CI has
them, and everything that they import; there, their absence is an error. That a program says the same on
ropewalk would be no news if it did not run on it, so that is asked too.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
OWN = Path(__file__).resolve().parent / "programs"
FOLDER = Path(os.environ.get("ROPEWALK_PROGRAMS") or ROOT.parent / "shared" / "programs")
CI = os.environ.get("CI") == "true"

# What the programs import; by name, as importing gevent would change this process.
NEEDED = ["requests", "aiohttp", "gevent", "twisted"]
# gevent has no wheel for free-threaded Pythons, so plain Python cannot run its program there either.
NOT_HERE = {"gevent"} if sysconfig.get_config_var("Py_GIL_DISABLED") else set()
PROGRAMS = [
    path.stem for path in sorted(FOLDER.glob("s[0-9]_*.py")) if not any(path.stem.endswith(name) for name in NOT_HERE)
]  # fmt: skip
COUNT = 18 - len(NOT_HERE)


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of programs, with all that they import at hand."""
    lacking = [name for name in NEEDED if name not in NOT_HERE and importlib.util.find_spec(name) is None]
    why = ""
    if not (FOLDER / "check.py").exists():
        why = f"no check.py in {FOLDER}: name the folder of programs in ROPEWALK_PROGRAMS"
    elif lacking:
        why = f"the programs import {', '.join(lacking)}: install the dependency groups programs and programs-gevent"
    if why and CI:
        pytest.fail(why)
    if why:
        pytest.skip(why)
    return FOLDER


def test_all_programs_are_there(programs: Path) -> None:
    assert len(PROGRAMS) == COUNT


@pytest.fixture(scope="module")
def site(programs: Path) -> Iterator[str]:
    """The web sites that the programs download, on loopback; gives the port."""
    with subprocess.Popen(
        [sys.executable, programs / "site_server.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        yield server.stdout.readline().strip()
        server.communicate()  # it ends with its standard input


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name.endswith("_asyncio")] or ["none"])
def test_an_asyncio_program_runs_on_ropewalk(programs: Path, site: str, tmp_path: Path, name: str) -> None:
    program = tmp_path / f"{name}.py"
    source = (programs / program.name).read_text()
    program.write_text(re.sub(r"https?://", f"http://127.0.0.1:{site}/", source))
    plain, ours = loops_of(program), loops_of(program, "-m", "ropewalk", "run")
    assert len(ours.loops) == len(plain.loops)
    assert ours.status == plain.status
    assert ours.loops or plain.status != 0, "it went well without a loop"  # newer Pythons no longer run each
    assert all(loop.startswith("ropewalk.") for loop in ours.loops)


class Loops(NamedTuple):
    """Whose event loops a program was given, by their modules, and how it ended."""

    status: int
    loops: list[str]


def loops_of(program: Path, *launcher: str) -> Loops:
    done = run(*launcher, OWN / "loops_of.py", program)
    (line,) = re.findall("^loops:(.*)$", done.stderr, re.MULTILINE)
    return Loops(done.returncode, line.split())


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=50)


def test_every_way_to_a_loop_leads_to_ropewalk() -> None:
    done = run("-m", "ropewalk", "run", OWN / "every_way.py")
    ways = dict(line.split(": ") for line in done.stdout.splitlines())
    assert len(ways) == 6, done.stderr
    assert {way: loop for way, loop in ways.items() if not loop.startswith("ropewalk.")} == {}


def test_the_programs_are_told_apart_from_those_on_another_loop(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import asyncio, ropewalk\nropewalk.uninstall()\nasyncio.run(asyncio.sleep(0))")
    (loop,) = loops_of(program, "-m", "ropewalk", "run").loops
    assert not loop.startswith("ropewalk.")
