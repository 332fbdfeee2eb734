"""Children, signals, executors and name resolution, on both loops alike."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import rig
import ropewalk

PIPE = asyncio.subprocess.PIPE


async def start(code: str, *args: str, **options: Any) -> Any:
    return await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", code, *args, **options)


# Children ----------------------------------------------------------------------------------------------------------


def test_input_and_output(loop: Any) -> None:
    async def main() -> None:
        process = await start(
            "import sys; data = sys.stdin.read(); print(data.upper()); print('error', file=sys.stderr)",
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        assert process.pid > 0 and process.returncode is None
        assert await process.communicate(b"hello") == (b"HELLO\n", b"error\n")
        assert process.returncode == 0
        assert await process.wait() == 0

    rig.run(loop, main())
    assert not loop.reports


def test_much_input_and_output(loop: Any) -> None:
    data = os.urandom(5_000_000)

    async def main() -> None:
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        output, errors = await process.communicate(data)
        assert output == data and errors is None

    rig.run(loop, main())


def test_a_conversation(loop: Any) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        for i in range(50):
            process.stdin.write(b"%d\n" % i)
            await process.stdin.drain()
            assert await process.stdout.readline() == b"%d\n" % i
        process.stdin.close()
        assert await process.stdout.read() == b""
        assert await process.wait() == 0

    rig.run(loop, main())


@pytest.mark.parametrize("where", ["file", "devnull", "descriptor", "stdout", "inherited"])
def test_forms_of_stdio(loop: Any, where: str, tmp_path: Path) -> None:
    async def main() -> None:
        code = "import sys; sys.stdout.write('out'); sys.stdout.flush(); sys.stderr.write('err')"
        with open(tmp_path / "file", "w+b") as file:
            if where == "file":
                process = await start(code, stdout=file, stderr=file)
            elif where == "devnull":
                nowhere = subprocess.DEVNULL
                process = await start(code, stdin=nowhere, stdout=nowhere, stderr=nowhere)
            elif where == "descriptor":
                process = await start(code, stdout=file.fileno(), stderr=subprocess.DEVNULL)
            elif where == "stdout":
                process = await start(code, stdout=PIPE, stderr=subprocess.STDOUT)
            else:
                process = await start("pass")
            output, errors = await process.communicate()
            assert process.returncode == 0 and errors is None
            assert output == (b"outerr" if where == "stdout" else None)
            file.seek(0)
            assert file.read() == {"file": b"outerr", "descriptor": b"out"}.get(where, b"")

    rig.run(loop, main())


def test_a_shell(loop: Any) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_shell("echo $((1 + 2)); exit 9", stdout=PIPE)
        assert await process.communicate() == (b"3\n", None)
        assert process.returncode == 9

    rig.run(loop, main())


@pytest.mark.parametrize("code", [0, 1, 127, 255])
def test_exit_codes(loop: Any, code: int) -> None:
    async def main() -> int:
        process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {code}")
        return await process.wait()

    assert rig.run(loop, main()) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1, signal.SIGINT])
def test_death_by_signal(loop: Any, number: int) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sleep", "100")
        process.send_signal(number)
        assert await process.wait() == -number
        assert process.returncode == -number
        for call in (process.kill, process.terminate, lambda: process.send_signal(number)):
            with pytest.raises(ProcessLookupError):
                call()

    rig.run(loop, main())


def test_a_program_that_is_not_there(loop: Any) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError) as caught:
            await asyncio.create_subprocess_exec("/no/such/program")
        assert caught.value.filename == "/no/such/program"
        with pytest.raises(PermissionError):
            await asyncio.create_subprocess_exec("/etc/passwd")
        with pytest.raises(NotADirectoryError):
            await asyncio.create_subprocess_exec("true", cwd="/etc/passwd")

    rig.run(loop, main())


def test_options_of_children(loop: Any, tmp_path: Path) -> None:
    async def main() -> None:
        read_end, write_end = os.pipe()
        process = await start(
            f"import os; print(os.getcwd(), os.environ['GREETING'], os.getsid(0) == os.getpid());"
            f"os.write({write_end}, b'passed')",
            cwd=tmp_path,
            env={**os.environ, "GREETING": "hello"},
            start_new_session=True,
            pass_fds=[write_end],
            stdout=PIPE,
        )
        output, _ = await process.communicate()
        assert output.decode().split() == [str(tmp_path), "hello", "True"]
        assert os.read(read_end, 100) == b"passed"
        os.close(read_end)
        os.close(write_end)

    rig.run(loop, main())


def test_options_that_are_refused(loop: Any) -> None:
    async def main() -> None:
        for options in ({"universal_newlines": True}, {"text": True}, {"encoding": "utf8"}, {"bufsize": 1}):
            with pytest.raises(ValueError):
                await asyncio.create_subprocess_exec("true", **options)
        with pytest.raises(ValueError, match="shell must be False"):
            await loop.subprocess_exec(asyncio.SubprocessProtocol, "true", shell=True)

    rig.run(loop, main())


def test_the_protocol_of_a_child(loop: Any) -> None:
    heard: list[Any] = []

    class Protocol(asyncio.SubprocessProtocol):
        def connection_made(self, transport: Any) -> None:
            heard.append("made")

        def pipe_data_received(self, fd: int, data: bytes) -> None:
            heard.append((fd, data))

        def pipe_connection_lost(self, fd: int, exc: BaseException | None) -> None:
            heard.append((fd, exc))

        def process_exited(self) -> None:
            heard.append("exited")

        def connection_lost(self, exc: BaseException | None) -> None:
            heard.append(("lost", exc))

    async def main() -> None:
        transport, _ = await loop.subprocess_exec(Protocol, "sh", "-c", "printf out; printf err >&2; exit 3")
        assert isinstance(transport, asyncio.SubprocessTransport)
        await rig.until(lambda: ("lost", None) in heard)
        assert transport.get_returncode() == 3
        assert transport.get_pid() > 0
        transport.close()

    rig.run(loop, main())
    assert heard[0] == "made" and heard[-1] == ("lost", None)
    assert set(heard) == {"made", (0, None), (1, b"out"), (1, None), (2, b"err"), (2, None), "exited", ("lost", None)}


def test_closing_a_childs_transport_kills_it(loop: Any) -> None:
    async def main() -> None:
        transport, _ = await loop.subprocess_exec(asyncio.SubprocessProtocol, "sleep", "100")
        pid = transport.get_pid()
        transport.close()
        await transport._wait()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    rig.run(loop, main())


def test_a_child_that_closes_its_output_and_lives_on(loop: Any) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sh", "-c", "exec 1>&-; read line", stdin=PIPE, stdout=PIPE)
        assert await process.stdout.read() == b""
        assert process.returncode is None
        process.stdin.write(b"end\n")
        assert await process.wait() == 0

    rig.run(loop, main())


def test_a_child_that_ends_and_leaves_its_output_to_another(loop: Any) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sh", "-c", "(sleep 0.2; echo late) & exit 4", stdout=PIPE)
        assert await process.communicate() == (b"late\n", None)
        assert await process.wait() == 4

    rig.run(loop, main())


def test_many_children_at_once(our_loop: Any) -> None:
    async def one(i: int) -> tuple[int, bytes]:
        process = await asyncio.create_subprocess_exec("sh", "-c", f"echo {i}; exit {i % 200}", stdout=PIPE)
        output, _ = await process.communicate()
        return process.returncode, output

    async def main() -> None:
        for _ in range(2):
            results = await asyncio.gather(*(one(i) for i in range(60)))
            assert results == [(i % 200, b"%d\n" % i) for i in range(60)]

    with rig.nothing_left_open():
        rig.run(our_loop, main())
    assert not our_loop.reports


def test_children_that_end_at_once_are_all_seen(our_loop: Any) -> None:
    """Dead before anybody watches them."""

    async def main() -> None:
        processes = [await asyncio.create_subprocess_exec("true") for _ in range(30)]
        time.sleep(0.05)
        assert [await process.wait() for process in processes] == [0] * 30

    rig.run(our_loop, main())


def test_children_of_a_loop_in_another_thread(our_loop: Any) -> None:
    results: list[int] = []

    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 6")
        results.append(await process.wait())

    def run() -> None:
        for _ in range(3):
            ropewalk.run(main())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    rig.run(our_loop, main())
    for thread in threads:
        thread.join(rig.PATIENCE)
    assert results == [6] * 13


def test_a_child_somebody_else_has_reaped(our_loop: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> int:
        process = await asyncio.create_subprocess_exec("sleep", "100")
        process.kill()  # nothing but this function runs from here to its end
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        os.waitpid(process.pid, 0)
        return await process.wait()

    assert rig.run(our_loop, main()) == 255
    assert "exit status already read" in caplog.text


def test_waiting_that_is_cancelled(loop: Any) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sleep", "100")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), 0.01)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(process.communicate(), 0.01)
        process.kill()
        waiting = [asyncio.create_task(process.wait()) for _ in range(3)]
        assert await asyncio.gather(*waiting) == [-9] * 3

    rig.run(loop, main())


# Signals -------------------------------------------------------------------------------------------------------------


def test_signal_handlers(loop: Any) -> None:
    heard: list[Any] = []
    loop.add_signal_handler(signal.SIGUSR1, heard.append, "one")
    assert signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGUSR1)
    rig.run(loop, rig.until(lambda: heard == ["one"]))
    loop.add_signal_handler(signal.SIGUSR1, heard.append, "another")  # replaces it
    signal.raise_signal(signal.SIGUSR1)
    rig.run(loop, rig.until(lambda: heard == ["one", "another"]))
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_signal_handler_of_sigint_gives_it_back(loop: Any) -> None:
    heard: list[int] = []
    loop.add_signal_handler(signal.SIGINT, heard.append, 1)
    signal.raise_signal(signal.SIGINT)
    rig.run(loop, rig.until(lambda: heard))
    loop.remove_signal_handler(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_closing_removes_signal_handlers(loop: Any) -> None:
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1


def test_signal_handlers_belong_to_the_main_thread(loop: Any) -> None:
    async def main() -> None:
        with pytest.raises((ValueError, RuntimeError)):
            loop.add_signal_handler(signal.SIGUSR1, print)

    thread = threading.Thread(target=lambda: rig.run(loop, main()))
    thread.start()
    thread.join()


def test_a_signal_between_runs_is_heard_in_the_next(loop: Any) -> None:
    heard: list[int] = []
    loop.add_signal_handler(signal.SIGUSR1, heard.append, 1)
    rig.run(loop, asyncio.sleep(0))
    signal.raise_signal(signal.SIGUSR1)
    rig.run(loop, rig.until(lambda: heard))
    loop.remove_signal_handler(signal.SIGUSR1)


# Executors -----------------------------------------------------------------------------------------------------------


def test_executors(loop: Any) -> None:
    async def main() -> None:
        assert await loop.run_in_executor(None, divmod, 7, 3) == (2, 1)
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
            name = await loop.run_in_executor(pool, lambda: threading.current_thread().name)
            assert name.startswith("mine")
            loop.set_default_executor(pool)
            assert (await loop.run_in_executor(None, lambda: threading.current_thread().name)).startswith("mine")
            with pytest.raises(ZeroDivisionError):
                await asyncio.to_thread(divmod, 1, 0)

    rig.run(loop, main())


def test_an_executors_job_that_is_cancelled(loop: Any) -> None:
    async def main() -> None:
        release = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            running = loop.run_in_executor(pool, release.wait)
            queued = loop.run_in_executor(pool, lambda: ran.append(1))
            queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await queued
            await asyncio.sleep(0.01)  # the pool hears of it by a callback of the loop
            release.set()
            assert await running is True
        assert not ran

    ran: list[int] = []
    rig.run(loop, main())


def test_shutting_the_default_executor_down(loop: Any) -> None:
    async def main() -> None:
        job = loop.run_in_executor(None, time.sleep, 0.05)
        await loop.shutdown_default_executor()
        assert job.done()
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
            loop.run_in_executor(None, int)

    rig.run(loop, main())


def test_shutting_down_an_executor_that_does_not_end(loop: Any) -> None:
    if sys.version_info < (3, 12):
        with pytest.raises(TypeError):
            loop.shutdown_default_executor(timeout=1)
        return
    release = threading.Event()

    async def main() -> None:
        job = loop.run_in_executor(None, release.wait)
        with pytest.warns(RuntimeWarning, match="did not finishing joining its threads within"):
            await loop.shutdown_default_executor(timeout=0.05)
        release.set()
        await job

    rig.run(loop, main())


def test_names(loop: Any) -> None:
    async def main() -> None:
        found = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        assert found == socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        found = await loop.getaddrinfo("localhost", "http", type=socket.SOCK_STREAM)
        assert {entry[4][1] for entry in found} == {80}
        assert await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV) == (
            "127.0.0.1",
            "80",
        )
        with pytest.raises(socket.gaierror):
            await loop.getaddrinfo("name.invalid", 80, flags=socket.AI_NUMERICHOST)
        many = await asyncio.gather(*(loop.getaddrinfo("::1", port) for port in range(1, 50)))
        assert [entry[0][4][1] for entry in many] == list(range(1, 50))

    rig.run(loop, main())
