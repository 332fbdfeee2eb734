"""``ThreadPoolExecutor.map``, held against the original where that promises the same (``BOTH``)."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import math
import sys
import threading
import time
import weakref
from typing import Any

import pytest
import rig
from ropewalk.futures import ThreadPoolExecutor

BOTH = pytest.mark.parametrize(
    "pools",
    [pytest.param(concurrent.futures.ThreadPoolExecutor, id="original"), pytest.param(ThreadPoolExecutor, id="ours")],
)
BUFFERED = pytest.mark.parametrize(
    "pools",
    [
        pytest.param(
            concurrent.futures.ThreadPoolExecutor,
            id="original",
            marks=pytest.mark.skipif(sys.version_info < (3, 14), reason="buffersize is new in Python 3.14"),
        ),
        pytest.param(ThreadPoolExecutor, id="ours"),
    ],
)


class Gate:
    """A call that notes its argument and waits, for those arguments that it was told to hold."""

    def __init__(self, *hold: int) -> None:
        self.hold = set(hold)
        self.begun: list[int] = []
        self.go = threading.Event()

    def __call__(self, number: int) -> int:
        self.begun.append(number)
        if number in self.hold:
            assert self.go.wait(rig.PATIENCE)
        return -number


@BOTH
def test_results_in_order(pools: Any) -> None:
    with pools(4) as pool:
        assert list(pool.map(abs, range(-500, 500))) == [abs(n) for n in range(-500, 500)]
        assert list(pool.map(pow, range(5), range(9))) == [pow(n, n) for n in range(5)]
        assert list(pool.map(abs, [], chunksize=3)) == list(pool.map(abs)) == []
        assert list(pool.map(lambda *items: items, "ab", "cd", "ef", "gh")) == [tuple("aceg"), tuple("bdfh")]
        assert list(pool.map(lambda item: item, [(1, 2), None])) == [(1, 2), None], "one iterable: no unpacking"


@BOTH
def test_it_begins_at_once_and_is_complete_unasked(pools: Any) -> None:
    gate = Gate()
    pool = pools(2)
    pool.map(gate, range(50))  # the iterator is thrown away
    pool.shutdown()
    assert sorted(gate.begun) == list(range(50))


@BOTH
def test_it_begins_while_the_arguments_come(pools: Any) -> None:
    begun = threading.Event()

    def arguments() -> Any:
        yield 1
        assert begun.wait(rig.PATIENCE), "the first call waits for the second argument"
        yield 2

    with pools(1) as pool:
        assert list(pool.map(lambda n: (begun.set(), n)[1], arguments())) == [1, 2]


@BOTH
def test_calls_that_wait_for_each_other(pools: Any) -> None:
    for count in (2, 5):
        meeting = threading.Barrier(count)
        with pools(count) as pool:
            arguments = (time.sleep(0.005) for _ in range(count))  # the first call waits before the next is there
            assert sorted(pool.map(lambda _, meeting=meeting: meeting.wait(rig.PATIENCE), arguments)) == list(
                range(count)
            )


@BUFFERED
def test_calls_in_a_window_that_wait_for_each_other(pools: Any) -> None:
    met = threading.Barrier(2)

    def call(number: int) -> int:
        if number in (4, 5):
            met.wait(rig.PATIENCE)
        return number

    with pools(4) as pool:
        assert list(pool.map(call, range(8), buffersize=2)) == list(range(8))


@BOTH
def test_what_was_submitted_before_comes_before(pools: Any) -> None:
    seen: list[Any] = []
    with pools(1) as pool:
        pool.submit(seen.append, "before")
        results = pool.map(seen.append, range(3))
        pool.submit(seen.append, "after").result()
        assert list(results) == [None] * 3
    assert seen == ["before", 0, 1, 2, "after"]


@BOTH
def test_arguments_that_raise(pools: Any) -> None:
    def arguments() -> Any:
        yield 1
        raise KeyError("x")

    with pools(1) as pool:
        with pytest.raises(KeyError):
            pool.map(abs, arguments())
        with pytest.raises(TypeError):
            pool.map(abs, 5)
        with pytest.raises(TypeError):
            pool.map(abs, [1], timeout="soon")


@BOTH
def test_an_exception_ends_it_and_cancels_the_rest(pools: Any) -> None:
    gate = Gate(2)

    def call(number: int) -> int:
        if number == 1:
            raise ValueError("one")
        return gate(number)

    with pools(1) as pool:
        results = pool.map(call, range(10))
        assert next(results) == 0
        with pytest.raises(ValueError, match="one"):
            next(results)
        assert list(results) == []
        gate.go.set()
    assert set(gate.begun) <= {0, 2}, "number 2 may have begun"


@BOTH
def test_closing_cancels_the_rest_once_it_was_asked(pools: Any) -> None:
    gate = Gate(1)
    with pools(1) as pool:
        results = pool.map(gate, range(10))
        assert next(results) == 0
        rig.until_sync(lambda: gate.begun == [0, 1])
        results.close()
        assert list(results) == []
        gate.go.set()
    assert gate.begun == [0, 1]
    gate = Gate()
    with pools(1) as pool:
        results = pool.map(gate, range(10))
        results.close()  # never asked
        assert list(results) == []
    assert gate.begun == list(range(10))


@BOTH
def test_dropping_the_iterator_cancels_the_rest(pools: Any) -> None:
    gate = Gate(1)
    with pools(1) as pool:
        results = pool.map(gate, range(10))
        next(results)
        rig.until_sync(lambda: gate.begun == [0, 1])
        del results
        gc.collect()
        gate.go.set()
    assert gate.begun == [0, 1]


@BOTH
@pytest.mark.parametrize("timeout", [0, -1, 0.01, math.nan])
def test_the_time_is_up(pools: Any, timeout: float) -> None:
    gate = Gate(1)
    with pools(1) as pool:
        results = pool.map(gate, range(3), timeout=timeout)
        rig.until_sync(lambda: 1 in gate.begun)
        assert next(results) == 0, "what is there is given out"
        with pytest.raises(TimeoutError):
            next(results)
        assert list(results) == []
        gate.go.set()
    assert gate.begun == [0, 1]


@BOTH
def test_the_time_counts_from_the_call(pools: Any) -> None:
    gate = Gate(0)
    with pools(1) as pool:
        results = pool.map(gate, range(3), timeout=0.4)
        time.sleep(0.41)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            next(results)
        assert time.monotonic() - began < 0.35
        gate.go.set()


@BUFFERED
def test_a_window(pools: Any) -> None:
    with pools(3) as pool:
        taken = itertools.count()
        results = pool.map(abs, taken, buffersize=3)
        assert next(taken) == 3, "three were taken"
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        assert next(taken) == 7
        results.close()
        for size in (1, 2, 5, 50):
            assert list(pool.map(abs, range(20), buffersize=size)) == list(range(20))
            assert list(pool.map(max, range(20), range(19), buffersize=size)) == list(range(19))
        assert list(pool.map(abs, [], buffersize=2)) == []
        for wrong in ("foo", 2.0):
            with pytest.raises(TypeError, match="buffersize must be an integer or None"):
                pool.map(abs, [], buffersize=wrong)
        for wrong in (0, -1):
            with pytest.raises(ValueError, match="buffersize must be None or > 0"):
                pool.map(abs, [], buffersize=wrong)


@BUFFERED
def test_a_window_after_shutdown(pools: Any) -> None:
    pool = pools(1)
    results = pool.map(abs, range(5), buffersize=2)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        next(results)
    assert list(results) == []


@BUFFERED
def test_a_window_whose_pool_is_gone(pools: Any) -> None:
    pool = pools(1)
    results = pool.map(abs, range(5), buffersize=2)
    del pool
    gc.collect()
    assert list(results) == [0, 1], "what was submitted before"


@BUFFERED
def test_a_window_whose_arguments_raise(pools: Any) -> None:
    def arguments() -> Any:
        yield from range(3)
        raise KeyError("x")

    with pools(1) as pool:
        results = pool.map(abs, arguments(), buffersize=2)
        assert next(results) == 0
        with pytest.raises(KeyError):
            next(results)
        assert list(results) == []


@BOTH
def test_shutdown_that_cancels(pools: Any) -> None:
    gate = Gate(0)
    pool = pools(1)
    results = pool.map(gate, range(5))
    rig.until_sync(lambda: gate.begun == [0])
    pool.shutdown(wait=False, cancel_futures=True)
    gate.go.set()
    assert next(results) == 0
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)
    assert list(results) == [] and gate.begun == [0]


@BOTH
def test_results_are_let_go(pools: Any) -> None:
    class Thing:
        pass

    with pools(2) as pool:
        for thing in pool.map(lambda _: Thing(), range(10)):
            gone = weakref.ref(thing)
            del thing
            rig.until_sync(lambda gone=gone: gc.collect() is not None and gone() is None)


@BOTH
def test_a_cycle_is_collected(pools: Any) -> None:
    class Thing:
        results: Any

    with pools(1) as pool:
        thing = Thing()
        thing.results = pool.map(lambda _, thing=thing: thing, range(2))
        pool.submit(int).result()
        gone = weakref.ref(thing)
        del thing
        rig.until_sync(lambda: gc.collect() is not None and gone() is None)


def test_as_they_come() -> None:
    gate = Gate(0)
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(gate, range(5), ordered=False)
        assert sorted(itertools.islice(results, 4)) == [-4, -3, -2, -1]
        gate.go.set()
        assert list(results) == [0]

        def fails(number: int) -> int:
            raise KeyError(number)

        with pytest.raises(KeyError):
            list(pool.map(fails, range(3), ordered=False, buffersize=1))


def test_time_for_one_item() -> None:
    gate = Gate(3)
    with ThreadPoolExecutor(1) as pool:
        results = pool.map(gate, range(5), item_timeout=0.05, timeout=rig.PATIENCE)
        assert [next(results) for _ in range(3)] == [0, -1, -2]
        with pytest.raises(TimeoutError):
            next(results)
        gate.go.set()
        with pytest.raises(TypeError):
            gate.go.clear()
            next(pool.map(gate, [3], item_timeout="soon"))
        gate.go.set()


@BUFFERED
def test_one_at_a_time(pools: Any) -> None:
    results: Any = None

    def arguments() -> Any:
        yield 1
        with pytest.raises(ValueError, match="generator already executing"):
            next(results)
        yield 2

    with pools(1) as pool:
        results = pool.map(abs, arguments(), buffersize=1)
        assert list(results) == [1, 2]


@pytest.mark.parametrize("factory", rig.LOOPS)
def test_in_a_task(factory: Any) -> None:
    async def main() -> None:
        with ThreadPoolExecutor(2) as pool:
            assert [result async for result in pool.map(abs, range(-50, 0))] == list(range(50, 0, -1))
            assert [result async for result in pool.map(abs, range(5), buffersize=2)] == list(range(5))
            gate = Gate(1)
            results = pool.map(gate, range(9), item_timeout=0.02)
            assert await anext(results) == 0
            with pytest.raises(TimeoutError):
                await anext(results)
            assert [result async for result in results] == []
            gate.go.set()
            with pytest.raises(ZeroDivisionError):
                async for _ in pool.map(divmod, [1], [0]):
                    pass

    with rig.borrowed(factory) as loop:
        rig.run(loop, main())
