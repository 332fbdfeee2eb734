"""``run`` and ``Runner``: asyncio's own, with ropewalk's event loop unless told otherwise."""

from __future__ import annotations

import asyncio
import asyncio.events
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ropewalk.asyncio._loop import new_event_loop

_T = TypeVar("_T")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class Runner(asyncio.Runner):  # type: ignore[misc]  # final for type checkers alone
    """``asyncio.Runner`` whose default event loop is ropewalk's.

    See https://docs.python.org/3/library/asyncio-runner.html#asyncio.Runner.
    """

    def __init__(self, *, debug: bool | None = None, loop_factory: LoopFactory | None = None) -> None:
        super().__init__(debug=debug, loop_factory=loop_factory or new_event_loop)


def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    loop_factory: LoopFactory | None = None,
) -> _T:
    """Run ``main`` to its end on a new event loop and return its result, as ``asyncio.run`` does.

    Parameters
    ----------
    main: the coroutine (or, from Python 3.14 on, the awaitable) to run.
    debug: the loop's debug mode; ``None`` keeps the process's setting.
    loop_factory: makes the loop; ``None`` is ropewalk's.

    Raises ``RuntimeError`` if an event loop runs in this thread already, and whatever ``main`` raises. Ctrl-C
    cancels ``main`` first and raises ``KeyboardInterrupt`` afterwards.
    """
    if asyncio.events._get_running_loop() is not None:  # before the runner makes a loop, as asyncio.run looks
        raise RuntimeError("ropewalk.run() cannot be called from a running event loop")
    with Runner(debug=debug, loop_factory=loop_factory) as runner:
        return runner.run(main)
