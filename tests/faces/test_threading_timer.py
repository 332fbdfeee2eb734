"""Timers, which start no thread before they are due, beside the original's, which start one to sleep in."""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import rig
import ropewalk.threading as ours
from ropewalk.threading import _clock
from ropewalk.threading._timer import SHORT

BOTH = [pytest.param(threading, id="threading"), pytest.param(ours, id="ropewalk")]


@pytest.fixture(params=BOTH)
def threads(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_it_calls_the_function_in_a_thread_of_its_own(threads: Any) -> None:
    got: list[Any] = []

    def work(*args: Any, **kwargs: Any) -> None:
        got.append((args, kwargs, threading.current_thread()))

    began = time.monotonic()
    timer = threads.Timer(0.05, work, [1, 2], {"a": 3})
    timer.start()
    timer.join(rig.PATIENCE)
    assert time.monotonic() - began >= 0.05
    assert got == [((1, 2), {"a": 3}, timer)]
    assert timer.finished.is_set() and not timer.is_alive() and timer.ident
    assert isinstance(timer, threading.Timer) and isinstance(timer, threads.Thread)


def test_the_default_arguments_are_its_own(threads: Any) -> None:
    one, other = (threads.Timer(1, print) for _ in range(2))
    one.args.append(1)
    one.kwargs["a"] = 1
    assert (other.args, other.kwargs) == ([], {})
    assert (one.interval, one.function) == (1, print)


def test_while_it_waits_it_is_a_thread_that_runs(threads: Any) -> None:
    before = threading.active_count()
    timer = threads.Timer(rig.PATIENCE, print)
    assert not timer.is_alive() and timer not in threading.enumerate()
    timer.start()
    try:
        assert timer.is_alive() and timer in threading.enumerate()
        assert threading.active_count() == before + 1
        assert "started" in repr(timer) and timer.name in repr(timer)
        with pytest.raises(RuntimeError, match="threads can only be started once"):
            timer.start()
        with pytest.raises(RuntimeError, match="cannot set daemon status of active thread"):
            timer.daemon = True
        timer.join(0.001)
        timer.join(-1)
        assert timer.is_alive()
    finally:
        timer.cancel()
    timer.join(rig.PATIENCE)
    assert not timer.is_alive() and timer not in threading.enumerate()
    assert threading.active_count() == before and "stopped" in repr(timer)
    with pytest.raises(RuntimeError, match="threads can only be started once"):
        timer.start()


@pytest.mark.parametrize("how", ["cancel", "finished"])
def test_a_cancelled_timer_calls_nothing(threads: Any, how: str) -> None:
    got: list[int] = []
    timer = threads.Timer(0.05, got.append, (1,))
    timer.start()
    if how == "cancel":
        timer.cancel()
    else:
        timer.finished.set()
    timer.cancel()
    timer.join(rig.PATIENCE)
    time.sleep(0.06)
    assert got == [] and timer.finished.is_set()


def test_cancelled_before_it_is_started(threads: Any) -> None:
    got: list[int] = []
    timer = threads.Timer(0.001, got.append, (1,))
    timer.cancel()
    timer.start()
    timer.join(rig.PATIENCE)
    assert got == [] and not timer.is_alive()


def test_joined_before_it_is_started(threads: Any) -> None:
    with pytest.raises(RuntimeError, match="cannot join thread before it is started"):
        threads.Timer(1, print).join()


def test_joined_by_its_own_function(threads: Any) -> None:
    got: list[Any] = []

    def work() -> None:
        try:
            threading.current_thread().join()
        except RuntimeError as error:
            got.append(str(error))

    timer = threads.Timer(0.01, work)
    timer.start()
    timer.join(rig.PATIENCE)
    assert got == ["cannot join current thread"]


@pytest.mark.parametrize("timeout", [math.nan, math.inf, 1e20, "1", []])
def test_joining_takes_the_timeouts_of_the_original(timeout: Any) -> None:
    def outcome(threads: Any) -> Any:
        timer = threads.Timer(rig.PATIENCE, print)
        timer.start()
        try:
            return timer.join(timeout)
        except Exception as error:
            return type(error)
        finally:
            timer.cancel()

    assert outcome(ours) == outcome(threading)


@pytest.mark.parametrize("interval", [0, -1, 0.0, math.nan, -math.inf, True and 0.001])
def test_intervals_that_are_over_at_once(threads: Any, interval: float) -> None:
    got: list[int] = []
    timer = threads.Timer(interval, got.append, (1,))
    timer.start()
    timer.join(rig.PATIENCE)
    assert got == [1]


@pytest.mark.parametrize("interval", [math.inf, 1e20, "1", []])
def test_intervals_that_are_none(interval: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of the timer says so."""
    heard: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: heard.append((args.exc_type, str(args.exc_value))))
    for threads in (threading, ours):
        timer = threads.Timer(interval, pytest.fail)
        timer.start()
        timer.join(rig.PATIENCE)
    assert heard[0] == heard[1] and not timer.finished.is_set()


def test_no_interval_is_for_ever(threads: Any) -> None:
    timer = threads.Timer(None, pytest.fail)
    timer.start()
    timer.join(0.02)
    assert timer.is_alive()
    timer.cancel()
    timer.join(rig.PATIENCE)


def test_an_exception_goes_to_the_hook(threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: heard.append((args.exc_type, args.thread)))
    timer = threads.Timer(0.001, lambda: 1 / 0)
    timer.start()
    timer.join(rig.PATIENCE)
    assert heard == [(ZeroDivisionError, timer)]
    assert not timer.finished.is_set()  # as the original's


def test_a_subclass_with_a_run_of_its_own(threads: Any) -> None:
    """The popular repeating timer: it needs its thread from the start."""

    class Repeating(threads.Timer):  # type: ignore[misc,name-defined]
        def run(self) -> None:
            while not self.finished.wait(self.interval):
                self.function(*self.args, **self.kwargs)

    got: list[float] = []
    timer = Repeating(0.005, lambda: got.append(time.monotonic()))
    timer.start()
    assert timer.ident
    rig.until_sync(lambda: len(got) >= 3)
    timer.cancel()
    timer.join(rig.PATIENCE)
    assert not timer.is_alive()


def test_a_subclass_with_an_init_and_a_cancel_of_its_own(threads: Any) -> None:
    class Named(threads.Timer):  # type: ignore[misc,name-defined]
        cancelled = 0

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.name, self.daemon = "mine", True

        def cancel(self) -> None:
            self.cancelled += 1
            super().cancel()

    timer = Named(rig.PATIENCE, pytest.fail)
    timer.start()
    assert (timer.name, timer.daemon) == ("mine", True) and "mine" in repr(timer)
    timer.cancel()
    timer.join(rig.PATIENCE)
    assert timer.cancelled == 1


def test_run_without_start_waits_and_calls(threads: Any) -> None:
    got: list[int] = []
    began = time.monotonic()
    threads.Timer(0.02, got.append, (1,)).run()
    assert got == [1] and time.monotonic() - began >= 0.02


def test_a_function_that_starts_and_cancels_timers(threads: Any) -> None:
    got: list[int] = []
    done = threading.Event()

    def again(left: int) -> None:
        got.append(left)
        if not left:
            done.set()
            return
        other = threads.Timer(rig.PATIENCE, pytest.fail)
        other.start()
        threads.Timer(0.001, again, (left - 1,)).start()
        other.cancel()

    again(5)
    assert done.wait(rig.PATIENCE) and got == [5, 4, 3, 2, 1, 0]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="before, threads begin with an empty context")
@pytest.mark.parametrize("inherit", [0, 1])
def test_the_context_is_inherited_if_threads_do(inherit: int) -> None:
    done = rig.script(
        """
        import contextvars, ropewalk.threading as ours
        variable = contextvars.ContextVar("variable", default=0)
        variable.set(1)
        timer = ours.Timer(0.01, lambda: print(variable.get()))
        timer.start()
        variable.set(2)
        timer.join()
        """,
        flags=("-X", f"thread_inherit_context={inherit}"),
    )
    assert done.stdout == f"{inherit}\n"


# --- The clock ------------------------------------------------------------------------------------------------


def test_a_short_timer_has_its_thread_from_the_start() -> None:
    for interval, early in [(SHORT / 2, True), (rig.PATIENCE, False)]:
        timer = ours.Timer(interval, int)
        timer.start()
        assert (timer.ident is not None) is early
        timer.cancel()
        timer.join(rig.PATIENCE)


def test_timers_are_due_in_the_order_of_their_times() -> None:
    """What their threads make of it is the system's business."""
    called: list[float] = []
    got: list[float] = []

    class Noted(ours.Timer):
        def _due(self) -> None:
            called.append(self._entry[0])
            super()._due()

    intervals = [0.05 + 0.001 * number for number in (3, 0, 4, 1, 2)]
    timers = [Noted(interval, got.append, (interval,)) for interval in intervals]
    for timer in timers:
        timer.start()
    for timer in timers:
        timer.join(rig.PATIENCE)
    assert sorted(got) == sorted(intervals)
    assert called == sorted(timer._entry[0] for timer in timers)


def test_many_timers_wait_in_one_thread_which_ends_after_them() -> None:
    def tasks() -> int:
        import os

        return len(os.listdir("/proc/self/task"))

    rig.until_sync(lambda: not _clock.clock.runs, "the clock of other tests ends")
    before = tasks()
    timers = [ours.Timer(rig.PATIENCE, pytest.fail) for _ in range(500)]
    for timer in timers:
        timer.start()
    assert tasks() <= before + 1
    assert threading.active_count() >= 500
    for timer in timers:
        timer.cancel()
    rig.until_sync(lambda: tasks() <= before and not _clock.clock.runs)


def test_a_cancelled_timer_and_its_arguments_are_let_go_at_once() -> None:
    class Big:
        pass

    big = Big()
    reference = weakref.ref(big)
    timer = ours.Timer(3600, print, [big])
    timer.start()
    timer.cancel()
    del timer, big
    gc.collect()
    assert reference() is None


def test_what_was_cancelled_does_not_pile_up() -> None:
    kept = ours.Timer(3600, print)
    kept.start()
    for _ in range(20):
        timers = [ours.Timer(3600, print) for _ in range(_clock.MANY // 2)]
        for timer in timers:
            timer.start()
        for timer in timers:
            timer.cancel()
    rig.until_sync(lambda: len(_clock.clock._new) <= _clock.MANY + 1)
    assert len(_clock.clock._heap) <= 2 * _clock.MANY + _clock.SWEEP
    kept.cancel()


def test_a_timer_that_is_due_before_the_others_wakes_the_clock() -> None:
    late = ours.Timer(rig.PATIENCE, pytest.fail)
    late.start()
    time.sleep(0.01)
    began, got = time.monotonic(), []
    soon = ours.Timer(0.02, got.append, (1,))
    soon.start()
    soon.join(rig.PATIENCE)
    late.cancel()
    assert got == [1] and time.monotonic() - began < rig.PATIENCE / 2


def test_cancelled_in_the_moment_when_it_is_due() -> None:
    """Called or not called; and in either case over, once, and out of every list."""
    for round_ in range(100):
        got: list[int] = []
        timer = ours.Timer(SHORT, got.append, (1,))
        timer.start()
        time.sleep(SHORT - 0.0001 + (round_ % 10) * 0.00003)
        timer.cancel()
        timer.join(rig.PATIENCE)
        assert not timer.is_alive() and got in ([], [1])
        assert timer not in threading.enumerate()


def test_started_and_cancelled_from_many_threads() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(200):
                timer = ours.Timer(3600 if number % 10 else SHORT, int)
                timer.start()
                if number % 10:
                    timer.cancel()
                timer.join(rig.PATIENCE)
                assert not timer.is_alive()
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(rig.PATIENCE)
    assert errors == []
    assert not [thread for thread in threading.enumerate() if isinstance(thread, ours.Timer)]


def test_set_in_a_signal_handler_that_interrupts_the_setting_of_timers() -> None:
    made: list[Any] = []

    def handler(*_: Any) -> None:
        timer = ours.Timer(3600, print)
        timer.start()
        made.append(timer)
        timer.cancel()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            timer = ours.Timer(3600, print)
            timer.start()
            timer.cancel()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert made and not any(timer.is_alive() for timer in made)


def test_no_thread_to_be_had_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: heard.append((args.exc_type, args.thread)))

    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    timer = ours.Timer(0.01, pytest.fail)
    timer.start()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    timer.join(rig.PATIENCE)
    monkeypatch.undo()
    assert heard == [(RuntimeError, timer)] and not timer.is_alive()


@pytest.mark.parametrize("new_loop", rig.LOOPS)
def test_tasks_wait_for_timers(new_loop: Callable[[], Any]) -> None:
    async def main() -> None:
        timer = ours.Timer(0.02, time.sleep, (0.02,))
        with pytest.raises(RuntimeError, match="before it is started"):
            await timer.join_async()
        timer.start()
        await timer.join_async(0.001)
        assert timer.is_alive()
        await asyncio.gather(timer.join_async(), timer.join_async(rig.PATIENCE))
        assert not timer.is_alive()
        cancelled = ours.Timer(rig.PATIENCE, print)
        cancelled.start()
        asyncio.get_running_loop().call_later(0.01, cancelled.cancel)
        await cancelled.join_async()

    with rig.borrowed(new_loop) as loop:
        rig.run(loop, main())


# --- The ends of processes ------------------------------------------------------------------------------------

MODULES = ["threading", "ropewalk.threading"]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("T.Timer(0.1, print, ['fired']).start()", "fired\n"),
        ("t = T.Timer(0.1, print, ['fired']); t.daemon = True; t.start()", ""),
        ("t = T.Timer(60, print, ['fired']); t.start(); t.cancel()", ""),
        ("T.Timer(0.02, lambda: T.Timer(0.02, print, ['second']).start()).start()", "second\n"),
        ("T.Timer(0.02, lambda: (time.sleep(0.05), print('slow'))).start()", "slow\n"),
        ("t = T.Timer(60, print); t.start(); T.Timer(0.02, lambda: (t.cancel(), print('freed'))).start()", "freed\n"),
        ("import atexit; atexit.register(print, 'last'); T.Timer(0.05, print, ['fired']).start()", "fired\nlast\n"),
    ],
)
def test_the_interpreter_waits_for_what_it_waits_for_in_the_original(module: str, code: str, said: str) -> None:
    assert rig.script(f"import time, {module} as T\n{code}").stdout == said


@pytest.mark.parametrize("module", MODULES)
def test_a_timer_dies_in_a_fork(module: str) -> None:
    done = rig.script(
        textwrap.dedent(
            f"""
            import os, time, threading, {module} as T
            fired = []
            timer = T.Timer(0.1, fired.append, (1,))
            timer.start()
            if (child := os.fork()) == 0:
                assert not timer.is_alive(), "lives on"
                timer.join()
                assert threading.active_count() == 1
                time.sleep(0.15)
                assert fired == []
                again = T.Timer(0.01, fired.append, (2,))
                again.start()
                again.join(20)
                os._exit(0 if fired == [2] else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            timer.join(20)
            print(fired)
            """
        ),
        flags=("-W", "ignore::DeprecationWarning"),
    )
    assert done.stdout == "[1]\n"
