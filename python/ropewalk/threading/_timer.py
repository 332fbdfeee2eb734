"""``Timer``: a thread that starts when it is due, not before.

Until then it is an entry on the clock (see ``_clock``), which costs a thirtieth of a thread that sleeps. It looks like
a thread that has been started all the same: it is alive, it is in ``enumerate()``, it can be joined, the interpreter
waits for it at its exit unless it is a daemon. Only ``ident`` and ``native_id`` are None while it waits.

Whatever cannot wait on the clock does as the original does, with a thread from the start: a subclass with a `run`
of its own, an interval that is very short or no number of seconds, a start during the interpreter's exit.
"""

from __future__ import annotations

import contextvars
import sys
import threading as _threading
from time import monotonic

from ropewalk.threading import _clock
from ropewalk.threading._event import Event
from ropewalk.threading._thread import Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

# CPython's own names for what threads there are, and whether the interpreter is about to exit.
_private: Any = _threading
# What timers that have left the clock leave where somebody might look for their event: all share one.
OVER = Event()
OVER.set()

# Shorter intervals, in seconds, are hardly worth a detour: such a timer mostly fires, and its thread should be there.
SHORT = 0.005


class _Finished(Event):
    """A timer's ``finished``: when it is set, by `cancel` or by anybody, the timer comes off the clock."""

    _timer: Timer | None = None

    def set(self) -> None:
        super().set()
        timer = self._timer
        if timer is not None:
            timer._withdraw()


class _Begun(Event):
    """A timer's ``_started``: the clock starts one thread after the other, and waits for none of them to begin."""

    def wait(self, timeout: float | None = None) -> bool:
        return True


