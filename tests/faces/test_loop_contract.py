"""The documented surface of an event loop, each piece of it done on asyncio's loop and on ours: the outcomes are equal.

An outcome is what a scenario returns, or the exception that it raises, with its words. What a feature promises beyond
that is in the files named after features.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import rig
import ropewalk

Scenario = Callable[[], Any]


def outcome(factory: Any, scenario: Any) -> Any:
    """What the scenario comes to on a loop of this kind."""
    with rig.borrowed(factory) as loop:
        try:
            result = ("returned", rig.run(loop, scenario()))
        except Exception as error:
            result = ("raised", describe(error))
        reports = [(report["message"], describe(report.get("exception"))) for report in loop.reports]
    return *result, reports


def describe(error: BaseException | None) -> Any:
    if isinstance(error, ExceptionGroup):
        return type(error).__name__, [describe(each) for each in error.exceptions]
    return type(error).__name__, str(error)


def same(scenario: Any, *args: Any) -> Any:
    """Hold both loops to the same outcome, and return it."""
    theirs, ours = (outcome(kind, functools.partial(scenario, *args)) for kind in (asyncio.SelectorEventLoop, new))
    assert ours == theirs
    return ours


new = ropewalk.new_event_loop


class Quiet(asyncio.Protocol):
    """Says `hello` and hangs up when spoken to."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"hello")
        self.transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


async def greet(**options: Any) -> bytes:
    reader, writer = await asyncio.open_connection(**options)
    writer.write(b"x")
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


# The surface -----------------------------------------------------------------------------------------------------------


def test_every_method_is_there_with_asyncios_parameters() -> None:
    """Whatever asyncio's loop has that is public, ours has, and it is called the same way."""
    theirs, ours = asyncio.SelectorEventLoop(), new()
    try:
        for name in dir(asyncio.SelectorEventLoop):
            if name.startswith("_"):
                continue
            wanted, found = getattr(theirs, name), getattr(ours, name)
            if not callable(wanted):
                assert found == wanted, name
                continue
            assert inspect.iscoroutinefunction(found) == inspect.iscoroutinefunction(wanted), name
            if name == "create_task" and sys.version_info < (3, 14):
                continue  # the keywords by name there, as **kwargs here
            wanted_parameters, found_parameters = (
                [(each.name, each.kind, each.default) for each in inspect.signature(method).parameters.values()]
                for method in (wanted, found)
            )
            if name not in ("call_soon", "call_soon_threadsafe", "call_later", "call_at"):
                assert found_parameters == wanted_parameters, name
            else:  # callback is positional only in Rust's signature, as in use
                assert [each[0] for each in found_parameters] == [each[0] for each in wanted_parameters], name
    finally:
        theirs.close()
        ours.close()


def test_nothing_of_the_abstract_loop_is_left_unimplemented() -> None:
    for name, method in vars(asyncio.AbstractEventLoop).items():
        if callable(method) and not name.startswith("__") and name != "_timer_handle_cancelled":
            assert getattr(ropewalk.asyncio.EventLoop, name) is not method, name


# Servers ---------------------------------------------------------------------------------------------------------------

SERVERS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "a family": {"family": socket.AF_INET},
    "flags": {"flags": socket.AI_PASSIVE | socket.AI_NUMERICHOST},
    "a backlog": {"backlog": 1},
    "reuse_address": {"reuse_address": True},
    "no reuse_address": {"reuse_address": False},
    "reuse_port": {"reuse_port": True},
    "not serving yet": {"start_serving": False},
    "keep_alive": {"keep_alive": True},
    "a timeout without TLS": {"ssl_handshake_timeout": 1},
    "another timeout without TLS": {"ssl_shutdown_timeout": 1},
    "ssl that is true": {"ssl": True},
    "an unknown argument": {"colour": "red"},
    "a family that the address has not": {"family": socket.AF_INET6},
}


