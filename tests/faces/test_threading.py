"""``ropewalk.threading`` as a module: whose names it has, and what a hook that is set on it does."""

from __future__ import annotations

import inspect
import sys
import textwrap
import threading
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import rig
import ropewalk.threading as ours

OURS = [
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "Lock",
    "RLock",
    "Semaphore",
    "Thread",
    "Timer",
]


def test_the_public_names_are_those_of_the_running_python() -> None:
    assert sorted(ours.__all__) == sorted(threading.__all__)
    assert set(ours.__all__) <= vars(ours).keys()
    assert "__getattr__" not in vars(ours)


@pytest.mark.parametrize(
    "name", sorted({*threading.__all__, "__excepthook__", "currentThread", "activeCount"} - {*OURS})
)
def test_what_cannot_be_bettered_is_the_original(name: str) -> None:
    assert getattr(ours, name) is getattr(threading, name)


def test_everything_imported_by_a_star() -> None:
    names: dict[str, Any] = {}
    exec("from ropewalk.threading import *", names)
    assert set(threading.__all__) <= names.keys()


@pytest.mark.parametrize(("old", "new"), [("currentThread", "current_thread"), ("activeCount", "active_count")])
def test_old_names_warn_where_they_are_called(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"use {new}\\(\\) instead") as caught:
        assert getattr(ours, old)() == getattr(threading, new)()
    assert caught[0].filename == __file__


@pytest.mark.parametrize("name", OURS)
def test_a_class_says_where_it_is_found_and_what_it_is(name: str) -> None:
    kind = getattr(ours, name)
    # Locks say that they are of `_thread`, as the originals: to some that means that a signal handler may take them.
    module = "_thread" if name in ("Lock", "RLock") else "ropewalk.threading"
    assert (kind.__module__, kind.__qualname__) == (module, name)
    assert inspect.getdoc(kind)


@pytest.mark.parametrize("name", ["Event", "Semaphore", "BoundedSemaphore", "Barrier", "Condition"])
def test_methods_have_the_originals_parameters(name: str) -> None:
    original = getattr(threading, name)
    for method, function in vars(original).items():
        if method.startswith("_") or not inspect.isfunction(function):
            continue
        here = inspect.signature(getattr(getattr(ours, name), method))
        there = inspect.signature(function)
        given = [(p.name, p.default) for p in here.parameters.values()]
        expected = [(p.name, p.default) for p in there.parameters.values()]
        assert given == expected, method


@pytest.mark.parametrize("name", ["Event", "Semaphore", "BoundedSemaphore", "Barrier", "Condition", "Lock", "RLock"])
def test_what_blocks_has_a_twin_with_the_same_parameters(name: str) -> None:
    kind = getattr(ours, name)
    for method in ("acquire", "wait"):
        if hasattr(kind, method) and not (name == "Condition" and method == "acquire"):
            twin = inspect.signature(getattr(kind, f"{method}_async")).parameters.values()
            here = inspect.signature(getattr(kind, method)).parameters.values()
            assert [(p.name, p.default) for p in twin] == [(p.name, p.default) for p in here]


def test_a_hook_set_here_hears_of_every_thread() -> None:
    heard: list[Any] = []
    before = threading.excepthook
    ours.excepthook = heard.append
    try:
        assert ours.excepthook == threading.excepthook
        for kind in (threading.Thread, ours.Thread):
            thread = kind(target=lambda: 1 / 0)
            thread.start()
            thread.join()
            assert heard.pop().thread is thread
    finally:
        ours.excepthook = before
    assert threading.excepthook is before
    assert ours.__excepthook__ is threading.__excepthook__


def test_a_hook_set_there_is_seen_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", print)
    assert ours.excepthook is print
    monkeypatch.setattr(ours, "excepthook", repr)
    assert threading.excepthook is repr


def test_every_thread_is_a_thread() -> None:
    """Programs ask by isinstance, also the main thread and those that Python has not started."""
    import _thread

    assert isinstance(threading.main_thread(), ours.Thread)
    seen: list[Any] = []
    done = ours.Event()

    def foreign() -> None:
        seen.append(threading.current_thread())
        done.set()

    _thread.start_new_thread(foreign, ())
    assert done.wait(rig.PATIENCE)
    assert isinstance(seen[0], ours.Thread) and type(seen[0]).__name__ == "_DummyThread"


def test_importing_it_loads_no_event_loop_and_starts_no_thread() -> None:
    done = rig.script(
        textwrap.dedent(
            """
            import sys, _thread
            import ropewalk.threading
            print(_thread._count(), "asyncio.tasks" in sys.modules, "inspect" in sys.modules)
            """
        )
    )
    assert done.stdout.split()[0] == "0"


def test_deprecated_methods_warn_where_they_are_called() -> None:
    condition = ours.Condition()
    calls = [(ours.Event().isSet, "use is_set() instead"), (condition.notifyAll, "use notify_all() instead")]
    with condition, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for call, _ in calls:
            call()
    assert [(str(w.message).split(", ")[1], w.category, w.filename) for w in caught] == [
        (text, DeprecationWarning, __file__) for _, text in calls
    ]


def test_a_face_in_the_place_of_the_original() -> None:
    """What `install` will do: the module's own threads and timers work on our primitives."""
    names = SimpleNamespace(**{name: getattr(ours, name) for name in OURS})
    done = rig.script(
        textwrap.dedent(
            f"""
            import threading
            import ropewalk.threading as ours
            for name in {OURS!r}:
                setattr(threading, name, getattr(ours, name))
            got = []
            threads = [threading.Thread(target=got.append, args=(i,)) for i in range(10)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            timer = threading.Timer(0.01, got.append, (10,))
            timer.start(); timer.join()
            print(sorted(got), type(threading.current_thread()).__name__, threading.active_count())
            """
        )
    )
    assert names and done.stdout == f"{[*range(11)]} _MainThread 1\n"


if sys.version_info >= (3, 15):

    def test_iterators_are_the_originals() -> None:
        assert list(ours.serialize_iterator(range(3))) == [0, 1, 2]
