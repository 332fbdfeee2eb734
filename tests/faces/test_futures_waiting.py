"""``wait`` and ``as_completed`` of ``ropewalk.futures``, on futures of ours, of the original, and mixed."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import math
import threading
import time
import weakref
from typing import Any

import pytest
import rig
import ropewalk.futures as ours
from ropewalk.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Future

# Which functions, on which futures: each pair keeps the same promises.
original = concurrent.futures
KINDS = {
    "original": (original, [original.Future]),
    "ours": (ours, [Future]),
    "ours on the original's": (ours, [original.Future]),
    "the original on ours": (original, [Future]),
    "ours on both": (ours, [Future, original.Future]),
    "the original on both": (original, [original.Future, Future]),
}
KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


def some(kind: Any, count: int) -> tuple[Any, list[Any]]:
    module, classes = kind
    return module, [make() for make, _ in zip(itertools.cycle(classes), range(count), strict=False)]


def later(*calls: Any) -> None:
    """Make the calls one after the other, in a thread, when somebody has had the time to wait for them."""

    def make() -> None:
        for call in calls:
            time.sleep(0.01)
            call()

    threading.Thread(target=make).start()


@KIND
def test_wait_for_all(kind: Any) -> None:
    module, futures = some(kind, 4)
    futures[0].set_result(0)
    later(*(lambda future=future: future.set_result(None) for future in futures[1:3]))
    later(lambda: futures[3].set_exception(KeyError()))
    sets = module.wait(futures + futures[:2])
    assert sets == (set(futures), set()) and sets.done == set(futures) and sets.not_done == set()
    assert module.wait([]) == (set(), set())
    assert module.wait(iter(futures), return_when="ALL_COMPLETED") == sets


@KIND
def test_wait_for_the_first(kind: Any) -> None:
    module, futures = some(kind, 3)
    later(lambda: futures[1].set_result(None))
    assert module.wait(futures, None, FIRST_COMPLETED) == ({futures[1]}, {futures[0], futures[2]})
    assert module.wait(futures, None, FIRST_COMPLETED) == ({futures[1]}, {futures[0], futures[2]}), "at once"


@KIND
def test_wait_for_the_first_exception(kind: Any) -> None:
    module, futures = some(kind, 3)
    later(lambda: futures[0].set_result(None), lambda: futures[1].set_exception(KeyError()))
    assert module.wait(futures, return_when=FIRST_EXCEPTION) == (set(futures[:2]), {futures[2]})
    assert module.wait(futures, return_when=FIRST_EXCEPTION) == (set(futures[:2]), {futures[2]}), "at once"
    module, futures = some(kind, 2)
    later(*(lambda future=future: future.set_result(None) for future in futures))
    assert module.wait(futures, return_when=FIRST_EXCEPTION) == (set(futures), set()), "none came"


@KIND
def test_a_cancelled_one_counts_once_its_executor_knows(kind: Any) -> None:
    module, futures = some(kind, 2)
    futures[0].set_result(None)
    futures[1].cancel()
    assert module.wait(futures, 0.01) == ({futures[0]}, {futures[1]})
    later(futures[1].set_running_or_notify_cancel)
    assert module.wait(futures, rig.PATIENCE) == (set(futures), set())
    assert set(module.as_completed(futures)) == set(futures)


@KIND
@pytest.mark.parametrize("timeout", [0, -1, 0.01, math.nan])
def test_wait_whose_time_is_up(kind: Any, timeout: float) -> None:
    module, futures = some(kind, 3)
    futures[0].set_result(None)
    assert module.wait(futures, timeout) == ({futures[0]}, set(futures[1:]))
    assert not futures[1]._waiters


@KIND
def test_wait_for_what_is_no_condition(kind: Any) -> None:
    module, futures = some(kind, 1)
    with pytest.raises(ValueError, match=r"Invalid return condition: 'SOME'"):
        module.wait(futures, return_when="SOME")
    with pytest.raises(TypeError):
        module.wait(futures, "soon")
    with pytest.raises(OverflowError):
        module.wait(futures, 1e300)
    futures[0].set_result(1)
    assert module.wait(futures, return_when="SOME") == (set(futures), set()), "not looked at"


@KIND
def test_as_they_are_completed(kind: Any) -> None:
    module, futures = some(kind, 4)
    completed = module.as_completed(futures + futures)
    futures[3].set_result(None)
    assert next(completed) is futures[3]
    for number in (2, 0):
        futures[number].set_result(None)
    assert [next(completed), next(completed)] == [futures[2], futures[0]], "in that order"
    later(lambda: futures[1].set_exception(KeyError()))
    assert list(completed) == [futures[1]]


@KIND
def test_as_completed_whose_time_is_up(kind: Any) -> None:
    module, futures = some(kind, 4)
    futures[0].set_result(None)
    completed = module.as_completed(futures, 0.02)
    assert next(completed) is futures[0]
    with pytest.raises(TimeoutError, match=r"^3 \(of 4\) futures unfinished$"):
        next(completed)
    assert list(completed) == []
    assert not futures[1]._waiters
    with pytest.raises(TimeoutError, match=r"^3 \(of 4\) futures unfinished$"):
        list(module.as_completed(futures, timeout=-1))


@KIND
def test_as_completed_counts_from_the_first_look(kind: Any) -> None:
    module, futures = some(kind, 1)
    completed = module.as_completed(futures, 0.05)
    time.sleep(0.06)
    later(lambda: futures[0].set_result(None))
    assert list(completed) == futures


@KIND
def test_as_completed_keeps_nothing_that_it_gave(kind: Any) -> None:
    module, futures = some(kind, 8)
    for future in futures[:6]:
        future.set_result(None)
    completed = module.as_completed(futures)
    for _ in range(6):
        future = next(completed)
        futures.remove(future)
        gone = weakref.ref(future)
        del future
        gc.collect()
        assert gone() is None
    completed.close()
    assert not futures[0]._waiters


def test_nothing_is_left_behind() -> None:
    futures = [Future() for _ in range(3)]
    ours.wait(futures, 0)
    completed = ours.as_completed(futures, 0)
    with pytest.raises(TimeoutError):
        next(completed)
    gone = [weakref.ref(future) for future in futures]
    del futures, completed
    assert [ref() for ref in gone] == [None] * 3


def test_both_at_once_from_many_threads() -> None:
    futures = [Future() for _ in range(200)]
    out: list[int] = []

    def waiter() -> None:
        out.append(len(ours.wait(futures).done))
        out.append(len(list(ours.as_completed(futures))))

    threads = [threading.Thread(target=waiter) for _ in range(4)]
    setters = [threading.Thread(target=lambda part=part: [f.set_result(1) for f in part]) for part in
               (futures[::2], futures[1::2])]  # fmt: skip
    for thread in threads + setters:
        thread.start()
    for thread in threads + setters:
        thread.join(rig.PATIENCE)
    assert out == [200] * 8


def test_a_wait_that_was_never_awaited_leaves_nothing() -> None:
    import sys

    from ropewalk import _core

    class Marked(Future):
        pass

    future = Marked()
    before = sys.getrefcount(future)
    with pytest.warns(RuntimeWarning, match="coroutine 'wait_async' was never awaited"):
        _core._wait_async({future}, None, ALL_COMPLETED)
        gc.collect()
    assert sys.getrefcount(future) == before
    future.set_result(1)


@pytest.mark.parametrize("factory", rig.LOOPS)
def test_awaited(factory: Any) -> None:
    async def main() -> None:
        futures = [Future() for _ in range(3)]
        assert await ours.wait_async(futures, 0.01) == (set(), set(futures))
        later(lambda: futures[1].set_result(None))
        assert await ours.wait_async(futures, return_when=FIRST_COMPLETED) == ({futures[1]}, {futures[0], futures[2]})
        later(lambda: futures[0].set_exception(KeyError()))
        assert (await ours.wait_async(futures, None, FIRST_EXCEPTION)).not_done == {futures[2]}
        coming = aiter(ours.as_completed_async(futures))
        assert {await anext(coming), await anext(coming)} == set(futures[:2])
        later(lambda: futures[2].set_result(None))
        assert [future async for future in coming] == futures[2:]
        assert await ours.wait_async(futures, return_when=ALL_COMPLETED) == (set(futures), set())
        futures = [Future() for _ in range(3)]
        with pytest.raises(TimeoutError, match=r"^3 \(of 3\) futures unfinished$"):
            async for _ in ours.as_completed_async(futures, 0.01):
                pass
        with pytest.raises(ValueError, match="Invalid return condition"):
            await ours.wait_async(futures, return_when="SOME")
        with pytest.raises(TypeError):
            await ours.wait_async([original.Future()])
        with pytest.raises(TypeError):
            async for _ in ours.as_completed_async([original.Future()]):
                pass

    with rig.borrowed(factory) as loop:
        rig.run(loop, main())