@pytest.mark.parametrize("options", SERVERS.values(), ids=SERVERS)
def test_create_server(options: dict[str, Any]) -> None:
    async def scenario() -> Any:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Quiet, "127.0.0.1", 0, **options)
        async with server:
            (sock,) = server.sockets
            port = sock.getsockname()[1]
            before = server.is_serving()
            await server.start_serving()
            await server.start_serving()
            said = await greet(host="127.0.0.1", port=port)
            flags = [
                bool(sock.getsockopt(socket.SOL_SOCKET, option))
                for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT, socket.SO_KEEPALIVE)
            ]
            with pytest.raises(AttributeError):
                server.sockets.append(1)
        return before, said, flags, server.is_serving(), server.sockets, server.get_loop() is loop

    same(scenario)


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"host": "127.0.0.1"},
        {"host": "127.0.0.1", "port": 0, "sock": 1},
        {"sock": "stream, not listening"},
        {"sock": "datagrams"},
        {"host": ["127.0.0.1", "localhost"], "port": 0},
        {"host": "", "port": 0},
        {"host": "name.invalid", "port": 0, "flags": socket.AI_NUMERICHOST},
        {"host": "192.0.2.1", "port": 0},
        {"host": "127.0.0.1", "port": "http-alt-no-such"},
        {"host": "127.0.0.1", "port": 70_000},
        {"host": 5, "port": 0},
    ],
    ids=str,
)
def test_where_a_server_listens(where: dict[str, Any]) -> None:
    async def scenario() -> Any:
        given = dict(where)
        with socket.socket(type=socket.SOCK_DGRAM if where.get("sock") == "datagrams" else socket.SOCK_STREAM) as sock:
            sock.bind(("127.0.0.1", 0))
            if isinstance(where.get("sock"), str):
                given["sock"] = sock
            try:
                server = await asyncio.get_running_loop().create_server(Quiet, **given)
            except Exception as error:
                error.args = tuple(str(each).replace(repr(sock), "SOCK") for each in error.args)
                raise
            families = sorted(each.family for each in server.sockets)
            server.close()
            await server.wait_closed()
            return families

    same(scenario)


def test_serving_for_ever_and_closing() -> None:
    async def scenario() -> Any:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Quiet, "127.0.0.1", 0)
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        said = []
        try:
            await server.serve_forever()
        except RuntimeError as error:
            said.append(str(error).replace(repr(server), "SERVER"))
        serving.cancel()
        await asyncio.wait([serving])
        server.close()
        await server.wait_closed()
        for again in (server.start_serving, server.serve_forever):
            try:
                await again()
            except RuntimeError as error:
                said.append(str(error).replace(repr(server), "SERVER"))
        return said, serving.cancelled(), server.is_serving()

    same(scenario)


def test_unix_servers(tmp_path: Path) -> None:
    kinds = iter("ab")

    async def scenario() -> Any:
        loop = asyncio.get_running_loop()
        place = tmp_path / next(kinds)
        place.mkdir()
        path, said = place / "socket", []
        server = await loop.create_unix_server(Quiet, path)
        said.append((await greet_unix(path), path.exists()))
        server.close()
        await server.wait_closed()
        said.append(path.exists())  # taken away from Python 3.13 on
        path.write_text("a file of somebody's") if not path.exists() else None
        for wrong in ({"path": path}, {}, {"path": path, "sock": 1}, {"path": path, "ssl_handshake_timeout": 1}):
            try:
                server = await loop.create_unix_server(Quiet, **wrong)
                server.close()
                said.append("served")
            except Exception as error:
                said.append((type(error).__name__, str(error).replace(str(place), "PLACE")))
        for wrong in ({"path": place / "nobody"}, {}, {"path": path, "sock": 1}, {"path": path, "server_hostname": ""}):
            try:
                await loop.create_unix_connection(Quiet, **wrong)
            except Exception as error:
                said.append((type(error).__name__, str(error).replace(str(place), "PLACE")))
        return said

    async def greet_unix(path: Any) -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x")
        said = await reader.read()
        writer.close()
        await writer.wait_closed()
        return said

    same(scenario)


# Processes -------------------------------------------------------------------------------------------------------------

