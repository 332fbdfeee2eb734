"""Puts each system in place when a program imports it, and not before: what `ropewalk run` does at the start.

Also which systems there are, for this is the one module of theirs that every start loads.
"""

from __future__ import annotations

import sys

from ropewalk.launch import _imports

TYPE_CHECKING = False  # type checkers know the name; `typing` would cost more than all that is here
if TYPE_CHECKING:
    from collections.abc import Callable

# Each system, and the modules of the standard library whose import is the moment to put it in place.
SYSTEMS: dict[str, tuple[str, ...]] = {
    "asyncio": ("asyncio",),
    "threading": ("threading",),
    "queue": ("queue",),
    "concurrent.futures": ("concurrent.futures", "concurrent.futures.thread", "concurrent.futures.interpreter"),
}
# Where ropewalk's own of each is.
FACES = {
    "asyncio": "ropewalk.asyncio",
    "threading": "ropewalk.threading",
    "queue": "ropewalk.queue",
    "concurrent.futures": "ropewalk.futures",
}
# These derive a class from one that is replaced, and must derive it from the original: ours derives from both.
HEIRS = {"concurrent.futures.interpreter"}
GEVENT = "gevent.monkey"


def install(insist: bool) -> None:
    """Have every system put in place as soon as it is there.

    If ropewalk's own cannot be imported then (this may be another Python than the one it was built for), the
    original stays; with `insist` the program ends.
    """

    for system, modules in SYSTEMS.items():
        # What the program has not seen yet needs no stand-ins.
        fresh = not any(name in sys.modules for name in modules)

        def imported(name: str, system: str = system, fresh: bool = fresh) -> None:
            try:
                from ropewalk.launch._install import put_in_place

                put_in_place(system, fresh=fresh)
            except ImportError as error:
                if not insist:
                    return
                sys.stderr.write(
                    f"ropewalk run: error: ropewalk cannot be installed: {error}\n"
                    f"hint: check that ropewalk was built for this Python: {sys.executable}\n"
                )
                raise SystemExit(1) from error

        def derives(name: str, system: str = system, fresh: bool = fresh) -> Callable[[], None]:
            from ropewalk.launch._install import step_aside

            return step_aside(system, fresh=fresh)

        # The face as well: a program may import that first, and the face then imports what it is to replace.
        for name in (*modules, FACES[system]):
            _imports.watch([name], imported, derives if name in HEIRS else None)
    _imports.watch([GEVENT], leave_threads_to_gevent)


def leave_threads_to_gevent(name: str) -> None:
    """gevent.monkey is there: it may put greenlets in the place of threads."""
    from ropewalk.launch import _gevent

    _gevent.watch()
