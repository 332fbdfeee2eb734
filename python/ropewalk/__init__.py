"""One Rust runtime under Python's ways to be concurrent.

    import ropewalk
    ropewalk.run(main())     # asyncio.run on the Rust event loop
    ropewalk.install()       # all of it for the whole process: asyncio, threading, queue, concurrent.futures

or, without touching the program: ``ropewalk run program.py``.

Importing this package imports nothing else, for it is imported at the start of every Python under ``ropewalk run``;
the names below load what they need when they are used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers know the name; importing `typing` takes milliseconds
if TYPE_CHECKING:
    from typing import Any

    from ropewalk._replace import Replacement
    from ropewalk.asyncio import new_event_loop, run
    from ropewalk.launch._install import install, installed, uninstall

__all__ = ["Replacement", "__version__", "install", "installed", "new_event_loop", "run", "uninstall"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from ropewalk._core import __version__

        return __version__
    if name in ("install", "installed", "uninstall"):
        from ropewalk.launch import _install

        return getattr(_install, name)
    if name == "Replacement":
        from ropewalk._replace import Replacement

        return Replacement
    if name in __all__:
        import ropewalk.asyncio

        return getattr(ropewalk.asyncio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
