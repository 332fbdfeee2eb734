"""Which way the rooms of the house look, held by reading the manifests and the imports.

A layer that is only written down is a wish: one convenient import, and the reactor knows Python or two
faces know each other. The rules are the tables below; a new room needs its line here before it may stand.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Rust: each crate, and the crates of ours that it may depend on.
CRATES: dict[str, set[str]] = {
    "sys": set(),
    "wait": {"sys"},
    "reactor": {"sys", "wait"},
    "ipc": {"sys"},
    "pool": {"sys", "wait", "reactor", "ipc"},
    "py": {"sys", "wait", "reactor", "ipc", "pool"},
}
# The one crate that may know Python, and the names of crates that do.
KNOWS_PYTHON = "py"
PYTHON_CRATE = re.compile(r"py(o3|thon)|cpython|rustpython|^numpy$|^maturin", re.IGNORECASE)

# Python: what a room of the package may import of the package, besides itself. A room is a module or
# package right below ropewalk/; one that is not named here is a face.
FACE = {"_condition", "_core", "_pool", "_replace", "_statistics"}
ROOMS: dict[str, set[str]] = {
    "launch": {"any face", "_core", "_replace", "ropewalk"},  # the launcher: the only one that may import several faces
    "__main__": {"launch", "ropewalk"},
    "__init__": {"one face", "launch", "_replace", "_core"},
    "_core": set(),
    "_replace": set(),  # how a name of the standard library is replaced, for every face
    "_condition": {"_core"},  # threading shows it, and a queue has three
    "_statistics": set(),  # what statistics() gives, whichever face asks
    # The thread pool's classes: futures shows them, asyncio's default executor is one.
    "_pool": {"_core", "_statistics"},
    "_worker": set(),  # runs where nothing native loads
}
STANDARD_LIBRARY_ONLY = {"_worker"}


def violations(root: Path) -> list[str]:
    """What breaks the rules in a checkout, a line each."""
    return [*crate_violations(root), *import_violations(root / "python" / "ropewalk")]


# --- Rust ------------------------------------------------------------------------------------------------


def crate_violations(root: Path) -> Iterator[str]:
    workspace = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]
    for manifest in sorted(root.glob("crates/**/Cargo.toml")):
        crate = manifest.parent.relative_to(root / "crates").as_posix()
        if crate not in CRATES:
            yield f"crates/{crate} has no place in the house: give it a line in CRATES"
            continue
        for name, package, folder in dependencies(manifest, workspace.get("dependencies", {}), root):
            if crate != KNOWS_PYTHON and PYTHON_CRATE.search(package):
                yield f"crates/{crate} depends on {package}: only {KNOWS_PYTHON} knows Python"
            if folder is None and package.startswith("ropewalk-"):
                folder = package.removeprefix("ropewalk-")
            if folder is not None and folder not in CRATES[crate]:
                yield f"crates/{crate} depends on crates/{folder} ({name}): it may only on {sorted(CRATES[crate])}"


def dependencies(manifest: Path, shared: dict[str, Any], root: Path) -> Iterator[tuple[str, str, str | None]]:
    """What a manifest depends on, for whichever purpose and target: name, package, and the crate's folder if ours."""
    read = tomllib.loads(manifest.read_text())
    for table in [read, *read.get("target", {}).values()]:
        for kind in ("dependencies", "dev-dependencies", "build-dependencies"):
            for name, wanted in table.get(kind, {}).items():
                base = manifest.parent
                if isinstance(wanted, dict) and wanted.get("workspace"):
                    wanted, base = shared[name], root
                entry = wanted if isinstance(wanted, dict) else {}
                folder = None
                if "path" in entry:
                    folder = (base / entry["path"]).resolve().relative_to((root / "crates").resolve()).as_posix()
                yield name, entry.get("package", name), folder


# --- Python ----------------------------------------------------------------------------------------------


