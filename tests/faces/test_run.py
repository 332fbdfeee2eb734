"""`ropewalk run` has `python`'s own manners.

Where that is the claim, the same command line is run by plain Python and by the launcher, and the two are
held against each other. They run in a virtual environment of the tests' own, in which ropewalk can be
imported without PYTHONPATH, so that PYTHONPATH is the tests' to set.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ropewalk

PACKAGE = Path(ropewalk.__file__).resolve().parent
STARTUP = PACKAGE / "launch" / "startup"
PROGRAMS = Path(__file__).resolve().parent / "programs"
DUMP = PROGRAMS / "dump.py"
HARD_ARGUMENTS = ["--help", "-x", "--", "-m", "a b", "", "é", "-"]
SAY_LOOP = """
import asyncio
async def main(): return type(asyncio.get_running_loop()).__module__
print(asyncio.run(main()))
"""


@dataclass
class Venv:
    """A virtual environment, and programs run by its Python."""

    folder: Path

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    @property
    def site_packages(self) -> Path:
        (folder,) = self.folder.glob("lib/python*/site-packages")
        return folder

    def start(self, *words: object, env: dict[str, str] | None = None, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.python, *map(str, words)],
            env=environment(**(env or {})),
            encoding="utf-8",
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
        )

    def run(self, *words: object, stdin: str = "", **more: Any) -> Outcome:
        with self.start(*words, stdin=subprocess.PIPE, **more) as process:
            out, err = process.communicate(stdin, timeout=60)
        return Outcome(process.returncode, out, err)

    def launch(self, *words: object, options: Sequence[str] = (), **more: Any) -> Outcome:
        """`python OPTIONS -m ropewalk run WORDS`."""
        return self.run(*options, "-m", "ropewalk", "run", *words, **more)

    def both(self, *words: object, **more: Any) -> tuple[Outcome, Outcome]:
        """What plain Python makes of a command line, and what `ropewalk run` makes of it."""
        return self.run(*words, **more), self.launch(*words, **more)


@dataclass
class Outcome:
    status: int
    out: str
    err: str

    def dumped(self) -> dict[str, Any]:
        assert (self.status, self.err) == (0, ""), self
        seen = json.loads(self.out)
        assert isinstance(seen, dict)
        return seen

    def lines(self) -> list[str]:
        assert self.status == 0, self
        return self.out.splitlines()


def environment(**more: str) -> dict[str, str]:
    """The environment without anything that is meant for this Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    return {**kept, **more}


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Venv:
    """A Python that can import ropewalk."""
    made = make_venv(tmp_path_factory.mktemp("house"))
    (made.site_packages / "ropewalk_is_there.pth").write_text(f"{PACKAGE.parent}\n")
    return made


@pytest.fixture
def stranger(tmp_path: Path) -> Venv:
    """A Python that cannot import ropewalk."""
    return make_venv(tmp_path / "stranger")


def make_venv(folder: Path) -> Venv:
    venv.create(folder, with_pip=False, symlinks=True)
    return Venv(folder)


