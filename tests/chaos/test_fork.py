"""A process that forks in a running loop: parent and child each have a loop that is theirs alone.

The child shares the parent's sockets, but neither its poller nor its wake-ups nor its signals.
"""

from __future__ import annotations

import textwrap

import rig

# A child reports by its exit status: 0 is well, and anything that went wrong shows on stderr.
PRELUDE = """
import asyncio, os, signal, socket, sys, threading, time, traceback
import ropewalk

def child(work):
    "Run `work` and end; what it raises is the exit status 1."
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

async def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "never came true"
        await asyncio.sleep(0.001)

async def fork():
    "Fork in a callback. (asyncio lets no task go on in the child whose own step it was that forked.)"
    loop = asyncio.get_running_loop()
    forked = loop.create_future()
    loop.call_soon(lambda: forked.set_result(os.fork()))
    return await forked

async def ended(pid):
    "Wait for a child without blocking the loop."
    loop = asyncio.get_running_loop()
    _, status = await loop.run_in_executor(None, os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, os.waitstatus_to_exitcode(status)
"""

QUIET = ("-W", "ignore::DeprecationWarning")  # CPython warns of fork() beside threads


def forking(code: str, *args: str) -> None:
    done = rig.script(PRELUDE + textwrap.dedent(code), *args, flags=QUIET)
    assert done.stdout == "well\n", (done.stdout, done.stderr)


def test_a_child_that_exits_in_the_callback_leaves_the_parent_alone() -> None:
    forking(
        """
        class Echo(asyncio.Protocol):
            def connection_made(self, transport): self.transport = transport
            def data_received(self, data): self.transport.write(data)
        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for i in range(10):
                pid = os.fork()
                if pid == 0:
                    os._exit(0)
                writer.write(b"%d" % i)
                assert await reader.readexactly(1) == b"%d" % i
                os.waitpid(pid, 0)
            writer.close()
            server.close()
            print("well")
        ropewalk.run(main())
        """
    )


def test_a_child_that_exits_by_sys_exit_runs_no_more_of_the_loop() -> None:
    forking(
        """
        async def main():
            loop = asyncio.get_running_loop()
            ran = []
            loop.call_later(0.01, ran.append, 1)
            forked = loop.create_future()
            def fork():
                pid = os.fork()
                if pid == 0:
                    sys.exit(0)
                forked.set_result(pid)
            loop.call_soon(fork)
            await ended(await forked)
            await until(lambda: ran)
            print("well")
        ropewalk.run(main())
        """
    )


def test_both_go_on_with_timers_readers_and_connections() -> None:
    forking(
        """
        class Echo(asyncio.Protocol):
            def connection_made(self, transport): self.transport = transport
            def data_received(self, data): self.transport.write(data.upper())

        async def exercise(loop, sock):
            "Timers, readers, new connections, threads, children: all of a loop."
            start = loop.time()
            await asyncio.sleep(0.02)
            assert loop.time() - start >= 0.02
            got = []
            one, other = socket.socketpair()
            loop.add_reader(one, lambda: got.append(one.recv(10)))
            for i in range(20):
                other.send(b"%d" % (i % 10))
                await until(lambda: len(got) == i + 1)
            loop.remove_reader(one)
            one.close(), other.close()
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            for i in range(20):
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"HELLO"
            writer.close()
            await writer.wait_closed()
            assert await loop.run_in_executor(None, lambda: 5) == 5
            process = await asyncio.create_subprocess_exec("true")
            assert await process.wait() == 0

        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            shared, far = socket.socketpair()
            seen = []
            timers = []
            loop.call_later(0.05, timers.append, os.getpid())
            pid = await fork()
            me = os.getpid()
            if pid == 0:
                # A server of its own: both accept on the old one.
                server.close()
                server = await loop.create_server(Echo, "127.0.0.1", 0)
            await exercise(loop, server.sockets[0])
            # A timer that was set before the fork is due in both, once.
            await until(lambda: timers)
            assert len(timers) == 1
            if pid == 0:
                server.close()
                return
            await ended(pid)
            await exercise(loop, server.sockets[0])
            server.close()
            print("well")
        ropewalk.run(main())
        """
    )


def test_a_connection_from_before_the_fork_works_in_both_and_closes_in_one() -> None:
    """The child closes its copies of the transports: the parent's stay registered, and open."""
    forking(
        """
        class Echo(asyncio.Protocol):
            def connection_made(self, transport): self.transport = transport
            def data_received(self, data): self.transport.write(data)
        async def main():
            loop = asyncio.get_running_loop()
            made = []
            def factory():
                made.append(Echo())
                return made[-1]
            server = await loop.create_server(factory, "127.0.0.1", 0)
            streams = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(5)]
            await until(lambda: len(made) == 5 and all(hasattr(echo, "transport") for echo in made))
            pid = await fork()
            if pid == 0:
                server.close()
                for echo in made:
                    echo.transport.abort()
                for _, writer in streams:
                    writer.transport.abort()
                await asyncio.sleep(0.01)
                one, other = socket.socketpair()  # reuses numbers that are closed now
                got = []
                loop.add_reader(one, lambda: got.append(one.recv(1)))
                other.send(b"x")
                await until(lambda: got)
                loop.remove_reader(one)
                one.close(), other.close()
                return
            await ended(pid)
            for reader, writer in streams:
                writer.write(b"still here")
                assert await reader.readexactly(10) == b"still here"
                writer.close()
            server.close()
            print("well")
        ropewalk.run(main())
        """
    )


