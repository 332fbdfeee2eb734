"""Which event loops race, and how each is made.

Named as strings, so that a loop is imported only in the process that runs it: an import that
patches asyncio, or fails, must not touch the others.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from importlib import metadata

OURS = "ropewalk"

# The order is the order of the columns.
LOOPS = {
    "asyncio": "asyncio:SelectorEventLoop",
    "uvloop": "uvloop:new_event_loop",
    "zuvloop": "zuvloop:new_event_loop",
    "rloop": "rloop:new_event_loop",
    "rsloop": "rsloop:new_event_loop",
    OURS: "ropewalk.asyncio:new_event_loop",
}


def factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes a new loop of that name."""
    module, _, attribute = LOOPS[name].partition(":")
    found: Callable[[], asyncio.AbstractEventLoop] = getattr(importlib.import_module(module), attribute)
    return found


def version(name: str) -> str:
    """The version of the package that a loop comes from; empty for asyncio's own."""
    package = LOOPS[name].partition(":")[0].partition(".")[0]
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        # Imported from a source tree, or part of Python.
        return str(getattr(importlib.import_module(package), "__version__", ""))


if __name__ == "__main__":
    # Asked by the harness: can this interpreter make this loop, and which version is it?
    import sys

    asked = sys.argv[1]
    factory(asked)().close()
    print(version(asked))
