"""`ropewalk.install` and `ropewalk run` put ropewalk's own in the standard library's place, and take it out again.

In programs of their own, for they change the process. What stands where is the faces' to say; these tests hold for
whatever `ropewalk.installed()` lists.
"""

from __future__ import annotations

import importlib.util
import sys
import textwrap

import pytest
import rig

RUN = ("-m", "ropewalk", "run")

# What every program below starts with: the modules, and how they are now.
SNAPSHOT = """
import asyncio, asyncio.streams, concurrent.futures, concurrent.futures.thread, importlib, queue, sys, threading
import ropewalk
concurrent.futures.ThreadPoolExecutor, concurrent.futures.wait  # not on demand any more
modules = [asyncio, asyncio.streams, concurrent.futures, concurrent.futures._base, concurrent.futures.thread, queue, threading]
def look(): return {module.__name__: dict(vars(module)) for module in modules}
before = look()
def as_before():
    for module in modules:
        for name, value in before[module.__name__].items():
            assert vars(module)[name] is value, (module, name)
"""


def program(code: str, *flags: str) -> str:
    """Run a program that begins with `SNAPSHOT`; what it prints."""
    return rig.script(SNAPSHOT + textwrap.dedent(code), flags=flags).stdout


# --- The call --------------------------------------------------------------------------------------------


def test_it_says_what_stands_in_whose_place() -> None:
    said = program(
        """
        assert ropewalk.installed() == []
        found = ropewalk.install()
        assert {one.system for one in found} == {"asyncio", "threading", "queue", "concurrent.futures"}
        for one in found:
            assert isinstance(one, ropewalk.Replacement)
            assert one.ours is not one.original
            owner, _, name = one.place.rpartition(".")
            if owner in sys.modules:
                assert getattr(sys.modules[owner], name) is one.ours, one
            assert str(one).startswith(one.place + ": ropewalk."), one
            assert str(one) in repr(one)
        assert list(map(str, found)) == list(map(str, ropewalk.installed()))
        print(*found, sep="\\n")
        """
    )
    assert "threading.Condition: ropewalk.threading" in said
    assert "queue.Queue: ropewalk.queue" in said
    assert "asyncio.StreamReader: ropewalk.asyncio" in said
    assert "concurrent.futures.thread.ThreadPoolExecutor: ropewalk.futures" in said


def test_uninstall_leaves_nothing_behind() -> None:
    program(
        """
        for turn in range(2):
            ropewalk.install()
            ropewalk.install()  # again is no error
            assert look() != before
            pool = concurrent.futures.ThreadPoolExecutor  # which the package fetches on demand, and keeps
            ropewalk.uninstall()
            ropewalk.uninstall()
            assert ropewalk.installed() == []
            as_before()
            assert concurrent.futures.ThreadPoolExecutor is concurrent.futures.thread.ThreadPoolExecutor is not pool
        """
    )


def test_some_systems_only() -> None:
    program(
        """
        assert {one.system for one in ropewalk.install("queue", "threading")} == {"queue", "threading"}
        assert vars(asyncio) == before["asyncio"]
        ropewalk.uninstall("threading")
        assert vars(threading) == before["threading"]
        assert {one.system for one in ropewalk.installed()} == {"queue"}
        assert {one.system for one in ropewalk.install("asyncio")} == {"queue", "asyncio"}
        ropewalk.uninstall()
        for call in (ropewalk.install, ropewalk.uninstall):
            try:
                call("queue", "ques")
            except ValueError as error:
                assert "'ques'" in str(error) and "'queue'" in str(error), error
            else:
                raise AssertionError
        assert ropewalk.installed() == []  # a call that names one wrongly does nothing
        """
    )


def test_a_system_alone_does_not_import_the_others() -> None:
    rig.script(
        """
        import sys, ropewalk
        ropewalk.install("threading")
        assert not {"asyncio", "concurrent.futures", "queue", "typing", "inspect"} & sys.modules.keys()
        """
    )