TELL = """
import os, signal, sys, json, stat
print(json.dumps({
    "cwd": os.getcwd(), "home": os.environ.get("PLACE"), "session": os.getsid(0) == os.getpid(),
    "group": os.getpgrp() == os.getpid(), "umask": os.umask(0), "ids": [os.getuid(), os.getgid(), os.getgroups()],
    "pipe": signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL, "args": sys.argv[1:],
    "stdin": stat.S_IFMT(os.fstat(0).st_mode), "open": [fd for fd in range(3, 20) if os.path.exists(f"/proc/self/fd/{fd}")][:-1],
    "nice": os.nice(0)}))
"""

PROCESSES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "cwd": {"cwd": "/"},
    "cwd as a path": {"cwd": Path("/usr")},
    "env": {"env": {"PLACE": "there"}},
    "an empty env": {"env": {}},
    "start_new_session": {"start_new_session": True},
    "process_group": {"process_group": 0},
    "umask": {"umask": 0o077},
    "restore_signals": {"restore_signals": True},
    "no restore_signals": {"restore_signals": False},
    "preexec_fn": {"preexec_fn": functools.partial(os.nice, 3)},
    "preexec_fn that fails": {"preexec_fn": functools.partial(int, "x")},
    "close_fds": {"close_fds": True},
    "stdin nowhere": {"stdin": asyncio.subprocess.DEVNULL},
    "stdin from a pipe": {"stdin": asyncio.subprocess.PIPE},
    "user": {"user": os.getuid()},
    "group": {"group": os.getgid()},
    "an unknown user": {"user": "nobody-of-that-name"},
    "executable": {"executable": sys.executable},
    "pipesize": {"pipesize": 65536},
    "nowhere": {"cwd": "/no/such/place"},
    "shell": {"shell": True},
    "text": {"text": True},
    "errors": {"errors": "ignore"},
    "encoding": {"encoding": "utf-8"},
    "a bufsize": {"bufsize": 10},
    "unknown": {"colour": "red"},
    "env that is none": {"env": 5},
    "umask that is none": {"umask": "x"},
}


@pytest.mark.parametrize("options", PROCESSES.values(), ids=PROCESSES)
def test_every_option_of_a_child(options: dict[str, Any]) -> None:
    async def scenario() -> Any:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-ISc", TELL, "one", "two words"), stdout=asyncio.subprocess.PIPE, **options
        )
        output, errors = await child.communicate()
        return output, errors, child.returncode

    same(scenario)


def test_what_can_be_done_to_a_child() -> None:
    async def scenario() -> Any:
        said: list[Any] = []
        for act in ("terminate", "kill", "signal", "nothing"):
            child = await asyncio.create_subprocess_exec("/bin/cat", stdin=-1, stdout=-1)
            assert child.stdin is not None
            if act == "signal":
                child.send_signal(signal.SIGUSR2)
            elif act == "nothing":
                child.stdin.close()
            else:
                getattr(child, act)()
            said.append((await child.wait(), await child.wait(), child.returncode))
            # Whether the child is known to be gone is a matter of which of its descriptors told so first.
            for late in (child.kill, child.terminate, functools.partial(child.send_signal, signal.SIGTERM)):
                with contextlib.suppress(ProcessLookupError):
                    late()
            child.stdin.close()
        shell = await asyncio.create_subprocess_shell("echo $0; exit 7", stdout=-1)
        said.append((await shell.communicate(), shell.returncode))
        return said

    same(scenario)


# Signals ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, 0, -1, 1000, "SIGUSR1", None, 2.5], ids=str)
def test_signals_that_cannot_be_handled(number: Any) -> None:
    async def scenario() -> Any:
        loop, said = asyncio.get_running_loop(), []
        for act in (functools.partial(loop.add_signal_handler, number, print), loop.remove_signal_handler):
            try:
                said.append(act(number) if act == loop.remove_signal_handler else act())
            except Exception as error:
                said.append((type(error).__name__, str(error)))
        return said

    same(scenario)


