"""Ways to get the loop: `run`, `Runner`, `install`, a policy, a factory."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import warnings
from typing import Any

import pytest
import rig
import ropewalk
import ropewalk.asyncio


async def kind() -> type:
    return type(asyncio.get_running_loop())


def test_run() -> None:
    assert ropewalk.run(kind()) is ropewalk.asyncio.EventLoop
    assert asyncio._get_running_loop() is None


def test_run_returns_and_raises_what_main_does() -> None:
    async def give() -> list[int]:
        return [1]

    async def fail() -> None:
        raise KeyError("x")

    assert ropewalk.run(give()) == [1]
    with pytest.raises(KeyError, match="x"):
        ropewalk.run(fail())


def test_run_takes_a_factory_and_debug() -> None:
    async def look() -> tuple[bool, type]:
        loop = asyncio.get_running_loop()
        return loop.get_debug(), type(loop)

    assert ropewalk.run(look(), debug=True) == (True, ropewalk.asyncio.EventLoop)
    assert ropewalk.run(look(), debug=False, loop_factory=asyncio.SelectorEventLoop) == (
        False,
        asyncio.SelectorEventLoop,
    )


def test_run_refuses_inside_a_loop() -> None:
    async def main() -> None:
        coro = kind()
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            ropewalk.run(coro)
        coro.close()

    ropewalk.run(main())


@pytest.mark.parametrize("thing", [5, None, lambda: None], ids=["int", "None", "function"])
def test_run_refuses_what_is_no_coroutine_as_asyncio_does(thing: Any) -> None:
    def refusal(run: Any) -> tuple[type, str]:
        with pytest.raises((TypeError, ValueError)) as caught:
            run(thing)
        return caught.type, str(caught.value)

    assert refusal(ropewalk.run) == refusal(asyncio.run)


def test_run_cancels_what_main_leaves_and_shuts_generators_down() -> None:
    heard: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    async def numbers() -> Any:
        try:
            yield 1
        finally:
            heard.append("closed")

    async def main() -> None:
        tasks.append(asyncio.create_task(background()))
        generator = numbers()
        tasks.append(generator)
        await anext(generator)

    tasks: list[Any] = []
    ropewalk.run(main())
    assert sorted(heard) == ["cancelled", "closed"]


def test_runner() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    async def count() -> int:
        variable.set(variable.get() + 1)
        return variable.get()

    with ropewalk.asyncio.Runner(debug=True) as runner:
        assert isinstance(runner.get_loop(), ropewalk.asyncio.EventLoop)
        assert [runner.run(count()) for _ in range(3)] == [1, 2, 3]
        assert runner.get_loop().get_debug()
    assert isinstance(runner, asyncio.Runner)
    with pytest.raises(RuntimeError, match="closed"):
        runner.get_loop()


def test_new_event_loop_is_a_loop_factory() -> None:
    with asyncio.Runner(loop_factory=ropewalk.new_event_loop) as runner:
        assert runner.run(kind()) is ropewalk.asyncio.EventLoop
    with asyncio.Runner(loop_factory=ropewalk.asyncio.EventLoop) as runner:
        assert runner.run(kind()) is ropewalk.asyncio.EventLoop


def test_isinstance() -> None:
    loop = ropewalk.new_event_loop()
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert isinstance(loop, asyncio.BaseEventLoop)
    assert isinstance(loop, asyncio.SelectorEventLoop)
    loop.close()


def test_the_module_is_asyncio_and_more() -> None:
    for name in asyncio.__all__:
        assert hasattr(ropewalk.asyncio, name), name
        ours = getattr(ropewalk.asyncio, name)
        if not getattr(ours, "__module__", "").startswith("ropewalk"):
            assert ours is getattr(asyncio, name)
    with pytest.raises(AttributeError, match="no_such_name"):
        ropewalk.asyncio.no_such_name  # noqa: B018


# install ---------------------------------------------------------------------------------------------------------
# In programs of their own, for they change the process.


def test_install_and_uninstall() -> None:
    done = rig.script(
        """
        import asyncio, sys, warnings
        warnings.simplefilter("ignore")
        import ropewalk
        from ropewalk.asyncio import EventLoop as Ours
        async def kind(): return type(asyncio.get_running_loop())
        def kinds():
            found = [asyncio.run(kind())]
            with asyncio.Runner() as runner:
                found.append(runner.run(kind()))
            loop = asyncio.new_event_loop()
            found.append(type(loop))
            loop.close()
            loop = asyncio.SelectorEventLoop()
            found.append(type(loop))
            loop.close()
            if sys.version_info >= (3, 13):
                loop = asyncio.EventLoop()
                found.append(type(loop))
                loop.close()
            loop = asyncio.get_event_loop_policy().new_event_loop()
            found.append(type(loop))
            loop.close()
            return [issubclass(kind, Ours) for kind in found]
        names = (asyncio.SelectorEventLoop, getattr(asyncio, "EventLoop", None), asyncio.new_event_loop, asyncio.run)
        assert not any(kinds())
        for _ in range(2):
            ropewalk.install()
            assert all(kinds()), kinds()
            ropewalk.install()  # again is no error
            assert all(kinds())
            ropewalk.uninstall()
            assert not any(kinds()), kinds()
            ropewalk.uninstall()
            assert not any(kinds())
        after = (asyncio.SelectorEventLoop, getattr(asyncio, "EventLoop", None), asyncio.new_event_loop, asyncio.run)
        assert names == after
        print("well")
        """
    )
    assert done.stdout == "well\n"


def test_install_gives_no_warning() -> None:
    done = rig.script(
        """
        import asyncio, ropewalk
        ropewalk.install()
        async def main(): await asyncio.sleep(0)
        asyncio.run(main())
        ropewalk.uninstall()
        asyncio.run(main())
        print("well")
        """,
        flags=("-W", "error"),
    )
    assert (done.stdout, done.stderr) == ("well\n", "")


def test_installed_a_loop_with_a_selector_of_the_programs_is_the_original() -> None:
    done = rig.script(
        """
        import asyncio, selectors, ropewalk
        ropewalk.install()
        from ropewalk.asyncio import EventLoop
        selector = selectors.SelectSelector()
        loop = asyncio.SelectorEventLoop(selector)
        assert not isinstance(loop, EventLoop) and loop._selector is selector
        loop.close()
        class Mine(asyncio.SelectorEventLoop):
            def time(self): return 7.0
        loop = Mine()
        assert isinstance(loop, EventLoop) and loop.time() == 7.0
        loop.close()
        print("well")
        """
    )
    assert done.stdout == "well\n"


def test_installed_with_a_foreign_policy_set_before() -> None:
    done = rig.script(
        """
        import asyncio, warnings
        warnings.simplefilter("ignore")
        import ropewalk
        from ropewalk.asyncio import EventLoop
        class Foreign(asyncio.AbstractEventLoopPolicy):
            def new_event_loop(self): return loops.pop()
            def get_event_loop(self): raise RuntimeError
            def set_event_loop(self, loop): pass
        loops = [asyncio.SelectorEventLoop() for _ in range(2)]
        kept = list(loops)
        async def which(): return asyncio.get_running_loop()
        foreign = Foreign()
        asyncio.set_event_loop_policy(foreign)
        assert asyncio.run(which()) in kept
        ropewalk.install()
        assert isinstance(asyncio.run(which()), EventLoop)
        ropewalk.uninstall()
        assert asyncio.get_event_loop_policy() is foreign
        assert asyncio.run(which()) in kept
        print("well")
        """
    )
    assert done.stdout == "well\n"


def test_installed_a_policy_that_the_program_sets_later_stays_after_uninstall() -> None:
    done = rig.script(
        """
        import asyncio, warnings
        warnings.simplefilter("ignore")
        import ropewalk
        ropewalk.install()
        mine = asyncio.DefaultEventLoopPolicy()
        asyncio.set_event_loop_policy(mine)
        from ropewalk.asyncio import EventLoop
        async def which(): return asyncio.get_running_loop()
        assert isinstance(asyncio.run(which()), EventLoop)
        asyncio.set_event_loop_policy(None)  # the default one is still ours
        assert isinstance(asyncio.run(which()), EventLoop)
        asyncio.set_event_loop_policy(mine)
        ropewalk.uninstall()
        assert asyncio.get_event_loop_policy() is mine
        assert not isinstance(asyncio.run(which()), EventLoop)
        print("well")
        """
    )
    assert done.stdout == "well\n"


def test_install_from_many_threads() -> None:
    done = rig.script(
        """
        import asyncio, threading
        import ropewalk, ropewalk.asyncio
        original = asyncio.SelectorEventLoop
        start = threading.Barrier(8)
        def flip(number):
            start.wait()
            for _ in range(200):
                ropewalk.install()
                ropewalk.uninstall()
        threads = [threading.Thread(target=flip, args=(i,)) for i in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert asyncio.SelectorEventLoop is original
        loop = asyncio.new_event_loop()
        assert type(loop) is original
        loop.close()
        print("well")
        """
    )
    assert done.stdout == "well\n"


def test_a_loop_from_before_uninstall_goes_on() -> None:
    done = rig.script(
        """
        import asyncio, ropewalk
        ropewalk.install()
        loop = asyncio.new_event_loop()
        ropewalk.uninstall()
        assert loop.run_until_complete(asyncio.sleep(0.001, 5)) == 5
        loop.close()
        print("well")
        """
    )
    assert done.stdout == "well\n"


def test_the_policy() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        policy = ropewalk.asyncio.EventLoopPolicy()
        assert isinstance(policy, asyncio.AbstractEventLoopPolicy)
        loop = policy.new_event_loop()
        assert isinstance(loop, ropewalk.asyncio.EventLoop)
        policy.set_event_loop(loop)
        assert policy.get_event_loop() is loop
        policy.set_event_loop(None)
        loop.close()


def test_the_policy_set_in_a_program() -> None:
    done = rig.script(
        """
        import asyncio, warnings
        warnings.simplefilter("ignore")
        from ropewalk.asyncio import EventLoop, EventLoopPolicy
        asyncio.set_event_loop_policy(EventLoopPolicy())
        async def which(): return asyncio.get_running_loop()
        assert isinstance(asyncio.run(which()), EventLoop)
        print("well")
        """
    )
    assert done.stdout == "well\n"


def test_get_event_loop_in_a_program_that_installs() -> None:
    done = rig.script(
        """
        import asyncio, sys, warnings
        import ropewalk
        from ropewalk.asyncio import EventLoop
        ropewalk.install()
        warnings.simplefilter("ignore")
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:
            assert sys.version_info >= (3, 14)  # as asyncio's own answers there
        else:
            assert isinstance(loop, EventLoop)
            assert asyncio.get_event_loop() is loop
            loop.close()
        print("well")
        """
    )
    assert done.stdout == "well\n"


def test_importing_the_package_imports_little() -> None:
    done = rig.script(
        """
        import sys
        import ropewalk
        assert "asyncio" not in sys.modules and "ropewalk._core" not in sys.modules
        try:
            ropewalk.nothing
        except AttributeError as error:
            print(error)
        assert ropewalk.__version__.count(".") >= 1
        """
    )
    assert done.stdout == "module 'ropewalk' has no attribute 'nothing'\n"


def test_in_a_thread() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ropewalk.run(kind())))
    thread.start()
    thread.join(rig.PATIENCE)
    assert found == [ropewalk.asyncio.EventLoop]


def test_eager_tasks() -> None:
    if sys.version_info < (3, 12):
        assert not hasattr(asyncio, "eager_task_factory")
        return

    async def main() -> list[str]:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        order: list[str] = []

        async def work() -> None:
            order.append("started")
            await asyncio.sleep(0)
            order.append("ended")

        task = asyncio.create_task(work())
        order.append("created")
        await task
        return order

    assert ropewalk.run(main()) == ["started", "created", "ended"]