def test_many_threads_install_and_uninstall() -> None:
    program(
        """
        gate = threading.Barrier(8)
        def flip():
            gate.wait()
            for _ in range(50):
                ropewalk.install()
                ropewalk.uninstall()
        threads = [threading.Thread(target=flip) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert ropewalk.installed() == []
        as_before()
        """
    )


def test_what_the_program_replaces_afterwards_is_its_own() -> None:
    program(
        """
        ropewalk.install()
        class Mine(queue.Queue): pass
        queue.Queue = Mine
        assert "queue.Queue" not in [one.place for one in ropewalk.installed()]
        ropewalk.uninstall()
        assert queue.Queue is Mine
        """
    )


# --- What was there before -------------------------------------------------------------------------------

# An object of each class that has one without arguments, or with these.
ARGUMENTS = "{'Barrier': (2,), 'Timer': (1, print), 'ThreadPoolExecutor': (1,), 'InterpreterPoolExecutor': (1,)}"


def test_isinstance_knows_the_objects_and_classes_of_before_and_after() -> None:
    program(
        f"""
        arguments = {ARGUMENTS}
        originals = {{}}
        for module in (threading, queue, concurrent.futures._base, concurrent.futures.thread):
            for name, value in list(vars(module).items()):
                if isinstance(value, type) and not issubclass(value, BaseException):
                    originals[module.__name__, name] = value
        ropewalk.install()
        seen = 0
        for (module, name), original in originals.items():
            now = getattr(sys.modules[module], name)
            if now is original or not now.__flags__ & 1 << 10:  # a final class, as the lock's, cannot be told apart
                continue
            seen += 1
            assert issubclass(original, now) and issubclass(now, now), name
            for cls in (original, now):
                assert isinstance(cls(*arguments.get(name, ())), now), (name, cls)
            try:
                class Derived(original): pass
            except TypeError:  # a final class
                pass
            else:
                assert issubclass(Derived, now) and isinstance(Derived(*arguments.get(name, ())), now), name
            class After(now): pass
            made = After(*arguments.get(name, ()))
            assert isinstance(made, After) and isinstance(made, now) and issubclass(After, now)
            assert not isinstance(now(*arguments.get(name, ())), After)
            assert not issubclass(now, After) and not isinstance(5, now)
            assert now.__name__ == original.__name__ and now.__doc__
        assert seen >= 10, seen
        """
    )


def test_a_class_of_before_that_calls_its_base_by_name() -> None:
    program(
        """
        class Lines(queue.Queue):
            def __init__(self):
                queue.Queue.__init__(self, 3)
            def _put(self, item):
                queue.Queue._put(self, item + 1)
        class Flag(threading.Event):
            def __init__(self):
                threading.Event.__init__(self)
            def set(self):
                threading.Event.set(self)
                self.told = True
        class Work(threading.Thread):
            def __init__(self):
                threading.Thread.__init__(self, name="work")
        class Promise(concurrent.futures.Future):
            def __init__(self):
                concurrent.futures.Future.__init__(self)
        bounded = threading.BoundedSemaphore
        ropewalk.install()
        for kind in (Lines, type("LinesOfAfter", (queue.Queue,), dict(vars(Lines)))):
            lines = kind()
            lines.put(1)
            assert lines.get() == 2 and lines.maxsize == 3
        flag, promise, work = Flag(), Promise(), Work()
        flag.set()
        assert flag.wait(0) and flag.told and work.name == "work"
        promise.set_result(1)
        assert promise.result() == 1
        assert bounded(2).acquire()
        event = threading.Event()
        threading.Event.set(event)
        assert threading.Event.is_set(event) and event.is_set()
        """
    )


