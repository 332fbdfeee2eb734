"""`ropewalk.queue` from tasks: the awaitable twins, between threads, tasks and loops."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import rig
from ropewalk import queue

KINDS = ["Queue", "LifoQueue", "PriorityQueue"]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Any:
    return getattr(queue, request.param)


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error).__name__, str(error)


async def waiting(q: Any, getting: int = 0, putting: int = 0, joining: int = 0) -> None:
    def counts() -> tuple[int, int, int]:
        found = q.statistics()
        return len(found.getting), len(found.putting), len(found.joining)

    await rig.until(lambda: counts() == (getting, putting, joining), "waiters")


def test_what_is_there_is_taken_without_a_turn_of_the_loop(loop: Any, make: Any) -> None:
    async def main() -> None:
        q = make(1)
        turned: list[int] = []
        asyncio.get_running_loop().call_soon(turned.append, 1)
        assert await q.put_async(1) is None
        assert await q.get_async() == 1
        q.task_done()
        assert await q.join_async() is None
        assert turned == []

    rig.run(loop, main())


def test_tasks_wait_for_one_another(loop: Any, make: Any) -> None:
    async def main() -> None:
        q = make(1)
        getter = asyncio.create_task(q.get_async())
        await waiting(q, getting=1)
        assert q.statistics().getting == (getter,)
        await q.put_async(1)
        assert await getter == 1
        await q.put_async(2)
        putter, joiner = asyncio.create_task(q.put_async(3)), asyncio.create_task(q.join_async())
        await waiting(q, putting=1, joining=1)
        assert (q.statistics().putting, q.statistics().joining) == ((putter,), (joiner,))
        assert await q.get_async() == 2
        await putter
        assert await q.get_async() == 3
        for _ in range(3):
            assert not joiner.done()
            q.task_done()
        await joiner
        await waiting(q)

    rig.run(loop, main())


def test_tasks_and_threads_wait_in_one_line(loop: Any, make: Any) -> None:
    served: list[str] = []

    async def main() -> None:
        q = make()

        def thread(name: str) -> None:
            q.get()
            served.append(name)

        async def task(name: str) -> None:
            await q.get_async()
            served.append(name)

        others: list[Any] = []
        for number in range(3):
            others.append(threading.Thread(target=thread, args=(f"thread {number}",)))
            others[-1].start()
            await waiting(q, getting=2 * number + 1)
            others.append(asyncio.create_task(task(f"task {number}")))
            await waiting(q, getting=2 * number + 2)
        for count in range(6):
            q.put(count)
            await rig.until(lambda: len(served) == count + 1)  # noqa: B023
        for other in others[::2]:
            other.join(rig.PATIENCE)

    rig.run(loop, main())
    assert served == [f"{kind} {number}" for number in range(3) for kind in ("thread", "task")]


ARGUMENTS: list[dict[str, Any]] = [
    {"block": False},
    {"block": 0, "timeout": -1},
    {"timeout": 0},
    {"timeout": 0.001},
    {"timeout": -1},
    {"timeout": "1"},
    {"timeout": 1e20},
    {"timeout": float("inf")},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_arguments_are_judged_like_a_threads(loop: Any, make: Any, arguments: dict[str, Any]) -> None:
    empty, full = make(), make(1)
    full.put(1)

    async def get(q: Any) -> Any:
        return await q.get_async(**arguments)

    async def put(q: Any) -> Any:
        return await q.put_async(2, **arguments)

    assert outcome(lambda: rig.run(loop, get(empty))) == outcome(lambda: empty.get(**arguments))
    assert outcome(lambda: rig.run(loop, put(full))) == outcome(lambda: full.put(2, **arguments))
    rig.run(loop, put(empty))
    assert empty.qsize() == 1
    assert full.statistics().putting == empty.statistics().getting == ()


@pytest.mark.parametrize("call", [lambda q: q.put_async(), lambda q: q.get_async(1, 2, 3), lambda q: q.join_async(1)])
def test_wrong_arguments_are_refused_at_once(make: Any, call: Any) -> None:
    with pytest.raises(TypeError):
        call(make())


def test_nothing_happens_before_a_call_is_awaited(loop: Any, make: Any) -> None:
    q = make()

    async def main() -> None:
        call = q.put_async(1)
        assert inspect.isawaitable(call)
        assert asyncio.iscoroutine(call)
        await asyncio.sleep(0)
        assert q.empty()
        await call
        assert q.qsize() == 1

    rig.run(loop, main())


@pytest.mark.filterwarnings("ignore:coroutine.*never awaited")
def test_a_call_that_is_not_awaited_does_nothing(loop: Any, make: Any) -> None:
    q = make()
    q.put(1)
    call = q.get_async()
    del call
    q.get_async().close()
    assert q.qsize() == 1


def test_asyncios_own_tools_work(loop: Any, make: Any) -> None:
    async def main() -> None:
        q = make()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(q.get_async(), 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await q.get_async()
        assert q.statistics().getting == ()
        results = await asyncio.gather(q.get_async(), q.get_async(), q.put_async(1), q.put_async(2))
        assert sorted(results[:2]) == [1, 2]
        done, _ = await asyncio.wait([asyncio.create_task(q.put_async(3))])
        assert len(done) == 1
        assert await asyncio.shield(q.get_async()) == 3

    rig.run(loop, main())


def test_a_cancelled_getter_takes_nothing_and_passes_its_wake_up_on(loop: Any, make: Any) -> None:
    async def main() -> None:
        q = make()
        first, second = (asyncio.create_task(q.get_async()) for _ in range(2))
        await waiting(q, getting=2)
        q.put(1)
        first.cancel()  # woken already, and has not run yet
        assert await second == 1
        with pytest.raises(asyncio.CancelledError):
            await first
        await waiting(q)

    rig.run(loop, main())


def test_a_cancelled_putter_puts_nothing_and_passes_its_wake_up_on(loop: Any, make: Any) -> None:
    async def main() -> None:
        q = make(1)
        q.put(0)
        first, second = (asyncio.create_task(q.put_async(number)) for number in (1, 2))
        await waiting(q, putting=2)
        assert q.get() == 0
        first.cancel()
        await second
        with pytest.raises(asyncio.CancelledError):
            await first
        assert q.get() == 2
        await waiting(q)

    rig.run(loop, main())


def test_a_cancelled_joiner_leaves_the_others(loop: Any, make: Any) -> None:
    async def main() -> None:
        q = make()
        q.put(1)
        first, second = (asyncio.create_task(q.join_async()) for _ in range(2))
        await waiting(q, joining=2)
        first.cancel()
        await asyncio.sleep(0)
        q.task_done()
        await second
        assert first.cancelled()

    rig.run(loop, main())


def test_a_held_mutex_does_not_block_the_loop(loop: Any, make: Any) -> None:
    """A thread holds the mutex: tasks wait for it, the loop goes on."""
    q = make(5)

    async def main() -> None:
        held, let_go = threading.Event(), threading.Event()

        def hold() -> None:
            with q.mutex:
                held.set()
                assert let_go.wait(rig.PATIENCE)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(rig.PATIENCE)
        putters = [asyncio.create_task(q.put_async(1)) for _ in range(2)]
        getter = asyncio.create_task(q.get_async())
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not any(task.done() for task in [*putters, getter])
        putters[0].cancel()
        let_go.set()
        await putters[1]
        assert await getter == 1
        thread.join()
        assert putters[0].cancelled()
        assert q.qsize() == 0
        assert not q.mutex.locked()

    rig.run(loop, main())


def test_the_conditions_wait_for_tasks_too(loop: Any, make: Any) -> None:
    q = make()

    async def look() -> int:
        async with q.not_empty:
            while not q.queue:
                await q.not_empty.wait_async()
            return len(q.queue)

    async def main() -> None:
        task = asyncio.create_task(look())
        await waiting(q, getting=1)
        q.put(1)
        assert await task == 1

    rig.run(loop, main())


def test_hooks_are_honoured(loop: Any) -> None:
    class Unique(queue.Queue):  # type: ignore[type-arg]
        def _init(self, maxsize: int) -> None:
            self.queue = set[Any]()  # type: ignore[assignment]

        def _put(self, item: Any) -> None:
            assert self.mutex.locked()
            self.queue.add(item)  # type: ignore[attr-defined]

        def _get(self) -> Any:
            return self.queue.pop()

    async def main() -> None:
        q = Unique(1)
        getters = [asyncio.create_task(q.get_async()) for _ in range(2)]
        await waiting(q, getting=2)
        await q.put_async("a")
        await q.put_async("b")
        assert sorted(await asyncio.gather(*getters)) == ["a", "b"]
        assert q.unfinished_tasks == 2

    rig.run(loop, main())


def test_an_exception_of_a_comparison_is_the_callers(loop: Any) -> None:
    async def main() -> None:
        q = queue.PriorityQueue[Any]()
        await q.put_async(1)
        with pytest.raises(TypeError, match="not supported"):
            await q.put_async("a")
        assert not q.mutex.locked()

    rig.run(loop, main())


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_ends_every_wait(loop: Any, make: Any, immediate: bool) -> None:
    async def main() -> None:
        q = make(1)
        getters = [asyncio.create_task(q.get_async()) for _ in range(3)]
        await waiting(q, getting=3)
        q.shutdown(immediate)
        for getter in getters:
            with pytest.raises(queue.ShutDown):
                await getter
        with pytest.raises(queue.ShutDown):
            await q.put_async(1)
        q = make(1)
        q.put(1)
        putter, joiner = asyncio.create_task(q.put_async(2)), asyncio.create_task(q.join_async())
        await waiting(q, putting=1, joining=1)
        q.shutdown(immediate)
        with pytest.raises(queue.ShutDown):
            await putter
        if not immediate:
            assert await q.get_async() == 1
            q.task_done()
        await joiner

    rig.run(loop, main())


@pytest.mark.parametrize("maxsize", [0, 1, 7])
def test_threads_and_loops_share_a_queue(make: Any, maxsize: int) -> None:
    """Producers and consumers of every kind, two loops: every item arrives once."""
    q = make(maxsize)
    each = 300
    got: list[int] = []
    numbers = itertools.count()
    stop = 10**9

    def produce() -> None:
        for _ in range(each):
            q.put(next(numbers))

    def consume() -> None:
        while (item := q.get()) < stop:
            got.append(item)
            q.task_done()
        q.task_done()

    async def produce_async() -> None:
        for _ in range(each):
            await q.put_async(next(numbers))

    async def consume_async() -> None:
        while (item := await q.get_async()) < stop:
            got.append(item)
            q.task_done()
        q.task_done()

    async def both() -> None:
        await asyncio.gather(produce_async(), produce_async(), consume_async(), consume_async())

    def in_loop(factory: Callable[[], Any]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(both())

    factories: list[Any] = [parameter.values[0] for parameter in rig.LOOPS]
    threads = [threading.Thread(target=target) for target in (produce, produce, consume, consume)]
    threads += [threading.Thread(target=in_loop, args=(factory,)) for factory in factories]
    for thread in threads:
        thread.start()
    rig.until_sync(lambda: len(got) == 6 * each)
    q.join()
    for _ in range(6):
        q.put(stop)
    for thread in threads:
        thread.join(rig.PATIENCE)
        assert not thread.is_alive()
    assert sorted(got) == list(range(6 * each))
    q.join()