@pytest.fixture(scope="session")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds one program in every shape that `python` takes."""
    folder = tmp_path_factory.mktemp("targets")
    source = DUMP.read_text()
    for name in ("script.py", "package/__init__.py", "package/__main__.py", "package/inner.py", "folder/__main__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("" if name.endswith("__init__.py") else source)
    with zipfile.ZipFile(folder / "zipped.zip", "w") as archive:
        archive.writestr("__main__.py", source)
    return folder


def test_the_startup_folder_holds_one_module() -> None:
    assert [path.name for path in STARTUP.iterdir() if path.suffix == ".py"] == ["sitecustomize.py"]


# --- What a program sees ---------------------------------------------------------------------------------


def same_view(plain: Outcome, ours: Outcome) -> None:
    """The programs saw the same, but for what `ropewalk run` says that it changes."""
    seen, expected = ours.dumped(), plain.dumped()
    added = set(seen.pop("modules")) - set(expected.pop("modules"))
    assert {name.partition(".")[0] for name in added} == {"ropewalk", "__future__"}  # and nothing that takes time
    theirs = expected.pop("PYTHONPATH")
    assert seen.pop("PYTHONPATH") == (f"{STARTUP}{os.pathsep}{theirs}" if theirs else str(STARTUP))
    importers = seen.pop("importers")
    others = [folder for folder in importers if folder not in (str(PACKAGE), str(PACKAGE / "launch"))]
    assert others == expected.pop("importers")
    finders = seen.pop("meta_path")
    assert finders[1:] == expected.pop("meta_path")
    assert seen == expected


TARGETS = {
    "script": ["script.py"],
    "script in a folder": ["package/inner.py"],
    "absolute script": ["{folder}/script.py"],
    "package": ["-m", "package"],
    "module": ["-m", "package.inner"],
    "module in the same word": ["-mscript"],
    "code": ["-c", DUMP.read_text()],
    "standard input": ["-"],
    "folder": ["folder"],
    "zip file": ["zipped.zip"],
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_every_kind_of_program_sees_what_it_sees_under_python(house: Venv, targets: Path, target: list[str]) -> None:
    words = [word.replace("{folder}", str(targets)) for word in target]
    plain, ours = house.both(*words, *HARD_ARGUMENTS, cwd=targets, stdin=DUMP.read_text())
    assert plain.dumped()["argv"][1:] == HARD_ARGUMENTS
    same_view(plain, ours)


def test_the_launcher_is_the_command_ropewalk_as_well(house: Venv, targets: Path) -> None:
    command = house.folder / "bin" / "ropewalk-as-installed"
    command.write_text(f"#!{house.python}\nimport sys\nfrom ropewalk.__main__ import main\nsys.exit(main())\n")
    command.chmod(0o755)
    done = subprocess.run(
        [command, "run", "script.py", *HARD_ARGUMENTS],
        env=environment(), cwd=targets, capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL,
    )  # fmt: skip
    same_view(house.run("script.py", *HARD_ARGUMENTS, cwd=targets), Outcome(done.returncode, done.stdout, done.stderr))


OPTIONS = [
    ["-X", "dev"],
    ["-Xdev", "-W", "ignore::ResourceWarning"],
    ["-W", "error::UserWarning", "-Wdefault::ImportWarning"],
    ["-X", "utf8", "-X", "faulthandler"],
    ["-O"],
    ["-OO"],
    ["-u"],
    ["-bb", "-q"],
    ["-Bs"],
    ["-P"],
    ["-d"],
    ["-R"],
    ["--check-hash-based-pycs", "never"],
]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_options_of_python_are_kept(house: Venv, targets: Path, options: list[str]) -> None:
    plain = house.run(*options, "script.py", cwd=targets)
    same_view(plain, house.launch("script.py", options=options, cwd=targets))
    same_view(plain, house.launch(*options, "script.py", cwd=targets))


def test_options_in_the_word_that_names_the_launcher_are_kept(house: Venv, targets: Path) -> None:
    plain = house.run("-B", "-s", "script.py", cwd=targets)
    same_view(plain, house.run("-Bsm", "ropewalk", "run", "script.py", cwd=targets))
    same_view(plain, house.run("-Bsmropewalk", "run", "script.py", cwd=targets))
    same_view(plain, house.run("-B", "-m", "ropewalk", "run", "-s", "--", "script.py", cwd=targets))


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONWARNINGS": "error::UserWarning,ignore"},
        {"PYTHONDEVMODE": "1"},
        {"PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "7"},
        {"PYTHONSAFEPATH": "1"},
        {"LC_ALL": "C"},
        {"LC_ALL": "", "LC_CTYPE": "", "LANG": ""},
        {"LC_ALL": "", "LC_CTYPE": "C", "LANG": ""},
        {"LC_ALL": "", "LC_CTYPE": "C.UTF-8", "LANG": "C"},
        {"PYTHONUTF8": "1", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "", "LC_CTYPE": "C.UTF-8", "LANG": ""},
    ],
    ids=str,
)
def test_the_environment_means_what_it_means_to_python(house: Venv, targets: Path, env: dict[str, str]) -> None:
    same_view(*house.both("script.py", cwd=targets, env=env))


@pytest.mark.parametrize("given", ["", ":", "/nowhere", "folder", ":folder", "folder:", "folder:/nowhere:folder"])
def test_a_pythonpath_of_the_users_comes_after_ours(house: Venv, targets: Path, given: str) -> None:
    same_view(*house.both("script.py", cwd=targets, env={"PYTHONPATH": given}))


def test_a_launcher_in_a_launched_program_adds_nothing(house: Venv, targets: Path) -> None:
    nested = house.launch("-m", "ropewalk", "run", "script.py", cwd=targets, env={"PYTHONPATH": "folder"})
    same_view(house.run("script.py", cwd=targets, env={"PYTHONPATH": "folder"}), nested)


def test_the_program_has_the_process_that_was_started(house: Venv) -> None:
    with house.start("-m", "ropewalk", "run", "-c", "import os; print(os.getpid(), os.getpgrp())") as process:
        out, _ = process.communicate(timeout=60)
    assert out.split() == [str(process.pid), str(os.getpgrp())]


def test_the_interactive_option_goes_on_after_the_program(house: Venv) -> None:
    plain, ours = house.both("-i", "-c", "x = 41", stdin="print(x + 1)\n")
    assert plain.out == ours.out == "42\n"
    assert house.launch("-c", "x = 41", options=["-i"], stdin="print(x + 1)\n") == ours


# --- How a program ends ----------------------------------------------------------------------------------

ENDS = {
    "end": "print('done')",
    "status": "import sys; sys.exit(3)",
    "text": "import sys; sys.exit('it went wrong')",
    "no status": "raise SystemExit",
    "exception": "def deep(): raise ValueError('no')\n\ntry:\n    deep()\nexcept ValueError as e:\n    raise KeyError(1) from e",
    "syntax error": "print('a'\n",
    "exit in a thread": "import threading, sys\nt = threading.Thread(target=sys.exit, args=(5,))\nt.start(); t.join()",
    "exception in a thread": "import threading\ndef f(): raise ValueError('in a thread')\n"
    "t = threading.Thread(target=f, name='T')\nt.start(); t.join()",
    "hard exit": "import os; os._exit(7)",
    "SIGTERM": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "SIGKILL": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "atexit": "import atexit; atexit.register(print, 'last'); raise SystemExit(4)",
    "exception from asyncio's import": "import asyncio\nasyncio.nothing",
    "warning": "import warnings; warnings.warn('careful')",
}


@pytest.mark.parametrize("source", ENDS.values(), ids=ENDS)
def test_a_program_ends_as_under_python(house: Venv, tmp_path: Path, source: str) -> None:
    (tmp_path / "program.py").write_text(source)
    plain, ours = house.both("program.py", cwd=tmp_path)
    assert ours == plain
    plain, ours = house.both("-c", source, cwd=tmp_path)
    assert ours == plain


@pytest.mark.parametrize(
    "words", [["missing.py"], ["-m", "missing"], ["-m"], ["-c"], ["-z", "x"], ["--no-such", "x"], ["-V"], ["--version"]]
)
def test_what_python_answers_by_itself_is_its_answer(house: Venv, tmp_path: Path, words: list[str]) -> None:
    plain, ours = house.both(*words, cwd=tmp_path)
    assert ours == plain


@pytest.mark.parametrize(
    "source",
    [
        "import time\nprint('ready', flush=True)\ntime.sleep(60)",
        "import asyncio\nasync def main():\n    print('ready', flush=True)\n    await asyncio.sleep(60)\nasyncio.run(main())",
        "import asyncio\nasync def main():\n    print('ready', flush=True)\n    while True: await asyncio.sleep(0)\n"
        "asyncio.run(main())",
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'import time; print(\"ready\", flush=True); time.sleep(60)'])",
    ],
    ids=["sleep", "asyncio.sleep", "busy asyncio", "child"],
)
def test_ctrl_c_ends_a_program_as_under_python(house: Venv, source: str) -> None:
    statuses, last_words = set(), set()
    for launcher in ([], ["-m", "ropewalk", "run"]):
        with house.start(*launcher, "-c", source, start_new_session=True) as process:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            os.killpg(process.pid, signal.SIGINT)  # as the terminal does
            _, err = process.communicate(timeout=60)
        statuses.add(process.returncode)
        last_words.add(err.splitlines()[-1])
    assert statuses == {-signal.SIGINT}
    assert last_words == {"KeyboardInterrupt"}


# --- The launcher's own words ----------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["run"], ["run", "-u"], ["run", "--"], ["walk"], ["--versio"]], ids=" ".join)
def test_wrong_use_is_said_on_stderr_with_status_2(house: Venv, words: list[str]) -> None:
    done = house.run("-m", "ropewalk", *words, stdin="print('not to be run')")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("usage: ropewalk")


def test_help_and_version(house: Venv) -> None:
    assert house.run("-m", "ropewalk", "--help").out.startswith("usage: ropewalk")
    assert house.run("-m", "ropewalk", "--version").out.startswith(f"ropewalk {ropewalk.__version__} ")
    for question in ("-h", "--help", "-?"):
        done = house.launch(question)
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith("usage: ropewalk run ")


@pytest.mark.parametrize("letter", "IES")
def test_python_that_cannot_be_prepared_is_refused(house: Venv, letter: str) -> None:
    # Without site the virtual environment is not seen: the launcher's own Python is named by PYTHONPATH then.
    for done in (
        house.run(f"-{letter}", "-c", launcher_by_hand(["run", "-c", "print(1)"])),
        house.launch(f"-B{letter}", "-c", "print(1)"),
        house.launch(f"-B{letter}c", "print(1)"),
    ):
        assert (done.status, done.out) == (2, "")
        assert f"-{letter}" in done.err
        assert "hint: " in done.err
        assert "ropewalk.install()" in done.err


def test_python_without_an_executable_is_refused(house: Venv) -> None:
    done = house.run("-c", "import sys; sys.executable = ''\n" + launcher_by_hand(["run", "-c", "print(1)"]))
    assert (done.status, done.out) == (2, "")
    assert "sys.executable" in done.err
    assert "hint: " in done.err


def test_an_executable_that_is_gone_is_said(house: Venv) -> None:
    done = house.run("-c", "import sys; sys.executable = '/gone'\n" + launcher_by_hand(["run", "-c", "print(1)"]))
    assert (done.status, done.out) == (2, "")
    assert "cannot start /gone: No such file" in done.err


def launcher_by_hand(words: list[str]) -> str:
    return (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
        f"from ropewalk.__main__ import main; sys.exit(main({words!r}))"
    )


# --- What the program runs on ----------------------------------------------------------------------------


def test_asyncio_runs_on_ropewalk(house: Venv) -> None:
    (loop,) = house.launch("-c", SAY_LOOP).lines()
    assert loop.startswith("ropewalk")
    assert not house.run("-c", SAY_LOOP).lines()[0].startswith("ropewalk")


@pytest.mark.parametrize(
    "first",
    [
        "from asyncio import events",
        "import asyncio.base_events",
        "import asyncio.subprocess as own_name",
        "import importlib; importlib.import_module('asyncio.tasks')",
        "import _asyncio",
        "import importlib.util; assert importlib.util.find_spec('asyncio').name == 'asyncio'",
        "import importlib.util; assert importlib.util.find_spec('asyncio.events')",
        "import pkgutil; list(pkgutil.walk_packages(['.']))",
        "import asyncio, importlib; importlib.reload(asyncio)",
    ],
)
def test_whichever_way_asyncio_is_imported(house: Venv, first: str) -> None:
    (loop,) = house.launch("-c", first + SAY_LOOP).lines()
    assert loop.startswith("ropewalk")


def test_asyncio_as_the_program_runs_on_ropewalk(house: Venv) -> None:
    done = house.launch("-m", "asyncio", stdin="import asyncio\nprint(type(asyncio.get_running_loop()).__module__)\n")
    assert "ropewalk" in done.out


def test_asyncio_imported_before_the_program_runs_on_ropewalk_too(house: Venv) -> None:
    pth = house.site_packages / "early.pth"
    pth.write_text("import asyncio\n")
    try:
        (loop,) = house.launch("-c", SAY_LOOP).lines()
    finally:
        pth.unlink()
    assert loop.startswith("ropewalk")


def test_asyncio_is_not_imported_for_a_program_that_does_not(house: Venv) -> None:
    done = house.launch("-c", "import sys; print(*(m for m in sys.modules if m.startswith(('asyncio', '_asyncio'))))")
    assert done.lines() == [""]


def test_asyncio_looks_as_if_it_was_imported_as_ever(house: Venv) -> None:
    source = """
