"""Ctrl-C, and signals that arrive at awkward moments or in the wrong thread.

Each program runs by itself; the test plays the user at the terminal. A program says "ready" when it may be
interrupted.
"""

from __future__ import annotations

import signal
import subprocess
import textwrap
import time

import pytest
import rig

PRELUDE = """
import asyncio, os, signal, socket, sys, threading, time
import ropewalk
def ready():
    print("ready", flush=True)
def block_for_long():
    # In short sleeps: a signal between two bytecodes and the system call does not end one long sleep.
    end = time.monotonic() + 100
    while time.monotonic() < end: time.sleep(0.01)
"""


def interrupted(code: str, *args: str, signals: int = 1, number: int = signal.SIGINT) -> tuple[int, str, str]:
    """Run a program, send it `signals` signals, one each time that it says "ready"; its status and output."""
    process = subprocess.Popen(
        [*rig.command(), "-c", PRELUDE + textwrap.dedent(code), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for _ in range(signals):
            assert process.stdout.readline() == "ready\n", process.communicate(timeout=rig.PATIENCE)
            process.send_signal(number)
        began = time.monotonic()
        output, errors = process.communicate(timeout=rig.PATIENCE)
        assert time.monotonic() - began < 10, "slow to answer"
    finally:
        process.kill()
        process.wait()
    assert not [sign for sign in rig.CRASHED if sign in errors], errors
    return process.returncode, output, errors


SLEEPS = {
    "asleep": "ready(); await asyncio.sleep(100)",
    "no timer": "ready(); await asyncio.get_running_loop().create_future()",
    "spinning": "ready()\n    while True: await asyncio.sleep(0)",
    "in a thread": "ready(); await asyncio.to_thread(time.sleep, 1)",
    "reading": """one, other = socket.socketpair(); one.setblocking(False); ready()
    await asyncio.get_running_loop().sock_recv(one, 1)""",
}


@pytest.mark.parametrize("what", SLEEPS)
def test_ctrl_c_cancels_main_and_raises_keyboard_interrupt(what: str) -> None:
    status, output, errors = interrupted(
        f"""
async def work():
    {SLEEPS[what]}
async def main():
    try:
        await work()
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise
    finally:
        await asyncio.sleep(0.001)
        print("cleaned up", flush=True)
try:
    ropewalk.run(main())
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(5)
"""
    )
    assert output == "cancelled\ncleaned up\ninterrupted\n", errors
    assert status == 5


def test_an_uncaught_ctrl_c_is_a_death_by_sigint() -> None:
    status, _, errors = interrupted(
        """
        async def main():
            ready()
            await asyncio.sleep(100)
        ropewalk.run(main())
        """
    )
    assert status == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_ctrl_c_twice_ends_a_clean_up_that_hangs() -> None:
    status, output, _ = interrupted(
        """
        async def main():
            try:
                ready()
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                ready()
                block_for_long()  # the second one interrupts this
        try:
            ropewalk.run(main())
        except KeyboardInterrupt:
            print("interrupted")
            sys.exit(5)
        """,
        signals=2,
    )
    assert (status, output) == (5, "interrupted\n")


def test_ctrl_c_twice_while_the_clean_up_awaits() -> None:
    status, output, _ = interrupted(
        """
        async def main():
            try:
                ready()
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                ready()
                await asyncio.sleep(100)
        try:
            ropewalk.run(main())
        except KeyboardInterrupt:
            print("interrupted")
            sys.exit(5)
        """,
        signals=2,
    )
    assert (status, output) == (5, "interrupted\n")


def test_ctrl_c_during_a_callback_that_blocks() -> None:
    """By asyncio.run's rule the main task is cancelled; the callback itself goes on until it returns."""
    status, output, _ = interrupted(
        """
        def block():
            ready()
            end = time.monotonic() + 0.3
            while time.monotonic() < end: pass
            print("callback done", flush=True)
        async def main():
            asyncio.get_running_loop().call_soon(block)
            try:
                await asyncio.sleep(100)
            finally:
                print("cancelled", flush=True)
        try:
            ropewalk.run(main())
        except KeyboardInterrupt:
            sys.exit(5)
        """
    )
    assert (status, output) == (5, "callback done\ncancelled\n")


@pytest.mark.parametrize("what", ["asleep", "blocking", "spinning", "executor"])
def test_ctrl_c_leaves_run_forever(what: str) -> None:
    """Without asyncio.run's handler it is raised where the loop is, and the loop can be run again."""
    status, output, errors = interrupted(
        """
        what = sys.argv[1]
        loop = ropewalk.new_event_loop()
        def block():
            ready()
            block_for_long()
        def spin():
            loop.call_soon(spin)
        if what == "asleep":
            loop.call_soon(ready)
        if what == "blocking":
            loop.call_soon(block)
        if what == "spinning":
            loop.call_soon(spin)
            loop.call_later(0.01, ready)
        if what == "executor":
            loop.run_in_executor(None, time.sleep, 0.5)
            loop.call_soon(ready)
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("interrupted", loop.is_running())
        print(loop.run_until_complete(asyncio.sleep(0.01, "again")))
        loop.close()
        """,
        what,
    )
    assert (status, output) == (0, "interrupted False\nagain\n"), errors


def test_ctrl_c_handled_by_the_loop() -> None:
    status, output, _ = interrupted(
        """
        async def main():
            done = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, done.set)
            ready()
            await done.wait()
            print("asked to end")
        ropewalk.run(main())
        """
    )
    assert (status, output) == (0, "asked to end\n")


def test_ctrl_c_ignored() -> None:
    status, output, _ = interrupted(
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        async def main():
            ready()
            await asyncio.sleep(0.2)
            print("undisturbed")
        ropewalk.run(main())
        """
    )
    assert (status, output) == (0, "undisturbed\n")


@pytest.mark.parametrize("gap", ["before the run", "between two runs", "after the run"])
def test_ctrl_c_outside_of_the_run(gap: str) -> None:
    status, output, _ = interrupted(
        """
        gap = sys.argv[1]
        loop = ropewalk.new_event_loop()
        try:
            if gap != "before the run":
                loop.run_until_complete(asyncio.sleep(0.001))
            if gap == "after the run":
                loop.close()
            ready()
            block_for_long()
        except KeyboardInterrupt:
            print("interrupted")
        if gap != "after the run":
            print(loop.run_until_complete(asyncio.sleep(0.001, "runs")))
            loop.close()
        """,
        gap,
    )
    assert status == 0
    assert output == ("interrupted\n" if gap == "after the run" else "interrupted\nruns\n")


def test_a_signal_taken_by_another_thread_wakes_the_loop() -> None:
    """The kernel may give it to any thread; Python's handler still runs in the main one, at once."""
    done = rig.script(
        PRELUDE
        + textwrap.dedent(
            """
            heard = []
            stop = threading.Event()
            def other():
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGUSR1])
                stop.wait()
            thread = threading.Thread(target=other)
            thread.start()
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGUSR1])
            async def main():
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGUSR1, heard.append, 1)
                def send():
                    time.sleep(0.05)
                    os.kill(os.getpid(), signal.SIGUSR1)
                    time.sleep(0.05)
                    signal.pthread_kill(thread.ident, signal.SIGUSR1)
                    time.sleep(0.05)
                    os.kill(os.getpid(), signal.SIGINT)
                sender = threading.Thread(target=send)
                sender.start()
                try:
                    await loop.create_future()  # no timer: only the signals can wake the loop
                finally:
                    sender.join()
                    stop.set()
            try:
                ropewalk.run(main())
            except KeyboardInterrupt:
                print("interrupted", len(heard))
            """
        ),
        timeout=20,
    )
    assert done.stdout == "interrupted 2\n"


def test_ctrl_c_is_not_for_a_loop_in_another_thread() -> None:
    status, output, _ = interrupted(
        """
        stop = threading.Event()
        ticks = []
        async def main():
            while not stop.is_set():
                ticks.append(1)
                await asyncio.sleep(0.001)
        thread = threading.Thread(target=ropewalk.run, args=(main(),))
        thread.start()
        while len(ticks) < 5: time.sleep(0.001)
        try:
            ready()
            block_for_long()
        except KeyboardInterrupt:
            known = len(ticks)
            while len(ticks) < known + 5: time.sleep(0.001)
            print("main interrupted, the loop goes on")
        stop.set()
        thread.join()
        """
    )
    assert (status, output) == (0, "main interrupted, the loop goes on\n")


def test_a_signal_reaches_the_main_thread_while_loops_run_in_others() -> None:
    status, output, _ = interrupted(
        """
        loops = [ropewalk.new_event_loop() for _ in range(3)]
        threads = [threading.Thread(target=loop.run_forever) for loop in loops]
        for thread in threads: thread.start()
        async def main():
            ready()
            await asyncio.get_running_loop().create_future()
        try:
            ropewalk.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        for loop in loops: loop.call_soon_threadsafe(loop.stop)
        for thread in threads: thread.join()
        for loop in loops: loop.close()
        """
    )
    assert (status, output) == (0, "interrupted\n")


def test_a_storm_of_signals() -> None:
    """Each kind is heard at least once after its last, and the loop does its other work."""
    done = rig.script(
        PRELUDE
        + textwrap.dedent(
            """
            heard = {signal.SIGUSR1: 0, signal.SIGUSR2: 0, signal.SIGHUP: 0}
            def hear(number): heard[number] += 1
            async def main():
                loop = asyncio.get_running_loop()
                for number in heard:
                    loop.add_signal_handler(number, hear, number)
                def send():
                    for i in range(3000):
                        os.kill(os.getpid(), list(heard)[i % 3])
                await loop.run_in_executor(None, send)
                before = dict(heard)
                for number in heard:
                    os.kill(os.getpid(), number)
                while any(heard[number] == before[number] for number in heard):
                    await asyncio.sleep(0.001)
                print("well")
            ropewalk.run(main())
            """
        )
    )
    assert done.stdout == "well\n"


def test_the_wake_up_descriptor_of_somebody_else_stays() -> None:
    done = rig.script(
        PRELUDE
        + textwrap.dedent(
            """
            one, other = socket.socketpair()
            one.setblocking(False), other.setblocking(False)
            signal.set_wakeup_fd(other.fileno())
            async def main(): await asyncio.sleep(0.01)
            ropewalk.run(main())
            assert signal.set_wakeup_fd(-1) == other.fileno()
            ropewalk.run(main())
            assert signal.set_wakeup_fd(-1) == -1
            print("well")
            """
        )
    )
    assert done.stdout == "well\n"


def test_blocked_system_calls_are_resumed() -> None:
    """A signal without an effect (SIGCHLD, SIGWINCH) must not end the loop's sleep with an error."""
    done = rig.script(
        PRELUDE
        + textwrap.dedent(
            """
            got = []
            signal.signal(signal.SIGWINCH, lambda *_: got.append(1))
            async def main():
                loop = asyncio.get_running_loop()
                thread = threading.Timer(0.02, lambda: [os.kill(os.getpid(), signal.SIGWINCH) for _ in range(5)])
                thread.start()
                began = loop.time()
                await asyncio.sleep(0.1)
                assert loop.time() - began >= 0.1
                thread.join()
            ropewalk.run(main())
            assert got
            print("well")
            """
        )
    )
    assert done.stdout == "well\n"