def test_the_child_may_serve_the_connections_and_the_parent_let_go() -> None:
    forking(
        """
        class Echo(asyncio.Protocol):
            def connection_made(self, transport): self.transport = transport
            def data_received(self, data): self.transport.write(b"%s %d" % (data, os.getpid()))
            def connection_lost(self, exc): lost.append(exc)
        lost = []
        async def main():
            loop = asyncio.get_running_loop()
            one, client = socket.socketpair()
            client.settimeout(20)
            transport, echo = await loop.connect_accepted_socket(Echo, one)
            pid = await fork()
            if pid == 0:
                client.close()
                await until(lambda: lost)
                assert lost == [None], lost
                return
            # The parent holds still: what arrives is for the child.
            transport.pause_reading()
            client.send(b"who")
            assert client.recv(100) == b"who %d" % pid
            client.shutdown(socket.SHUT_WR)
            await ended(pid)
            transport.abort()
            client.close()
            print("well")
        ropewalk.run(main())
        """
    )


def test_a_new_run_in_the_child() -> None:
    forking(
        """
        async def inner():
            await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"from child")
            writer.close()
            return await asyncio.get_running_loop().run_in_executor(None, lambda: 7)
        def work():
            # asyncio notices by the process id that no loop runs here.
            assert ropewalk.run(inner()) == 7
        async def main():
            global address
            loop = asyncio.get_running_loop()
            got = []
            async def serve(reader, writer):
                got.append(await reader.read())
                writer.close()
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            pid = os.fork()
            if pid == 0:
                child(work)
            await ended(pid)
            await until(lambda: got)
            assert got == [b"from child"]
            server.close()
            print("well")
        ropewalk.run(main())
        """
    )


def test_multiprocessing_by_fork_from_a_running_loop() -> None:
    forking(
        """
        import multiprocessing
        async def inner(i):
            await asyncio.sleep(0.001)
            return i * i
        def work(i, queue):
            queue.put(ropewalk.run(inner(i)))
        async def main():
            loop = asyncio.get_running_loop()
            context = multiprocessing.get_context("fork")
            queue = context.SimpleQueue()
            ticks = []
            def tick():
                ticks.append(1)
                ticking[0] = loop.call_later(0.001, tick)
            ticking = [None]
            tick()
            processes = [context.Process(target=work, args=(i, queue)) for i in range(4)]
            for process in processes:
                process.start()
            got = [await loop.run_in_executor(None, queue.get) for _ in processes]
            for process in processes:
                await loop.run_in_executor(None, process.join)
                assert process.exitcode == 0
            assert sorted(got) == [0, 1, 4, 9], got
            known = len(ticks)
            await until(lambda: len(ticks) > known)  # the parent's timers go on
            ticking[0].cancel()
            print("well")
        ropewalk.run(main())
        """
    )


def test_a_signal_to_the_child_does_not_reach_the_parent() -> None:
    forking(
        """
        async def main():
            loop = asyncio.get_running_loop()
            heard = []
            loop.add_signal_handler(signal.SIGUSR1, heard.append, "usr1")
            loop.add_signal_handler(signal.SIGTERM, heard.append, "term")
            ready, tell = os.pipe()
            pid = os.fork()
            if pid == 0:
                # The handlers are the parent's, and so were the wake-ups: this child only sleeps.
                signal.signal(signal.SIGUSR1, lambda *_: heard.append("own"))
                os.write(tell, b"1")
                end = time.monotonic() + 20
                while not heard and time.monotonic() < end:
                    time.sleep(0.001)
                os._exit(0 if heard == ["own"] else 1)
            await loop.run_in_executor(None, os.read, ready, 1)
            os.kill(pid, signal.SIGUSR1)
            await ended(pid)
            pid = os.fork()
            if pid == 0:
                os.write(tell, b"1")
                time.sleep(20)
                os._exit(3)
            await loop.run_in_executor(None, os.read, ready, 1)
            os.kill(pid, signal.SIGTERM)  # handled by Python in the child, which does nothing with it
            os.kill(pid, signal.SIGKILL)
            await loop.run_in_executor(None, os.waitpid, pid, 0)
            assert heard == [], heard
            os.kill(os.getpid(), signal.SIGUSR1)
            await until(lambda: heard)
            assert heard == ["usr1"], heard
            print("well")
        ropewalk.run(main())
        """
    )