import asyncio, importlib.util, sys
loader = asyncio.__loader__
assert loader is asyncio.__spec__.loader is importlib.util.find_spec("asyncio").loader
print(vars(asyncio.__spec__) | {"loader": None}, type(loader), vars(loader), asyncio.__file__, asyncio.__path__)
print([finder for finder in sys.meta_path if not type(finder).__module__.startswith("ropewalk")])
"""
    plain, ours = house.both("-c", source)
    assert plain.lines() == ours.lines()


def test_a_specification_that_is_only_looked_at_loads_as_ever(house: Venv) -> None:
    source = """
import importlib.util, sys
spec = importlib.util.find_spec("asyncio")
assert spec.loader.get_filename("asyncio") == spec.origin and spec.loader.get_source("asyncio")
module = sys.modules["asyncio"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert module.__loader__ is module.__spec__.loader and "ropewalk" not in type(module.__loader__).__module__
"""
    (loop,) = house.launch("-c", source + SAY_LOOP).lines()
    assert loop.startswith("ropewalk")


def test_threads_that_import_asyncio_at_once(house: Venv) -> None:
    source = """
import threading, importlib.util
gate, found = threading.Barrier(8), []
def work(number):
    gate.wait()
    if number % 2:
        importlib.util.find_spec("asyncio")
    import asyncio
    async def main(): return type(asyncio.get_running_loop()).__module__
    found.append(asyncio.run(main()))
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*found, sep="\\n")
"""
    loops = house.launch("-c", source).lines()
    assert len(loops) == 8
    assert all(loop.startswith("ropewalk") for loop in loops)


def test_another_finder_that_asks_all_finders(house: Venv) -> None:
    source = """