class Timer(Thread, _threading.Timer):
    """A thread that calls ``function(*args, **kwargs)`` after `interval` seconds, unless it is cancelled before.

    See ``threading.Timer``. `start` and `cancel` may be called from any thread, and from signal handlers.
    """

    # On the clock, or just leaving it.
    _pending = False
    # Was on the clock: its thread, if it gets one, need not wait any more.
    _timed = False
    # Was taken off before it was due: there never is a thread.
    _withdrawn = False
    _entry: _clock.Entry
    finished: _Finished  # type: ignore[assignment]

    def __init__(
        self,
        interval: float,
        function: Callable[..., object],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        _threading.Thread.__init__(self)
        self.interval = interval
        self.function = function
        self.args = args if args is not None else []
        self.kwargs = kwargs if kwargs is not None else {}
        self.finished = _Finished()

    def start(self) -> None:
        """Let the interval begin. ``RuntimeError`` if it has been started before."""
        if self._timed:
            raise RuntimeError("threads can only be started once")
        if not self._initialized or self._started.is_set() or not self._can_wait():
            super().start()
            return
        if sys.version_info >= (3, 14) and self._context is None and sys.flags.thread_inherit_context:
            self._context = contextvars.copy_context()
        self._timed = self._pending = True
        before, self._started = self._started, _Begun()
        self._started.set()
        with _private._active_limbo_lock:
            _private._limbo[self] = self
        try:
            self._entry = _clock.clock.add(self, self.interval)
        except BaseException:
            with _private._active_limbo_lock:
                _private._limbo.pop(self, None)
            self._timed = self._pending = False
            self._started = before
            raise
        self.finished._timer = self
        if self.finished.is_set():
            self._withdraw()
        elif _private._SHUTTING_DOWN and _clock.take(self._entry):
            self._due()  # too late to be among those that the interpreter's exit waits for

    def _can_wait(self) -> bool:
        interval = self.interval
        return (
            type(interval) in (float, int)
            and SHORT <= interval <= _threading.TIMEOUT_MAX
            and type(self).run is Timer.run
            and "run" not in self.__dict__
            and type(self.finished) is _Finished
            and not self.finished.is_set()
            and not _private._SHUTTING_DOWN
        )

    def cancel(self) -> None:
        """Stop the timer if it is still waiting."""
        self.finished.set()

    def run(self) -> None:
        """Wait, unless that has been done on the clock, and call the function."""
        if self._timed:
            self._settle()
        else:
            self.finished.wait(self.interval)
        if not self.finished.is_set():
            self.function(*self.args, **self.kwargs)
        self.finished.set()

    def is_alive(self) -> bool:
        """Whether the timer waits or its function runs."""
        return self._pending or (not self._withdrawn and super().is_alive())

    def join(self, timeout: float | None = None) -> None:
        """Wait until the timer was cancelled or its function has returned, or for `timeout` seconds.

        ``RuntimeError`` for a timer that has not been started, and in the timer's own function.
        """
        if self._timed:
            if timeout is not None:
                timeout = max(timeout, 0)
                if self._pending and not timeout <= _threading.TIMEOUT_MAX:
                    _threading.Lock().acquire(timeout=timeout)  # raises what the original's join does
                end = monotonic() + timeout
            if not self._settled().wait(timeout) or self._withdrawn:
                return
            if timeout is not None:
                timeout = max(end - monotonic(), 0)
        super().join(timeout)

    async def join_async(self, timeout: float | None = None) -> None:
        """Wait as `join` does, without blocking the event loop."""
        if self._timed:
            if timeout is not None:
                timeout = max(timeout, 0)
                end = monotonic() + timeout
            if not await self._settled().wait_async(timeout) or self._withdrawn:
                return
            if timeout is not None:
                timeout = max(end - monotonic(), 0)
        await super().join_async(timeout)

    def __repr__(self) -> str:
        if not self._pending and not self._withdrawn:
            return super().__repr__()
        status = "started" if self._pending else "stopped"
        return f"<{type(self).__name__}({self._name}, {status}{' daemon' if self._daemonic else ''})>"

    # --- Leaving the clock -------------------------------------------------------------------------------

    def _settled(self) -> Event:
        """Set when the timer has left the clock. Made by whoever waits for it first, or OVER by the end of that."""
        settled: Event = self.__dict__.setdefault("_settled_event", Event())
        return settled

    def _settle(self) -> None:
        self._pending = False
        self.finished._timer = None
        settled: Event = self.__dict__.setdefault("_settled_event", OVER)
        settled.set()

    def _withdraw(self) -> None:
        """Take the timer off the clock, if it is still there."""
        if _clock.take(self._entry):
            with _private._active_limbo_lock:
                _private._limbo.pop(self, None)
            self._withdrawn = True
            self._settle()

    def _due(self) -> None:
        """Start the thread, which settles the rest itself."""
        self._started.clear()  # or it would be a second start
        try:
            super().start()
        except Exception:
            # There is no thread to be had. The original's start() says so; ours has returned long ago.
            self._withdrawn = True
            self._started.set()
            self._invoke_excepthook(self)
            self._settle()

    def _delete(self) -> None:
        if self._pending:
            self._settle()  # it has not come to run()
        super()._delete()

    # --- In the child of a fork, where all other threads are dead, and so are those that have not begun ----------

    if sys.version_info >= (3, 13):

        def _after_fork(self, new_ident: int | None = None) -> None:
            super()._after_fork(new_ident)  # type: ignore[misc]
            self._survive(new_ident is not None)

    else:

        def _reset_internal_locks(self, is_alive: bool) -> None:
            super()._reset_internal_locks(is_alive)  # type: ignore[misc]
            self._survive(is_alive)

    def _survive(self, alive: bool) -> None:
        if self._pending:
            self._withdrawn = not alive
            self._settle()

    # CPython's, private; named here for those who check types.
    _name: str
    _daemonic: bool
    _context: contextvars.Context | None
    _invoke_excepthook: Callable[[_threading.Thread], None]


def _finish_pending() -> None:
    """At the interpreter's exit: a thread that it waits for waits for the timers that are threads like that."""
    alive = _threading.enumerate()
    pending = [timer for timer in alive if isinstance(timer, Timer) and timer._pending and not timer.daemon]
    if pending:
        _threading.Thread(target=_join_all, args=(pending,), daemon=False).start()


def _join_all(timers: list[Timer]) -> None:
    while timers:
        timers.pop().join()


if not _private._SHUTTING_DOWN:
    _private._register_atexit(_finish_pending)