def test_a_class_may_derive_from_an_abstract_one_as_well() -> None:
    program(
        """
        import abc
        ropewalk.install()
        class Source(abc.ABC):
            @abc.abstractmethod
            def name(self): ...
        class Both(queue.Queue, Source):
            def name(self): return "both"
        both = Both()
        both.put(1)
        assert both.get() == 1 and both.name() == "both" and isinstance(both, queue.Queue) and isinstance(both, Source)
        """
    )


def test_classes_are_pickled_by_the_names_that_they_have_without_ropewalk() -> None:
    program(
        """
        import copy, pickle
        names = [(threading, "Event"), (queue, "Queue"), (concurrent.futures, "Future"), (asyncio, "Queue")]
        ropewalk.install()
        for module, name in names:
            cls = getattr(module, name)
            assert copy.copy(cls) is cls
            assert pickle.loads(pickle.dumps(cls)) is cls
        kept = pickle.dumps([queue.Queue, threading.Event])
        ropewalk.uninstall()
        assert pickle.loads(kept) == [queue.Queue, threading.Event]
        """
    )


def test_asyncio_takes_futures_and_pools_of_before() -> None:
    program(
        """
        future = concurrent.futures.Future()
        pool = concurrent.futures.ThreadPoolExecutor(1)
        waiting = pool.submit(pow, 2, 5)
        ropewalk.install()
        async def main():
            assert await asyncio.wrap_future(waiting) == 32
            future.set_result(7)
            assert await asyncio.wrap_future(future) == 7
            asyncio.get_running_loop().set_default_executor(pool)
            assert await asyncio.to_thread(pow, 2, 3) == 8
            assert concurrent.futures.wait([waiting, future]).not_done == set()
        asyncio.run(main())
        """
    )


# --- Who uses them ---------------------------------------------------------------------------------------

USERS = {
    "threads": """
        import threading
        ready = threading.Condition()
        def work():
            with ready: ready.notify()
        thread = threading.Thread(target=work)
        with ready:
            thread.start()
            assert ready.wait(30)
        thread.join()
        assert not thread.is_alive() and isinstance(threading.current_thread(), threading.Thread)
        assert isinstance(threading.main_thread(), threading.Thread) and isinstance(thread, threading.Thread)
        fired = threading.Event()
        timer = threading.Timer(0.001, fired.set)
        timer.start()
        assert fired.wait(30)
        timer.join()
    """,
    "fork": """
        import os, threading, warnings
        warnings.simplefilter("ignore")
        go = threading.Event()
        thread = threading.Thread(target=go.wait)
        thread.start()
        child = os.fork()
        if not child:
            assert threading.active_count() == 1 and not thread.is_alive()
            other = threading.Thread(target=lambda: None)
            other.start()
            other.join()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        go.set()
        thread.join()
    """,
    "logging": """
        import logging, logging.config, logging.handlers, queue
        lines = queue.Queue()
        handler = logging.handlers.QueueHandler(lines)
        listener = logging.handlers.QueueListener(lines, logging.StreamHandler())
        listener.start()
        logging.getLogger("a").addHandler(handler)
        logging.getLogger("a").error("heard")
        listener.stop()
    """,
    "multiprocessing.pool": """
        import multiprocessing.pool
        with multiprocessing.pool.ThreadPool(2) as pool:
            assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
            assert sorted(pool.imap_unordered(abs, [-1, -2])) == [1, 2]
    """,
    "multiprocessing.dummy": """
        import multiprocessing.dummy as dummy
        lines, seen = dummy.Queue(), dummy.Event()
        process = dummy.Process(target=lambda: (lines.put(1), seen.set()))
        process.start()
        assert lines.get(timeout=30) == 1 and seen.wait(30)
        process.join()
    """,
    "multiprocessing": """
        import multiprocessing
        multiprocessing.set_start_method("fork")
        lines = multiprocessing.Queue()
        child = multiprocessing.Process(target=lines.put, args=(5,))
        child.start()
        assert lines.get(timeout=30) == 5
        child.join()
    """,
    "concurrent.futures": """
        from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, as_completed, wait
        with ThreadPoolExecutor(2) as pool:
            found = [pool.submit(pow, 2, n) for n in range(5)]
            assert sorted(future.result() for future in as_completed(found, timeout=30)) == [1, 2, 4, 8, 16]
            assert len(wait(found, return_when=FIRST_COMPLETED).done) == 5
            assert list(pool.map(abs, [-1, -2])) == [1, 2]
    """,
    "process pool": """
        import multiprocessing
        from concurrent.futures import Future, ProcessPoolExecutor
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            future = pool.submit(pow, 2, 3)
            assert isinstance(future, Future) and future.result(30) == 8
    """,
    "asyncio": """
        import asyncio, concurrent.futures
        async def main():
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(None, pow, 2, 3) == 8
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                assert await loop.run_in_executor(pool, pow, 2, 4) == 16
            future = asyncio.run_coroutine_threadsafe(asyncio.sleep(0, 5), loop)
            assert isinstance(future, concurrent.futures.Future)
            assert await asyncio.wrap_future(future) == 5
        asyncio.run(main())
    """,
    "subprocess, importlib, mock, socketserver": """
        import importlib, importlib.util, socketserver, subprocess, sys, threading, unittest.mock
        subprocess.run([sys.executable, "-c", ""], check=True, capture_output=True)
        module = importlib.util.module_from_spec(importlib.util.find_spec("colorsys"))
        importlib.util.LazyLoader(module.__loader__).exec_module(module)
        assert module.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
        assert unittest.mock.create_autospec(threading.Event)().is_set() is not None
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            server.shutdown()
            thread.join()
    """,
}