import sys
class Asking:
    def find_spec(self, name, path, target=None):
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)):
                return spec
sys.meta_path.insert(0, Asking())
"""
    (loop,) = house.launch("-c", source + SAY_LOOP).lines()
    assert loop.startswith("ropewalk")


def test_an_import_of_asyncio_that_failed_can_be_tried_again(house: Venv) -> None:
    source = """
import sys
sys.modules["asyncio.events"] = None
try:
    import asyncio
except ImportError:
    for name in [name for name in sys.modules if name.startswith("asyncio")]:
        del sys.modules[name]
"""
    (loop,) = house.launch("-c", source + SAY_LOOP).lines()
    assert loop.startswith("ropewalk")


@pytest.mark.parametrize("shadow", ["raise RuntimeError('mine')", "import missing_module", "raise KeyboardInterrupt"])
def test_a_file_of_the_programs_that_breaks_asyncio_gives_pythons_traceback(
    house: Venv, tmp_path: Path, shadow: str
) -> None:
    (tmp_path / "selectors.py").write_text(shadow)
    (tmp_path / "program.py").write_text("import asyncio\n")
    plain, ours = house.both("program.py", cwd=tmp_path)
    assert plain.status != 0
    assert ours == plain


def test_a_programs_own_asyncio_module_is_left_alone(house: Venv, tmp_path: Path) -> None:
    (tmp_path / "asyncio.py").write_text("print('my own')")
    (tmp_path / "program.py").write_text("import asyncio\n")
    plain, ours = house.both("program.py", cwd=tmp_path)
    assert ours == plain == Outcome(0, "my own\n", "")


def test_a_programs_own_file_named_ropewalk_does_not_take_our_place(house: Venv, tmp_path: Path) -> None:
    (tmp_path / "ropewalk.py").write_text("raise RuntimeError('not this one')")
    (tmp_path / "program.py").write_text(SAY_LOOP)
    # Not by -m, which looks into the current folder first.
    (loop,) = house.run("-c", launcher_by_hand(["run", str(tmp_path / "program.py")])).lines()
    assert loop.startswith("ropewalk")


def test_the_launchers_room_leaves_ropewalk_run_to_be_called(house: Venv) -> None:
    source = """
