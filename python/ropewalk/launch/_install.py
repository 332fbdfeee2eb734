"""The whole of ropewalk in the standard library's place: ``ropewalk.install`` and its way back.

There are two ways in. A program that calls ``install`` means now: what it names is imported and replaced. Under
``ropewalk run`` no program has asked for anything yet, so each module is replaced when the program imports it
(`_lazy`), and what it never imports costs it nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module

from ropewalk import _replace
from ropewalk.launch import _gevent, _imports
from ropewalk.launch._lazy import FACES, GEVENT, SYSTEMS, leave_threads_to_gevent

TYPE_CHECKING = False  # type checkers know the name; `typing` would cost more than all that is here
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def install(*systems: str) -> list[_replace.Replacement]:
    """Put ropewalk's own in the standard library's place, in this process, from here on.

    `systems` names what is to be replaced: ``"asyncio"`` (the default event loop), ``"threading"``, ``"queue"``,
    ``"concurrent.futures"``; without a name, all of them. Their modules are imported. Returns what stands in whose
    place, as :func:`installed` does. Again is no error; thread-safe.

    Objects that exist go on as they are, and ``isinstance`` knows them as before. A name that another module has
    imported already (``from threading import Event``) keeps meaning the original there: call this early.
    If gevent has replaced threads, or does so later, they are gevent's.

    Raises ValueError for a name that is none of these, ImportError if ropewalk was not built for this Python.
    """
    for system in _chosen(systems):
        for name in SYSTEMS[system]:
            if name != "concurrent.futures.interpreter" or sys.version_info >= (3, 14):
                import_module(name)
        put_in_place(system)
    _imports.watch([GEVENT], leave_threads_to_gevent)
    return installed()


def uninstall(*systems: str) -> None:
    """Undo :func:`install`, for the named systems or for all. Thread-safe.

    Objects that exist go on as they are. A name that somebody else has replaced since is left alone. Under
    ``ropewalk run``, what the program has not imported yet stays the standard library's when it does.

    Raises ValueError for a name that is no system's.
    """
    for system in _chosen(systems):
        _imports.forget([*SYSTEMS[system], FACES[system]])
        if system == "asyncio":
            if face := sys.modules.get(FACES[system]):
                face.uninstall()
        else:
            _replace.take_out(system)


def installed() -> list[_replace.Replacement]:
    """What stands in the standard library's place now, in the order in which it was put there.

    Each entry has ``system``, ``place`` (``"threading.Event"``), ``original`` and ``ours``; as text it is
    ``threading.Event: ropewalk.threading.Event``. Thread-safe.
    """
    return _replace.standing()


def put_in_place(system: str, *, fresh: bool = False) -> None:
    """Replace what is imported of a system's modules; `fresh` as in `_replace.put`."""
    if system in _gevent.SYSTEMS and _gevent.has_threads():
        return
    face = import_module(FACES[system])
    if system == "asyncio":
        if hasattr(face, "install"):  # else as below
            face.install()  # names are not all: there is a policy too
    elif hasattr(face, "_replacements"):  # else it is being imported, and imports what it replaces: it follows
        _replace.put(system, face._replacements(), fresh=fresh)


def step_aside(system: str, *, fresh: bool) -> Callable[[], None]:
    """Take a system out for a moment, if it is in place; calling the result ends the moment."""
    if all(one.system != system for one in _replace.standing()):
        return lambda: None
    _replace.take_out(system)
    return lambda: put_in_place(system, fresh=fresh)


def _chosen(systems: Iterable[str]) -> Iterable[str]:
    if unknown := [name for name in systems if name not in SYSTEMS]:
        raise ValueError(f"nothing to install is called {unknown[0]!r}: there are {', '.join(map(repr, SYSTEMS))}")
    return systems or SYSTEMS