@pytest.mark.parametrize("code", USERS.values(), ids=USERS)
@pytest.mark.parametrize("way", ["install", "install before", "run"])
def test_those_who_use_them_go_on(code: str, way: str) -> None:
    code = textwrap.dedent(code)
    if way == "install":  # after everybody has imported them
        code = f"{SNAPSHOT}\nimport logging, multiprocessing\nropewalk.install()\n{code}"
    elif way == "install before":
        code = f"import ropewalk\nropewalk.install()\n{code}"
    rig.script(code, flags=RUN if way == "run" else ())


# --- ropewalk run ----------------------------------------------------------------------------------------


def test_run_imports_nothing_that_the_program_does_not() -> None:
    said = rig.script("import sys; print(*sorted(sys.modules))", flags=RUN).stdout.split()
    plain = rig.script("import sys; print(*sorted(sys.modules))").stdout.split()
    more = {name for name in set(said) - set(plain) if not name.startswith("ropewalk")}
    assert more <= {"__future__", "sitecustomize"}
    assert "ropewalk._core" not in said and "ropewalk._replace" not in said


@pytest.mark.parametrize(
    ("module", "systems"),
    [
        ("threading", {"threading"}),
        ("queue", {"threading", "queue"}),
        ("asyncio", {"threading", "concurrent.futures", "asyncio"}),
    ],
)
def test_run_puts_each_in_place_as_it_is_imported(module: str, systems: set[str]) -> None:
    said = rig.script(
        f"import {module}, ropewalk; print(*sorted({{one.system for one in ropewalk.installed()}}), sep='\\n')",
        flags=RUN,
    ).stdout.split("\n")
    # The core may need a module of the program's earlier than the program does.
    assert systems <= set(filter(None, said))
    if module == "threading":
        assert set(filter(None, said)) == systems


def test_run_needs_no_stand_ins() -> None:
    rig.script(
        """
        import threading, queue, concurrent.futures
        import ropewalk.threading, ropewalk.queue, ropewalk.futures
        assert threading.Condition is ropewalk.threading.Condition
        assert queue.Queue is ropewalk.queue.Queue
        assert concurrent.futures.Future is ropewalk.futures.Future
        class Meta(type): pass
        class Mine(queue.Queue, metaclass=Meta): pass
        """,
        flags=RUN,
    )


