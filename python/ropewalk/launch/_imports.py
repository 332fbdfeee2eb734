"""Calls a function when a module has been imported, and not before.

Many programs, and most of the small Pythons that a program starts, import little of what ropewalk replaces, and the
import is most of what replacing it costs. So a finder stands with the import system: it knows some names, finds them as
the other finders do, and has the function called when the module's own code has run. The module looks as if nobody had
stood between: same spec, same loader, same traceback if it fails.
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident  # `threading` would be one more module at every start

TYPE_CHECKING = False  # type checkers know the name; `typing` would cost more than all that is here
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    Action = Callable[[str], None]
    Before = Callable[[str], Callable[[], None]]


def watch(names: Iterable[str], action: Action, before: Before | None = None) -> None:
    """Call `action` once with each of these modules' names when it is there, which for some may be now.

    If it raises, the import fails with that, and the next import of the module tries again. A program's own module
    that hides one of the standard library is no concern of ours. `before` is called before the module's code runs, and
    what it returns, after that.
    """
    for name in names:
        if name in sys.modules:
            action(name)
        else:
            _finder.wanted[name] = (action, before)
    if _finder.wanted and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def forget(names: Iterable[str]) -> None:
    """Take back `watch`."""
    for name in names:
        _finder.wanted.pop(name, None)


class _Finder:
    """Finds a module as the other finders do, and puts a `_Loader` around the loader that they name."""

    def __init__(self) -> None:
        self.wanted: dict[str, tuple[Action, Before | None]] = {}
        self._asking: set[tuple[int, str]] = set()  # which thread is in find_spec, and for what

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        # A finder that asks all others in turn, as this one does, would come back here.
        if name not in self.wanted or (get_ident(), name) in self._asking:
            return None
        self._asking.add((get_ident(), name))
        try:
            spec = self._ask_the_others(name, path, target)
        finally:
            self._asking.discard((get_ident(), name))
        if spec is not None and spec.loader is not None and _is_meant(spec):
            spec.loader = _Loader(spec.loader, name)  # type: ignore[assignment]  # a loader in all but descent
        return spec

    def _ask_the_others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find_spec = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find_spec and find_spec(name, path, target)
            if spec is not None:
                return spec
        return None

    def is_coming(self, name: str) -> Callable[[], None] | None:
        """Do what was asked for before the module's code runs; gives what is to be done after it."""
        before = self.wanted[name][1] if name in self.wanted else None
        return before(name) if before is not None else None

    def is_there(self, name: str) -> None:
        """Do what was asked for, once."""
        asked = self.wanted.pop(name, None)
        if asked is None:
            return
        parent, _, child = name.rpartition(".")
        if parent:  # as the import system does in a moment; the action may use the full name
            setattr(sys.modules[parent], child, sys.modules[name])
        try:
            asked[0](name)
        except BaseException:
            self.wanted[name] = asked  # the import fails with it, and the next one tries again
            raise
        # Older Pythons walk through the list itself: taking an entry out makes another thread, which
        # stands at it, skip the next finder. There it stays, and finds nothing.
        if not self.wanted and sys.version_info >= (3, 14) and self in sys.meta_path:
            sys.meta_path.remove(self)


_finder = _Finder()


def _is_meant(spec: ModuleSpec) -> bool:
    """Whether this is the standard library's, where the name is."""
    if spec.name.partition(".")[0] not in sys.stdlib_module_names or not spec.has_location:
        return True
    home = os.path.join(os.path.dirname(os.__file__), *spec.name.split("."))
    found = os.path.splitext(spec.origin or "")[0]
    places = (home, os.path.join(home, "__init__"))
    return found in places or os.path.realpath(found) in map(os.path.realpath, places)


class _Loader:
    """The module's own loader in everything; once the code has run, the finder is told."""

    def __init__(self, loader: Loader, name: str) -> None:
        self._loader = loader
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        resume = _finder.is_coming(self._name)
        try:
            self._loader.exec_module(module)
        finally:
            if resume is not None:
                resume()
        _finder.is_there(self._name)


# A program whose own socket.py breaks asyncio sees the traceback that it knows: Python leaves the import
# system's frames out of it, by their file's name, and here that method is one of them.
_Loader.exec_module.__code__ = _Loader.exec_module.__code__.replace(co_filename="<frozen importlib._bootstrap>")