import asyncio, ropewalk
async def main(): return type(asyncio.get_running_loop()).__module__
print(ropewalk.run(main()))
"""
    (loop,) = house.launch("-c", source).lines()
    assert loop.startswith("ropewalk")


# --- Children --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children_know_main_and_run_on_ropewalk(house: Venv, targets: Path, method: str) -> None:
    plain, ours = house.both(PROGRAMS / "workers.py", method, cwd=targets)
    assert plain.lines()[0] == ours.lines()[0]
    assert "ropewalk" not in plain.lines()[1]
    assert all(loop.startswith("ropewalk") for loop in ours.lines()[1].split())


def child(python: str, *options: str, env: str = "None") -> str:
    return f"import subprocess\nprint(end=subprocess.check_output([{python!r}, *{options!r}, '-c', {SAY_LOOP!r}], env={env}, text=True))"


def test_a_python_that_the_program_starts_runs_on_ropewalk(house: Venv) -> None:
    (loop,) = house.launch("-c", child(house.python)).lines()
    assert loop.startswith("ropewalk")
    (loop,) = house.launch(
        "-c", f"import os, sys\nos.execv(sys.executable, [sys.executable, '-c', {SAY_LOOP!r}])"
    ).lines()
    assert loop.startswith("ropewalk")


@pytest.mark.parametrize(("options", "env"), [(["-I"], "None"), (["-E"], "None"), ([], "{}")])
def test_a_child_that_is_kept_from_the_environment_runs_as_ever(house: Venv, options: list[str], env: str) -> None:
    assert house.launch("-c", child(house.python, *options, env=env)) == house.run("-c", child(house.python))


def test_a_child_that_cannot_import_ropewalk_runs_as_ever(house: Venv, stranger: Venv) -> None:
    plain, ours = house.both("-c", child(stranger.python))
    assert ours == plain
    assert ours.status == 0


def test_a_child_that_cannot_import_ropewalk_has_its_own_sitecustomize(house: Venv, stranger: Venv) -> None:
    (stranger.site_packages / "sitecustomize.py").write_text("print('hello')")
    plain, ours = house.both("-c", child(stranger.python))
    assert ours == plain
    assert ours.lines()[0] == "hello"


def test_a_child_for_which_ropewalk_was_not_built_runs_as_ever(house: Venv, stranger: Venv, tmp_path: Path) -> None:
    copy = str(without_native_code(tmp_path))
    env = f"(lambda env: {{**env, 'PYTHONPATH': env.get('PYTHONPATH', {copy!r}) + {os.pathsep + copy!r}}})(__import__('os').environ)"
    plain, ours = house.both("-c", child(stranger.python, env=env))
    assert plain.lines() == ours.lines()
    assert ours.err == ""


def without_native_code(folder: Path) -> Path:
    """A copy of the package as it would look to another Python."""
    shutil.copytree(PACKAGE, folder / "copy" / "ropewalk", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return folder / "copy"


def test_a_program_for_which_ropewalk_was_not_built_says_so(stranger: Venv, tmp_path: Path) -> None:
    done = stranger.launch("-c", SAY_LOOP, env={"PYTHONPATH": str(without_native_code(tmp_path))})
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("ropewalk run: error: ")
    assert "\nhint: " in done.err
    assert "Traceback" not in done.err


def test_a_program_that_goes_on_without_ropewalk_is_told_each_time(stranger: Venv, tmp_path: Path) -> None:
    source = """