def test_run_keeps_pools_on_demand() -> None:
    rig.script(
        """
        import sys, concurrent.futures
        assert not isinstance(vars(concurrent.futures).get("ThreadPoolExecutor"), type)
        assert "concurrent.futures.process" not in sys.modules
        assert "ThreadPoolExecutor" in dir(concurrent.futures)
        assert concurrent.futures.ThreadPoolExecutor.__module__.startswith("ropewalk")
        import ropewalk
        ropewalk.uninstall()
        assert concurrent.futures.ThreadPoolExecutor.__module__ == "concurrent.futures.thread"
        assert concurrent.futures.thread.ThreadPoolExecutor.__module__ == "concurrent.futures.thread"
        """,
        flags=RUN,
    )


@pytest.mark.skipif(sys.version_info < (3, 14), reason="new in Python 3.14")
def test_run_and_a_pool_of_interpreters() -> None:
    rig.script(
        """
        import concurrent.futures, ropewalk
        concurrent.futures.ThreadPoolExecutor  # the original's pool of interpreters derives from the original of this
        with concurrent.futures.InterpreterPoolExecutor(1) as pool:
            assert pool.submit(pow, 2, 3).result() == 8
        ours = concurrent.futures.InterpreterPoolExecutor
        assert ours.__module__ == "ropewalk.futures"
        assert concurrent.futures.interpreter.InterpreterPoolExecutor is ours
        ropewalk.uninstall()
        original = concurrent.futures.InterpreterPoolExecutor
        assert original.__mro__[1] is concurrent.futures.ThreadPoolExecutor
        assert original.__mro__[1].__module__ == "concurrent.futures.thread"
        """,
        flags=RUN,
    )


@pytest.mark.parametrize("face", ["asyncio", "threading", "queue", "futures"])
def test_run_and_a_program_that_imports_the_face_first(face: str) -> None:
    rig.script(
        f"""
        import ropewalk.{face}
        import asyncio, concurrent.futures, queue, threading
        import ropewalk
        assert len({{one.system for one in ropewalk.installed()}}) == 4, ropewalk.installed()
        assert threading.Event is not None
        """,
        flags=RUN,
    )


def test_run_and_uninstall_before_the_import() -> None:
    rig.script(
        """
        import ropewalk
        ropewalk.uninstall()
        import asyncio, concurrent.futures.thread, queue, threading
        assert ropewalk.installed() == []
        ropewalk.install("queue")
        assert {one.system for one in ropewalk.installed()} == {"queue"}
        """,
        flags=RUN,
    )


def test_run_and_a_programs_own_queue_module(tmp_path: object) -> None:
    rig.script(
        f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        with open({str(tmp_path)!r} + "/queue.py", "w") as file: file.write("class Queue: pass")
        import queue
        assert queue.Queue.__module__ == "queue" and queue.Queue.__mro__ == (queue.Queue, object)
        """,
        flags=RUN,
    )


# --- gevent ----------------------------------------------------------------------------------------------

GREENLETS = """
import gevent, queue, threading
line, order = queue.Queue(), []
def take(): order.append(line.get(timeout=30))
def give():
    order.append("give")
    line.put("taken")
gevent.joinall([gevent.spawn(take), gevent.spawn(give)], timeout=60)
assert order == ["give", "taken"], order
event = threading.Event()
gevent.spawn_later(0.001, event.set)
assert event.wait(30)
import ropewalk
assert {one.system for one in ropewalk.installed()} <= {"asyncio"}
"""


@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")
@pytest.mark.parametrize("way", ["run", "before", "after"])
def test_threads_are_gevents_when_it_takes_them(way: str) -> None:
    patch = "from gevent import monkey; monkey.patch_all()\n"
    install = "import ropewalk; ropewalk.install()\n"
    code = {"run": patch, "before": install + patch, "after": patch + install}[way]
    rig.script(code + GREENLETS, flags=RUN if way == "run" else ())