def test_what_handles_a_signal() -> None:
    async def handler() -> None:
        raise AssertionError("called")

    async def scenario() -> Any:
        loop, said = asyncio.get_running_loop(), []
        awaited = handler()
        for wrong in (handler, awaited):
            try:
                loop.add_signal_handler(signal.SIGUSR1, wrong)
            except TypeError as error:
                said.append(str(error))
        awaited.close()
        variable.set("when it was added")
        loop.add_signal_handler(signal.SIGUSR1, lambda *args: said.append((args, variable.get())), 1, "two")
        variable.set("later")
        for _ in range(3):
            signal.raise_signal(signal.SIGUSR1)
        await asyncio.sleep(0.01)
        said.append(loop.remove_signal_handler(signal.SIGUSR1))
        said.append(signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL)
        return said

    assert len(same(scenario)[1]) == 7


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


# Tasks -----------------------------------------------------------------------------------------------------------------


def factories() -> Iterable[Any]:
    yield "none", None
    if sys.version_info >= (3, 12):
        yield "eager", asyncio.eager_task_factory
        yield "eager of its own", asyncio.create_eager_task_factory(asyncio.Task)
    yield "all keywords", lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs)
    yield "no keywords", lambda loop, coro: asyncio.Task(coro, loop=loop)
    yield "context alone", lambda loop, coro, context=None: asyncio.Task(coro, loop=loop, context=context)
    yield "a future", lambda loop, coro, **kwargs: coro.close() or loop.create_future()
    yield "no callable", 5


KEYWORDS: list[dict[str, Any]] = [
    {},
    {"name": "x"},
    {"name": 5},
    {"name": None},
    {"context": contextvars.copy_context()},
    {"context": None},
    {"eager_start": True},
    {"eager_start": False, "name": "x"},
    {"colour": "red"},
]


@pytest.mark.parametrize("factory", [pytest.param(factory, id=name) for name, factory in factories()])
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning", "ignore:Task.set_name")
def test_making_tasks(factory: Any) -> None:
    async def make(keywords: dict[str, Any]) -> Any:
        loop, order = asyncio.get_running_loop(), []

        async def work() -> int:
            order.append("begun")
            await asyncio.sleep(0)
            order.append("over")
            return 5

        try:
            loop.set_task_factory(factory)
            try:
                task = loop.create_task(work(), **keywords)
            finally:
                loop.set_task_factory(None)
        except (TypeError, AttributeError) as error:
            return type(error)  # an unknown keyword may be found out by the loop or by the task
        order.append("made")
        if not isinstance(task, asyncio.Task):
            return type(task).__name__
        name = task.get_name()
        return order, await task, name if keywords.get("name") is not None else name.rstrip("0123456789")

    async def scenario() -> Any:
        return [(keywords, await make(keywords)) for keywords in KEYWORDS]

    same(scenario)


def test_structured_concurrency() -> None:
    async def scenario() -> Any:
        said: list[Any] = []
        cancelled: list[str] = []

        async def fail(after: float) -> None:
            try:
                await asyncio.sleep(after)
                raise ValueError(after)
            except asyncio.CancelledError:
                cancelled.append(f"cancelled {after}")
                raise

        try:
            async with asyncio.TaskGroup() as group:
                for after in (0.001, 5, 6):
                    group.create_task(fail(after))
        except ExceptionGroup as error:
            said += [sorted(cancelled), describe(error)]  # a set has no order
        try:
            async with asyncio.timeout(0.001) as limit:
                await asyncio.sleep(5)
        except TimeoutError:
            said.append(limit.expired())
        async with asyncio.timeout(None) as limit:
            limit.reschedule(asyncio.get_running_loop().time() + 5)
        barrier = asyncio.Barrier(3)
        said.append(sorted(await asyncio.gather(*(barrier.wait() for _ in range(3)))))
        said.append((barrier.parties, barrier.n_waiting, barrier.broken))
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.sleep(0.01)), 0.001)
        except TimeoutError:
            said.append("timed out")
        said.append([await each for each in asyncio.as_completed([asyncio.sleep(0.01, 2), asyncio.sleep(0, 1)])])
        return said

    same(scenario)