def import_violations(package: Path) -> Iterator[str]:
    for room, files in rooms(package).items():
        allowed = ROOMS.get(room, FACE)
        faces = set()
        for file in files:
            here = file.relative_to(package.parent).with_suffix("").parts
            for line, name in imports(file, here):
                where = f"{file.relative_to(package.parent.parent)}:{line}"
                top, *rest = name.split(".")
                if room in STANDARD_LIBRARY_ONLY and top not in sys.stdlib_module_names:
                    yield f"{where} imports {name}: {room} imports the standard library only"
                    continue
                if top != "ropewalk":
                    continue
                target = room_of(package, rest)
                if target == room or target in allowed:
                    continue
                if target != "ropewalk" and target not in ROOMS and allowed & {"one face", "any face"}:
                    faces.add(target)
                    if "any face" in allowed or len(faces) == 1:
                        continue
                yield f"{where} imports {name}: {room} may import {sorted(allowed) or 'nothing'} of ropewalk's"


def rooms(package: Path) -> dict[str, list[Path]]:
    """The Python files of each room; types of a native module (`.pyi`) are not imports."""
    found: dict[str, list[Path]] = {}
    for file in sorted(package.rglob("*.py")):
        found.setdefault(file.relative_to(package).parts[0].removesuffix(".py"), []).append(file)
    return found


def room_of(package: Path, names: list[str]) -> str:
    """The room that a name below ropewalk belongs to; a name of the package itself is `ropewalk`'s."""
    if not names:
        return "ropewalk"
    first = names[0]
    is_module = first in ROOMS or (package / first).is_dir() or (package / f"{first}.py").exists()
    return first if is_module else "ropewalk"


