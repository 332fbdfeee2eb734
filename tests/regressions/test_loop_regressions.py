"""Bugs that the event loop once had."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
import struct
import threading
import warnings
from fractions import Fraction
from typing import Any
from unittest import mock

import pytest
import rig
import ropewalk


def test_a_closed_loop_that_is_kept_keeps_no_descriptors() -> None:
    gc.collect()
    before = rig.descriptors()
    loop = ropewalk.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert rig.descriptors() == before
    assert loop.is_closed()


def test_errors_of_the_system_carry_their_number() -> None:
    lost: list[Any] = []

    class Protocol(asyncio.Protocol):
        def connection_lost(self, exc: BaseException | None) -> None:
            lost.append(exc)

    async def main(loop: Any) -> None:
        with pytest.raises(OSError, match=r"\[Errno 9\] Bad file descriptor") as caught:
            loop.add_reader(987654, print)
        assert caught.value.errno == errno.EBADF
        with rig.listening() as server:
            ours = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
        await loop.connect_accepted_socket(Protocol, ours)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        await rig.until(lambda: lost)

    with rig.borrowed(ropewalk.new_event_loop) as loop:
        rig.run(loop, main(loop))
    assert type(lost[0]) is ConnectionResetError
    assert lost[0].errno == errno.ECONNRESET


def test_a_reader_of_a_closed_descriptor_does_not_move_in_with_the_next_connection() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(10))
        writer.close()

    async def main(loop: Any) -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        one, other = socket.socketpair()
        for sock in (one, other):
            loop.add_reader(sock.fileno(), pytest.fail, "the old file's reader was called")
            sock.close()
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"ping")
        assert await reader.read() == b"ping"
        writer.close()
        server.close()

    with rig.borrowed(ropewalk.new_event_loop) as loop:
        rig.run(loop, main(loop))
        assert not loop.reports


@pytest.mark.parametrize("place", ["connection_made", "eof_received", "resume_writing"])
def test_an_exit_from_a_protocol_does_not_deafen_its_connection(place: str) -> None:
    class Leaver(asyncio.Protocol):
        left = False
        lost = False

        def leave(self, at: str) -> None:
            if at == place and not self.left:
                self.left = True
                raise SystemExit(at)

        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.leave("connection_made")

        def data_received(self, data: bytes) -> None:
            self.transport.write(bytes(8 << 20))

        def resume_writing(self) -> None:
            self.leave("resume_writing")

        def eof_received(self) -> None:
            self.leave("eof_received")

        def connection_lost(self, exc: BaseException | None) -> None:
            self.lost = True

    async def visit(loop: Any, peer: socket.socket) -> int:
        await loop.sock_sendall(peer, b"x")
        peer.shutdown(socket.SHUT_WR)
        count = 0
        while data := await loop.sock_recv(peer, 1 << 20):
            count += len(data)
        return count

    with rig.borrowed(ropewalk.new_event_loop) as loop, rig.pair() as (ours, theirs):
        protocol = Leaver()
        connecting = loop.create_task(loop.connect_accepted_socket(lambda: protocol, ours))
        visiting = loop.create_task(visit(loop, theirs))
        with pytest.raises(SystemExit, match=place):
            rig.run(loop, visiting)
        rig.run(loop, connecting)
        assert rig.run(loop, visiting) == 8 << 20
        rig.run(loop, rig.until(lambda: protocol.lost))


def test_a_forked_child_that_goes_on_has_a_running_loop() -> None:
    done = rig.script(
        """
        import asyncio, os
        import ropewalk
        async def main():
            loop = asyncio.get_running_loop()
            forked = loop.create_future()
            loop.call_soon(lambda: forked.set_result(os.fork()))
            pid = await forked
            assert asyncio.get_running_loop() is loop
            await asyncio.sleep(0.001)
            if pid == 0:
                os._exit(7)
            _, status = await asyncio.to_thread(os.waitpid, pid, 0)
            print(os.waitstatus_to_exitcode(status))
        ropewalk.run(main())
        """,
        flags=("-W", "ignore::DeprecationWarning"),
    )
    assert done.stdout == "7\n"


def test_run_in_a_running_loop_says_so() -> None:
    async def main() -> str:
        coro = asyncio.sleep(0)
        with pytest.raises(RuntimeError) as caught:
            ropewalk.run(coro)
        coro.close()
        return str(caught.value)

    assert "cannot be called from a running event loop" in ropewalk.run(main())


def test_uninstall_puts_a_policy_back_after_loops_have_run() -> None:
    done = rig.script(
        """
        import asyncio, warnings
        warnings.simplefilter("ignore")
        import ropewalk
        class Foreign(asyncio.AbstractEventLoopPolicy): pass
        foreign = Foreign()
        asyncio.set_event_loop_policy(foreign)
        ropewalk.install()
        async def main(): pass
        asyncio.run(main())
        asyncio.get_event_loop_policy()
        ropewalk.uninstall()
        print(asyncio.get_event_loop_policy() is foreign)
        """
    )
    assert done.stdout == "True\n"


def test_installed_every_loop_is_an_instance_of_asyncios_name() -> None:
    done = rig.script(
        """
        import asyncio, selectors, ropewalk
        before = asyncio.SelectorEventLoop
        ropewalk.install()
        names = [asyncio.SelectorEventLoop, before, getattr(asyncio, "EventLoop", before)]
        class Mine(asyncio.SelectorEventLoop): pass
        factories = [
            asyncio.new_event_loop, ropewalk.new_event_loop, asyncio.SelectorEventLoop, Mine,
            lambda: asyncio.SelectorEventLoop(selectors.SelectSelector()),
        ]
        for factory in factories:
            with asyncio.Runner(loop_factory=factory) as runner:
                loop = runner.get_loop()
                for name in names:
                    assert isinstance(loop, name) and issubclass(type(loop), name), (loop, name)
                assert isinstance(loop, Mine) == issubclass(type(loop), Mine) == (factory is Mine)
        assert not isinstance(7, asyncio.SelectorEventLoop)
        assert not issubclass(asyncio.AbstractEventLoop, asyncio.SelectorEventLoop)
        print("well")
        """
    )
    assert done.stdout == "well\n"


@pytest.mark.parametrize("when", [2**40, 2.0**40, Fraction(2**41, 2)])
def test_a_timer_tells_the_moment_as_it_was_given(when: Any) -> None:
    with rig.borrowed(ropewalk.new_event_loop) as loop:
        told = loop.call_at(when, print).when()
        assert told == when
        assert type(told) is type(when)


class Virtual(ropewalk.asyncio.EventLoop):
    """A loop whose hours pass when a test says so."""

    now = 1000.0

    def time(self) -> float:
        return self.now


def patched_loop() -> Any:
    loop: Any = ropewalk.new_event_loop()
    loop.now = 1000.0
    loop.time = lambda: loop.now
    return loop


@pytest.mark.parametrize("factory", [Virtual, patched_loop])
def test_timers_go_by_a_time_of_the_programs(factory: Any) -> None:
    async def main(loop: Any) -> None:
        fired: list[str] = []
        timer = loop.call_later(3600, fired.append, "later")
        assert timer.when() == 4600.0
        loop.call_at(1000.5, fired.append, "at")
        loop.call_at(10**6, fired.append, "in days")
        waiting = asyncio.create_task(asyncio.sleep(7200))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert fired == []
        loop.now = 1000.5
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert fired == ["at"]
        loop.now += 3600
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert fired == ["at", "later"]
        loop.now += 3600
        await asyncio.wait_for(waiting, None)
        assert fired == ["at", "later"]

    with rig.borrowed(factory) as loop:
        loop.run_until_complete(main(loop))  # rig.run's own limit would go by that clock, too


def test_timers_go_by_the_systems_clock_again() -> None:
    async def main(loop: Any) -> None:
        fired: list[str] = []
        now = loop.time()
        with mock.patch.object(loop, "time") as time:
            time.return_value = now
            loop.call_later(0.01, fired.append, "soon")
            loop.call_later(3600, fired.append, "later")
            for _ in range(3):
                await asyncio.sleep(0)
            assert fired == []
        await rig.until(lambda: fired)
        assert fired == ["soon"]

    with rig.borrowed(ropewalk.new_event_loop) as loop:
        rig.run(loop, main(loop))


def test_a_time_that_raises_ends_the_run() -> None:
    with rig.borrowed(ropewalk.new_event_loop) as loop, pytest.raises(ZeroDivisionError):
        loop.call_soon(setattr, loop, "time", lambda: 1 / 0)
        try:
            loop.run_forever()
        finally:
            del loop.time
            assert not loop.is_running()


def test_a_finaliser_in_a_daemon_thread_does_not_abort_an_interpreter_that_ends() -> None:
    """Before Python 3.14 such a thread is ended by unwinding its stack, through the frame that dropped the object."""
    done = rig.script(
        """
        import sys, threading, time, types
        import ropewalk
        class Slow:
            def __init__(self, seconds): self.seconds = seconds
            def __del__(self, sleep=time.sleep): sleep(self.seconds)  # somebody else may run Python meanwhile
        loop = ropewalk.new_event_loop()
        started = threading.Event()
        def again():
            loop.call_soon(lambda thing: None, Slow(0.002))
            loop.call_later(1000, print, Slow(0.002)).cancel()
            loop.call_soon(again)
        def run():
            again()
            loop.call_later(0.02, started.set)
            loop.run_forever()
        threading.Thread(target=run, daemon=True).start()
        started.wait(20)
        # Dies when the interpreter ends, and gives the thread the time to notice that it has to.
        sys.modules["late"] = types.ModuleType("late")
        sys.modules["late"].thing = Slow(0.05)
        print("well")
        """
    )
    assert done.stdout == "well\n"


def test_a_flood_of_threadsafe_calls_does_not_outrun_the_loop() -> None:
    """Threads that do nothing else once queued up a million calls, and no timer fired for seconds."""
    loop = ropewalk.new_event_loop()
    threads, each = 8, 40_000
    sent, heard = [0] * threads, [0]
    queued, beats = [0], [0]
    ready = threading.Barrier(threads + 1)

    def hear() -> None:
        heard[0] += 1

    def post(number: int) -> None:
        ready.wait(rig.PATIENCE)
        for _ in range(each):
            loop.call_soon_threadsafe(hear)
            sent[number] += 1
            queued[0] = max(queued[0], sum(sent) - heard[0])

    def beat() -> None:
        beats[0] += 1
        if heard[0] == threads * each:
            loop.stop()
        else:
            loop.call_later(0.001, beat)

    posting = [threading.Thread(target=post, args=(number,), daemon=True) for number in range(threads)]
    for thread in posting:
        thread.start()
    loop.call_soon(ready.wait)
    loop.call_soon(beat)
    loop.run_forever()
    for thread in posting:
        thread.join(rig.PATIENCE)
    loop.close()
    assert queued[0] < 100_000, (queued, beats)


def test_a_flood_from_a_thread_that_holds_what_the_loop_waits_for_ends() -> None:
    """Slowing the poster down must not become waiting for each other."""
    loop = ropewalk.new_event_loop()
    lock, locked = threading.Lock(), threading.Event()
    heard = [0]

    def hear() -> None:
        heard[0] += 1

    def post() -> None:
        with lock:
            locked.set()
            for _ in range(20_000):
                loop.call_soon_threadsafe(hear)
        loop.call_soon_threadsafe(loop.stop)

    def wait() -> None:
        locked.wait(rig.PATIENCE)
        with lock:
            pass

    thread = threading.Thread(target=post, daemon=True)
    loop.call_soon(thread.start)
    loop.call_soon(wait)
    loop.run_forever()
    thread.join(rig.PATIENCE)
    loop.close()
    assert heard == [20_000]


def test_a_storm_of_signals_loses_none_and_says_nothing() -> None:
    """The pipe that signals are written to holds a few hundred: it filled up, Python warned and dropped the rest."""
    done = rig.script(
        """
        import asyncio, os, signal, sys
        import ropewalk
        heard = {signal.SIGUSR1: 0, signal.SIGUSR2: 0}
        def hear(number): heard[number] += 1
        async def main():
            loop = asyncio.get_running_loop()
            for number in heard:
                loop.add_signal_handler(number, hear, number)
            for _ in range(5000):  # in one callback: nobody reads the pipe
                os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR2)
            for _ in range(5):
                await asyncio.sleep(0)
            assert heard[signal.SIGUSR1] > 100, heard
            assert heard[signal.SIGUSR2] == 1, heard
            # And a few are counted, as ever.
            heard[signal.SIGUSR1] = 0
            for _ in range(10):
                os.kill(os.getpid(), signal.SIGUSR1)
            for _ in range(5):
                await asyncio.sleep(0)
            assert heard == {signal.SIGUSR1: 10, signal.SIGUSR2: 1}, heard
        ropewalk.run(main())
        """
    )
    assert done.stderr == ""


def test_the_last_signal_handler_does_not_take_the_runs_wake_up_with_it() -> None:
    """A signal that another thread took did not wake the loop any more, once a handler was added and removed."""

    def wakeup_fd() -> int:
        fd = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(fd)
        return fd

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        before = wakeup_fd()
        loop.add_signal_handler(signal.SIGUSR1, print)
        assert loop.remove_signal_handler(signal.SIGUSR1)
        assert not loop.remove_signal_handler(signal.SIGUSR1)
        return before, wakeup_fd()

    before, after = ropewalk.run(main())
    assert before == after != -1
    assert wakeup_fd() == -1


def test_starting_a_child_leaves_the_warning_filters_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the process's: of two threads that hush a warning at once, one puts back what the other has set."""

    async def main() -> None:
        child = await asyncio.create_subprocess_exec("/bin/true")
        assert await child.wait() == 0

    monkeypatch.setattr(warnings, "catch_warnings", None)
    ropewalk.run(main())