def test_a_runner_runs_more_than_once() -> None:
    def run(factory: Any) -> Any:
        said: list[Any] = []

        async def read() -> str:
            return variable.get("nothing")

        async def write() -> None:
            variable.set("written")

        with asyncio.Runner(loop_factory=factory, debug=True) as runner:
            said.append(runner.get_loop().get_debug())
            runner.run(write())
            said.append(runner.run(read()))
            said.append(runner.run(read(), context=contextvars.Context()))
            said.append(runner.get_loop() is runner.get_loop())
        coro = read()
        for late in (runner.get_loop, functools.partial(runner.run, coro)):
            with pytest.raises(RuntimeError) as caught:
                late()
            said.append(str(caught.value))
        coro.close()
        return said

    assert run(new) == run(asyncio.SelectorEventLoop)


# Looking at what runs -----------------------------------------------------------------------------------------------------

TREE = """
import asyncio, sys
import ropewalk
async def innermost():
    print("ready", flush=True)
    await asyncio.sleep(20)
async def middle(): await innermost()
async def other(): await asyncio.sleep(20)
async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(middle(), name="the middle one")
        group.create_task(other(), name="the other one")
asyncio.run(main(), loop_factory=ropewalk.new_event_loop if sys.argv[1] == "ropewalk" else None)
"""


if sys.version_info >= (3, 14):

    def test_call_graphs() -> None:
        async def scenario() -> Any:
            async def waits(gate: Any) -> None:
                await gate

            gate = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(waits(gate), name="the one that waits")
            await asyncio.sleep(0)
            extra = asyncio.get_running_loop().create_future()
            asyncio.future_add_to_awaited_by(gate, extra)
            graph = asyncio.capture_call_graph(gate)
            assert graph is not None
            awaiters = {type(each.future).__name__ for each in graph.awaited_by}
            asyncio.future_discard_from_awaited_by(gate, extra)
            mine = asyncio.capture_call_graph()
            text = asyncio.format_call_graph(task)
            gate.set_result(None)
            await task
            assert mine is not None
            return awaiters, text.splitlines()[1:], [each.frame.f_code.co_name for each in mine.call_stack]

        assert "waits" in str(same(scenario))

    @pytest.mark.parametrize("what", ["ps", "pstree"])
    def test_tasks_are_seen_from_outside(what: str) -> None:
        """By another process, which reads the memory of this one; where that is forbidden, it says the same."""

        async def look(kind: str) -> Any:
            target = await asyncio.create_subprocess_exec(sys.executable, "-c", TREE, kind, stdout=-1)
            assert target.stdout is not None and await target.stdout.readline() == b"ready\n"
            looking = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "asyncio", what, str(target.pid), stdout=-1, stderr=-1
            )
            output, _ = await looking.communicate()
            target.kill()
            await target.wait()
            words = ("the middle one", "the other one", "innermost", "TaskGroup.__aexit__")
            return looking.returncode, [output.decode().count(word) > 0 for word in words]

        with rig.borrowed(new) as loop:
            assert rig.run(loop, look("ropewalk")) == rig.run(loop, look("asyncio"))


# Where a loop is known --------------------------------------------------------------------------------------------------


def test_which_loop_runs() -> None:
    async def scenario() -> Any:
        loop = asyncio.get_running_loop()
        said = [asyncio.get_event_loop() is loop, asyncio._get_running_loop() is loop]  # type: ignore[attr-defined]
        said.append(loop.is_running() and not loop.is_closed())

        def elsewhere() -> None:
            try:
                asyncio.get_running_loop()
            except RuntimeError as error:
                said.append(str(error))  # type: ignore[arg-type]

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        future = loop.create_future()
        for wrong in (functools.partial(loop.run_until_complete, future), loop.run_forever, loop.close):
            try:
                wrong()
            except RuntimeError as error:
                said.append(str(error))  # type: ignore[arg-type]
        return said

    same(scenario)