def imports(file: Path, here: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Every name that a file imports, in full: also inside functions, for types, and by import_module("...")."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            # One dot is the package of this file, whichever file of it this is.
            start = ".".join(here[: len(here) - node.level]) if node.level else ""
            module = ".".join(filter(None, [start, node.module]))
            for alias in node.names:
                # What is below `ropewalk` may be a room; deeper down the room is known.
                yield node.lineno, f"{module}.{alias.name}" if module == "ropewalk" else module
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and node.args:
                name = node.args[0]
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield node.lineno, name.value


# --- The tests -------------------------------------------------------------------------------------------


def test_the_house_stands_as_designed() -> None:
    assert violations(ROOT) == []


def test_what_was_read_is_the_house() -> None:
    crates = {path.parent.name for path in ROOT.glob("crates/*/Cargo.toml")}
    assert {"sys", "reactor", "py"} <= crates
    assert {"__init__", "__main__", "asyncio", "launch"} <= rooms(ROOT / "python" / "ropewalk").keys()
    manifest = ROOT / "crates" / "reactor" / "Cargo.toml"
    shared = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["dependencies"]
    assert "sys" in {folder for _, _, folder in dependencies(manifest, shared, ROOT)}


GOOD = {
    "Cargo.toml": """
        [workspace]
        [workspace.dependencies]
        ropewalk-sys = { path = "crates/sys" }
        bindings = { package = "pyo3", version = "0.30" }
    """,
    "crates/sys/Cargo.toml": "[dependencies]\nrustix = '1.1'",
    "crates/wait/Cargo.toml": "[dependencies]\nropewalk-sys.workspace = true",
    "crates/reactor/Cargo.toml": "[dependencies]\nropewalk-sys.workspace = true\nwait = { path = '../wait' }",
    "crates/ipc/Cargo.toml": "[target.'cfg(unix)'.dependencies]\nropewalk-sys = { workspace = true }",
    "crates/pool/Cargo.toml": "[dependencies]\nreactor = { path = '../reactor' }\nipc = { path = '../ipc' }",
    "crates/py/Cargo.toml": "[dependencies]\nbindings.workspace = true\npool = { path = '../pool' }",
    "python/ropewalk/__init__.py": "def run():\n    import ropewalk.asyncio",
    "python/ropewalk/__main__.py": "from ropewalk.launch import main",
    "python/ropewalk/_worker.py": "import pickle, os.path",
    "python/ropewalk/asyncio/__init__.py": "import asyncio\nfrom ropewalk import _core\nfrom .loop import Loop",
    "python/ropewalk/asyncio/loop.py": "from ropewalk._core import Loop\nfrom ropewalk.asyncio import tasks",
    "python/ropewalk/asyncio/tasks.py": "from . import loop",
    "python/ropewalk/threading.py": "import threading, queue\nfrom ropewalk._core import Lock",
    "python/ropewalk/queue.py": "import queue",
    "python/ropewalk/launch/__init__.py": "import ropewalk.asyncio\nfrom ropewalk import threading, queue",
}


def build(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(
            "\n".join(line.strip() if name.endswith("toml") else line for line in text.split("\n"))
        )
    return folder


def test_a_house_with_every_room_may_stand(tmp_path: Path) -> None:
    assert violations(build(tmp_path, GOOD)) == []


BAD = {
    "sys looks up": ("crates/sys/Cargo.toml", "[dependencies]\nreactor = { path = '../reactor' }", "crates/reactor"),
    "wait looks at the reactor": ("crates/wait/Cargo.toml", "[dependencies]\nr = { path = '../reactor' }", "crates/reactor"),
    "ipc looks aside": ("crates/ipc/Cargo.toml", "[dependencies]\nropewalk-wait = '0.1'", "crates/wait"),
    "reactor looks up": ("crates/reactor/Cargo.toml", "[dependencies]\npool = { path = '../pool' }", "crates/pool"),
    "somebody looks at py": ("crates/pool/Cargo.toml", "[dev-dependencies]\npy = { path = '../py' }", "crates/py"),
    "in a test": ("crates/sys/Cargo.toml", "[dev-dependencies]\nwait = { path = '../wait' }", "crates/wait"),
    "in a build": ("crates/sys/Cargo.toml", "[build-dependencies]\nwait = { path = '../wait' }", "crates/wait"),
    "on one system": ("crates/sys/Cargo.toml", "[target.'cfg(unix)'.dependencies]\nw = { path = '../wait' }", "crates/wait"),
    "Python below py": ("crates/reactor/Cargo.toml", "[dependencies]\npyo3 = '0.30'", "pyo3"),
    "Python by another name": ("crates/reactor/Cargo.toml", "[dependencies]\nbindings.workspace = true", "pyo3"),
    "Python in raw": ("crates/sys/Cargo.toml", "[dev-dependencies]\npyo3-ffi = '0.30'", "pyo3-ffi"),
    "a crate without a place": ("crates/extra/Cargo.toml", "", "crates/extra"),
    "a crate in a crate": ("crates/sys/inner/Cargo.toml", "", "crates/sys/inner"),
    "a face looks at a face": ("python/ropewalk/queue.py", "import ropewalk.threading", "ropewalk.threading"),
    "from the package": ("python/ropewalk/queue.py", "from ropewalk import threading", "ropewalk.threading"),
    "by a relative name": ("python/ropewalk/asyncio/loop.py", "from ..threading import Lock", "ropewalk.threading"),
    "by a relative package": ("python/ropewalk/asyncio/loop.py", "from .. import queue", "ropewalk.queue"),
    "in a function": ("python/ropewalk/queue.py", "def f():\n    from ropewalk.asyncio.loop import Loop", "ropewalk.asyncio"),
    "by a string": ("python/ropewalk/queue.py", "import importlib\nimportlib.import_module('ropewalk.asyncio')", "ropewalk.asyncio"),
    "through the door": ("python/ropewalk/queue.py", "from ropewalk import install", "ropewalk.install"),
    "a face looks at the launcher": ("python/ropewalk/queue.py", "import ropewalk.launch", "ropewalk.launch"),
    "the package looks at two": ("python/ropewalk/__init__.py", "import ropewalk.asyncio, ropewalk.queue", "ropewalk.queue"),
    "the command looks at a face": ("python/ropewalk/__main__.py", "import ropewalk.asyncio", "ropewalk.asyncio"),
    "the worker loads the core": ("python/ropewalk/_worker.py", "from ropewalk import _core", "ropewalk._core"),
    "the worker loads more": ("python/ropewalk/_worker.py", "import numpy", "numpy"),
    "the worker loads a neighbour": ("python/ropewalk/_worker.py", "from . import queue", "ropewalk.queue"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "text", "named"), BAD.values(), ids=list(BAD))
def test_a_broken_rule_is_found(tmp_path: Path, file: str, text: str, named: str) -> None:
    (found,) = violations(build(tmp_path, GOOD | {file: text}))
    assert named in found
    assert file.removesuffix("/Cargo.toml") in found
