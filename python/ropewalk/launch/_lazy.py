"""Installs ropewalk when a program imports asyncio, and not before.

Many programs, and most of the small Pythons that a program starts, never import asyncio, which is most of
what an installation costs. So the start leaves a finder with the import system instead: it knows one
name, finds it as the other finders do, and has ropewalk installed when asyncio's own code has run. The
module looks as if nobody had stood between: same spec, same loader, same traceback if it fails.
"""

from __future__ import annotations

import sys
from _thread import get_ident  # `threading` would be one more module at every start

TYPE_CHECKING = False  # type checkers know the name; `typing` would cost more than all that is here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


def install(insist: bool) -> None:
    """Have ropewalk installed as soon as asyncio is there.

    If it cannot be imported then (this may be another Python than the one it was built for), asyncio stays
    as it is; with `insist` the program ends.
    """
    if "asyncio" in sys.modules:
        _install(insist)
    else:
        sys.meta_path.insert(0, _Finder(insist))


def _install(insist: bool) -> None:
    try:
        import ropewalk

        ropewalk.install()
    except ImportError as error:
        if not insist:
            return
        sys.stderr.write(
            f"ropewalk run: error: ropewalk cannot be installed: {error}\n"
            f"hint: check that ropewalk was built for this Python: {sys.executable}\n"
        )
        raise SystemExit(1) from error


class _Finder:
    """Finds asyncio as the other finders do, and puts a `_Loader` around the loader that they name."""

    def __init__(self, insist: bool) -> None:
        self._insist = insist
        self._installed = False
        self._asking: set[int] = set()  # the threads that are in find_spec

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        # A finder that asks all others in turn, as this one does, would come back here.
        if name != "asyncio" or self._installed or get_ident() in self._asking:
            return None
        self._asking.add(get_ident())
        try:
            spec = self._ask_the_others(name, path, target)
        finally:
            self._asking.discard(get_ident())
        # A program's own asyncio.py hides the package from it; it is no concern of ours.
        if spec is not None and spec.loader is not None and spec.submodule_search_locations is not None:
            spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]  # a loader in all but descent
        return spec

    def _ask_the_others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find_spec = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find_spec and find_spec(name, path, target)
            if spec is not None:
                return spec
        return None

    def asyncio_is_there(self) -> None:
        """Install, once. Nothing is to be found after that."""
        if self._installed:
            return
        self._installed = True
        try:
            _install(self._insist)
        except BaseException:
            self._installed = False  # the import fails with it, and the next one tries again
            raise
        # Older Pythons walk through the list itself: taking an entry out makes another thread, which
        # stands at it, skip the next finder. There it stays, and finds nothing.
        if sys.version_info >= (3, 14) and self in sys.meta_path:
            sys.meta_path.remove(self)


class _Loader:
    """asyncio's loader in everything; once the code has run, ropewalk is installed."""

    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._finder.asyncio_is_there()


# A program whose own socket.py breaks asyncio sees the traceback that it knows: Python leaves the import
# system's frames out of it, by their file's name, and here that method is one of them.
_Loader.exec_module.__code__ = _Loader.exec_module.__code__.replace(co_filename="<frozen importlib._bootstrap>")