import sys
for attempt in range(2):
    for name in [name for name in sys.modules if name.startswith("asyncio")]:
        del sys.modules[name]  # what the first attempt left
    try:
        import asyncio
    except SystemExit as refusal:
        print("refused", refusal.code)
"""
    done = stranger.launch("-c", source, env={"PYTHONPATH": str(without_native_code(tmp_path))})
    assert done.lines() == ["refused 1", "refused 1"]
    assert done.err.count("ropewalk run: error: ") == 2


def test_a_program_that_cannot_import_ropewalk_says_so(stranger: Venv, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("print('not to be run')")
    done = stranger.launch(tmp_path / "program.py", cwd=PACKAGE.parent)  # found there by -m, but not by the program
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"ropewalk run: error: {stranger.python} cannot import ropewalk: ")
    assert "\nhint: " in done.err


def test_the_mark_is_not_left_to_children(house: Venv) -> None:
    source = f"import os; print({ropewalk_mark()!r} in os.environ, flush=True); os.system('env')"
    done = house.launch("-c", source)
    assert done.lines()[0] == "False"
    assert ropewalk_mark() not in done.out
    assert f"PYTHONPATH={STARTUP}\n" in done.out


def ropewalk_mark() -> str:
    return "ROPEWALK_RUN"


if sys.version_info >= (3, 14):

    def test_a_sub_interpreter_runs_as_ever(house: Venv) -> None:
        source = f"""