def test_a_signal_in_a_child_that_runs_on_is_the_childs() -> None:
    forking(
        """
        async def main():
            loop = asyncio.get_running_loop()
            heard = []
            loop.add_signal_handler(signal.SIGUSR1, heard.append, "usr1")
            ready, tell = os.pipe()
            pid = await fork()
            if pid == 0:
                await asyncio.sleep(0.001)  # the loop has noticed by now
                loop.call_later(0.001, os.kill, os.getpid(), signal.SIGUSR1)
                await until(lambda: heard)
                assert heard == ["usr1"]
                return
            await ended(pid)
            assert heard == [], heard
            await asyncio.sleep(0.01)
            assert heard == [], heard
            os.kill(os.getpid(), signal.SIGUSR1)
            await until(lambda: heard)
            print("well")
        ropewalk.run(main())
        """
    )


def test_threadsafe_calls_of_the_parent_do_not_wake_the_child_nor_reach_it() -> None:
    forking(
        """
        async def main():
            loop = asyncio.get_running_loop()
            heard = []
            stop = threading.Event()
            def call():
                while not stop.is_set():
                    loop.call_soon_threadsafe(heard.append, os.getpid())
                    time.sleep(0.0002)
            thread = threading.Thread(target=call)
            thread.start()
            await until(lambda: len(heard) > 5)
            children = []
            for _ in range(10):
                pid = await fork()
                if pid == 0:
                    # Its thread is gone with the fork; what was pushed before may still arrive, then no more.
                    await asyncio.sleep(0.005)
                    known = len(heard)
                    await asyncio.sleep(0.02)
                    assert len(heard) == known, (known, len(heard))
                    def once():
                        loop.call_soon_threadsafe(heard.append, "child")
                    threading.Thread(target=once).start()
                    await until(lambda: "child" in heard)
                    os._exit(0)
                children.append(pid)
                await asyncio.sleep(0.001)
            for pid in children:
                await ended(pid)
            assert "child" not in heard
            stop.set()
            thread.join()
            print("well")
        ropewalk.run(main())
        """
    )


def test_a_grandchild() -> None:
    forking(
        """
        async def generation(depth):
            loop = asyncio.get_running_loop()
            ran = []
            one, other = socket.socketpair()
            loop.add_reader(one, lambda: ran.append(one.recv(1)))
            if depth:
                pid = await fork()
                if pid == 0:
                    loop.remove_reader(one)
                    one.close(), other.close()
                    await generation(depth - 1)
                    os._exit(0)
                await ended(pid)
            other.send(b"x")
            await until(lambda: ran)
            loop.remove_reader(one)
            one.close(), other.close()
        async def main():
            await generation(4)
            print("well")
        ropewalk.run(main())
        """
    )


def test_a_child_that_closes_the_loop_does_not_close_the_parents() -> None:
    forking(
        """
        loop = ropewalk.new_event_loop()
        one, other = socket.socketpair()
        got = []
        loop.add_reader(one, lambda: got.append(one.recv(1)))
        loop.call_later(0.01, got.append, b"timer")
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                loop.close()
                os._exit(0 if loop.is_closed() else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        other.send(b"x")
        loop.run_until_complete(until(lambda: len(got) == 2))
        assert sorted(got) == [b"timer", b"x"]
        loop.remove_reader(one)
        loop.close()
        print("well")
        """
    )


def test_a_child_that_only_unwatches_does_not_unwatch_the_parents() -> None:
    forking(
        """
        async def main():
            loop = asyncio.get_running_loop()
            one, other = socket.socketpair()
            got = []
            loop.add_reader(one, lambda: got.append(one.recv(1)))
            pid = os.fork()
            if pid == 0:
                def work():
                    assert loop.remove_reader(one)
                    one.close()
                child(work)
            await ended(pid)
            other.send(b"x")
            await until(lambda: got)
            loop.remove_reader(one)
            one.close(), other.close()
            print("well")
        ropewalk.run(main())
        """
    )


def test_fork_while_another_thread_runs_a_loop() -> None:
    """The thread is not in the child: its loop rests there, and can be closed."""
    forking(
        """
        loop = ropewalk.new_event_loop()
        ticks = []
        def tick():
            ticks.append(1)
            loop.call_later(0.0005, tick)
        def run():
            loop.call_soon(tick)
            loop.run_forever()
        thread = threading.Thread(target=run)
        thread.start()
        async def inner():
            await asyncio.sleep(0.001)
        for _ in range(20):
            known = len(ticks)
            while len(ticks) == known:
                time.sleep(0.0005)
            pid = os.fork()
            if pid == 0:
                child(lambda: ropewalk.run(inner()))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        known = len(ticks)
        while len(ticks) == known:
            time.sleep(0.0005)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        print("well")
        """
    )