from concurrent import interpreters
import asyncio
interpreter = interpreters.create()
interpreter.exec({SAY_LOOP!r})
interpreter.close()
"""
        inner, outer = house.launch("-c", source + SAY_LOOP).lines()
        assert not inner.startswith("ropewalk")
        assert outer.startswith("ropewalk")


# --- The sitecustomize that ours hides -------------------------------------------------------------------

HIDDEN = {
    "works": "import sys; print('customized', __name__, __file__); sys.flag = 1",
    "raises": "print('before'); raise ValueError('broken')",
    "raises on import": "import missing_module",
    "raises on its own name": "raise ImportError('odd', name='sitecustomize')",
    "exits": "raise SystemExit(5)",
    "imports asyncio": "import asyncio",
    "is a package": "from . import inner",
}


@pytest.fixture(params=list(HIDDEN.values()), ids=list(HIDDEN))
def hidden(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """A user's sitecustomize, and the environment in which Python finds it."""
    source: str = request.param
    name = "sitecustomize/__init__.py" if source.startswith("from .") else "sitecustomize.py"
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(source)
    (tmp_path / name).with_name("inner.py").write_text("print('inner', __name__)")
    return source, {"PYTHONPATH": str(tmp_path)}


def test_a_sitecustomize_of_the_users_has_its_turn(house: Venv, hidden: tuple[str, dict[str, str]]) -> None:
    source, env = hidden
    look = "import sys; print(sys.modules.get('sitecustomize'), getattr(sys, 'flag', None))"
    plain = house.run("-c", look, env=env)
    # A child of a launched program, where the launcher's own Python, which runs it too, is not in between.
    ours = house.run("-c", look, env={"PYTHONPATH": f"{STARTUP}{os.pathsep}{env['PYTHONPATH']}"})
    assert (ours.status, ours.out) == (plain.status, plain.out)
    if source == HIDDEN["exits"]:  # Python dies of it, with its whole stack on show
        assert ours.err.splitlines()[-1] == plain.err.splitlines()[-1] == "SystemExit: 5"
    else:
        assert ours.err == plain.err
    if source == HIDDEN["works"]:
        assert house.launch("-c", look, env=env) == plain


def test_there_is_no_sitecustomize_if_the_user_has_none(house: Venv) -> None:
    plain, ours = house.both("-c", "import sitecustomize")
    assert ours == plain


def test_the_startup_file_can_be_read_by_any_python() -> None:
    tree = ast.parse((STARTUP / "sitecustomize.py").read_text())
    (STARTUP / "sitecustomize.py").read_text().encode("ascii")
    too_new = (
        ast.JoinedStr,
        ast.AnnAssign,
        ast.NamedExpr,
        ast.AsyncFunctionDef,
        ast.FunctionDef,
        ast.Starred,
        ast.With,
    )
    assert [node for node in ast.walk(tree) if isinstance(node, too_new)] == []
