"""A loop that ends with work pending: closed, dropped, or left running when the interpreter ends."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import threading
import warnings
import weakref
from typing import Any

import pytest
import rig
import ropewalk


class Thing:
    """Something of which it can be told whether it lives."""

    def __call__(self, *args: Any) -> None:
        raise AssertionError("ran after the loop was closed")


def test_pending_callbacks_are_dropped_and_let_go(loop: Any) -> None:
    things = [Thing() for _ in range(7)]
    refs = [weakref.ref(thing) for thing in things]
    one, other = socket.socketpair()
    other.send(b"x")
    handles = [
        loop.call_soon(things[0], things[1]),
        loop.call_later(1000, things[2], things[3]),
        loop.call_soon_threadsafe(things[4]),
    ]
    loop.add_reader(one, things[5])
    loop.add_writer(one, things[6])
    del things
    loop.close()
    loop.close()  # again is no error
    assert loop.is_closed()
    one.close()
    other.close()
    del handles
    if type(loop) is not asyncio.SelectorEventLoop:  # asyncio's keeps a registered reader's handle
        gc.collect()
        assert [ref() for ref in refs] == [None] * 7


def test_a_closed_loop_refuses(loop: Any) -> None:
    loop.close()
    one, other = socket.socketpair()

    async def nothing() -> None:
        pass

    coro = nothing()
    refused = [
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(1, print),
        lambda: loop.run_forever(),
        lambda: loop.run_until_complete(coro),
        lambda: loop.create_task(coro),
        lambda: loop.add_reader(one, print),
        lambda: loop.add_writer(one, print),
        lambda: loop.run_in_executor(None, print),
    ]
    for call in refused:
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            call()
    coro.close()
    assert loop.remove_reader(one) in (False, None) if type(loop) is not asyncio.SelectorEventLoop else True
    loop.stop()  # no error
    assert loop.time() > 0
    assert "closed=True" in repr(loop)
    one.close()
    other.close()


def test_a_running_loop_refuses_to_close(loop: Any) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            loop.close()

    rig.run(loop, main())


def test_cancelling_after_close(loop: Any) -> None:
    handles = [loop.call_soon(print), loop.call_later(5, print), loop.call_soon_threadsafe(print)]
    loop.close()
    for handle in handles:
        handle.cancel()
        assert handle.cancelled()
        repr(handle)


def test_transports_and_servers_of_a_closed_loop() -> None:
    """Unsent data, open servers: the descriptors go back, with a ResourceWarning for each transport."""

    async def open_all() -> list[Any]:
        kept: list[Any] = []
        server = await asyncio.start_server(lambda *streams: kept.extend(streams), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(bytes(10 << 20))
        await rig.until(lambda: kept)
        return [server, reader, writer, kept]

    with rig.nothing_left_open():
        loop = ropewalk.new_event_loop()
        things = loop.run_until_complete(open_all())
        transport = things[2].transport
        assert transport.get_write_buffer_size() > 0
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop.close()
            for name in ("close", "abort", "is_closing", "get_write_buffer_size", "write_late"):
                try:
                    transport.write(b"late") if name == "write_late" else getattr(transport, name)()
                except RuntimeError as error:
                    assert "Event loop is closed" in str(error)
            assert "fd=" in repr(transport)
            del transport, loop
            things.clear()
            gc.collect()
        assert {warning.category for warning in caught} == {ResourceWarning}
        assert sum("unclosed transport" in str(warning.message) for warning in caught) == 2


def test_resource_warnings_are_asyncios() -> None:
    """The same program on both loops, with warnings shown: for the transport, and for the loop."""
    code = """
        import asyncio, gc, socket, sys, warnings
        import ropewalk
        factory = {"asyncio": asyncio.SelectorEventLoop, "ropewalk": ropewalk.new_event_loop}[sys.argv[1]]
        caught = []
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, category, *rest: caught.append((category.__name__, str(message)))
        async def main():
            loop = asyncio.get_running_loop()
            one, other = socket.socketpair()
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, one)
            return transport, other
        loop = factory()
        transport, other = loop.run_until_complete(main())
        del transport
        loop.close()
        loop = None
        gc.collect()
        other.close()
        print([category for category, text in caught if text.startswith("unclosed transport <")])
        caught.clear()
        loop = factory()
        loop = None
        gc.collect()
        print([category for category, text in caught if text.startswith("unclosed event loop <")])
        """
    theirs, ours = (rig.script(code, name).stdout for name in ("asyncio", "ropewalk"))
    assert ours == theirs == "['ResourceWarning']\n" * 2


def test_a_loop_that_was_never_closed_is_collected() -> None:
    done = rig.script(
        """
        import gc, os, socket, warnings, weakref
        import ropewalk
        warnings.simplefilter("ignore")
        ropewalk.new_event_loop().close()
        gc.collect()
        before = sorted(os.listdir("/proc/self/fd"))
        for cycle in range(3):
            loop = ropewalk.new_event_loop()
            one, other = socket.socketpair()
            class Thing: pass
            thing = Thing()
            thing.loop = loop                         # cycles: through a ready callback,
            loop.call_soon(print, thing)
            loop.call_later(100, lambda: loop)        # a timer,
            loop.add_reader(one, lambda: loop)        # a reader,
            loop.itself = loop                        # and the loop's own dictionary
            ref, thing = weakref.ref(thing), None
            loop_ref, loop = weakref.ref(loop), None
            gc.collect()
            assert ref() is None
            assert loop_ref() is None
            one.close(), other.close()
        assert sorted(os.listdir("/proc/self/fd")) == before
        print("well")
        """
    )
    assert done.stdout == "well\n"


def test_a_loop_in_a_cycle_with_a_transport_is_collected() -> None:
    done = rig.script(
        """
        import asyncio, gc, os, socket, warnings, weakref
        import ropewalk
        warnings.simplefilter("ignore")
        ropewalk.new_event_loop().close()
        gc.collect()
        before = sorted(os.listdir("/proc/self/fd"))
        class Keeper(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
                self.loop = asyncio.get_running_loop()
        def scene():
            loop = ropewalk.new_event_loop()
            one, other = socket.socketpair()
            async def main():
                server = await loop.create_server(Keeper, "127.0.0.1", 0)
                await loop.connect_accepted_socket(Keeper, one)
                return weakref.ref(server)
            server = loop.run_until_complete(main())
            other.close()
            return weakref.ref(loop)
        loop = scene()
        gc.collect()
        gc.collect()
        assert loop() is None, gc.get_referrers(loop())
        assert sorted(os.listdir("/proc/self/fd")) == before
        print("well")
        """
    )
    assert done.stdout == "well\n"


@pytest.mark.parametrize(
    "pending", ["task", "timer", "reader", "server", "connection", "process", "executor", "future"]
)
def test_closing_with_each_kind_of_work_pending(pending: str) -> None:
    done = rig.script(
        """
        import asyncio, gc, os, socket, subprocess, sys, threading, warnings
        import ropewalk
        warnings.simplefilter("ignore")
        pending = sys.argv[1]
        kept = []
        release = threading.Event()
        async def main():
            loop = asyncio.get_running_loop()
            if pending == "task":
                kept.append(loop.create_task(asyncio.sleep(100)))
                await asyncio.sleep(0)
            if pending == "timer":
                kept.append(loop.call_later(0.001, print, "never"))
            if pending == "reader":
                kept.extend(socket.socketpair())
                loop.add_reader(kept[0], int)
                kept[1].send(b"x")
            if pending in ("server", "connection"):
                kept.append(await asyncio.start_server(lambda r, w: kept.append(w), "127.0.0.1", 0))
            if pending == "connection":
                reader, writer = await asyncio.open_connection(*kept[0].sockets[0].getsockname())
                writer.write(bytes(1 << 22))
                kept.extend([reader, writer])
            if pending == "process":
                kept.append(await asyncio.create_subprocess_exec("sleep", "100", stdin=-1, stdout=-1))
            if pending == "executor":
                kept.append(loop.run_in_executor(None, release.wait))
            if pending == "future":
                async def wait(future): await future
                kept.append(loop.create_task(wait(loop.create_future())))
                await asyncio.sleep(0)
        ropewalk.new_event_loop().close()
        gc.collect()
        before = sorted(os.listdir("/proc/self/fd"))
        loop = ropewalk.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        assert loop.is_closed()
        release.set()
        if pending == "process":
            pid = kept[0].pid
            kept[0]._transport._proc.kill()
            kept[0]._transport._proc.wait()
        if pending == "reader":
            for sock in kept: sock.close()
        del loop
        kept.clear()
        gc.collect()
        gc.collect()
        after = sorted(os.listdir("/proc/self/fd"))
        assert after == before, (before, after)
        print("well")
        """,
        pending,
    )
    assert done.stdout == "well\n"


@pytest.mark.parametrize("busy", ["asleep", "spinning", "connections", "threadsafe"])
def test_the_interpreter_ends_while_a_daemon_thread_runs_a_loop(busy: str) -> None:
    for _ in range(3):
        done = rig.script(
            """
            import asyncio, sys, threading
            import ropewalk
            busy = sys.argv[1]
            started = threading.Event()
            loop = ropewalk.new_event_loop()
            def spin(): loop.call_soon(spin)
            async def connections():
                async def echo(reader, writer):
                    while data := await reader.read(100): writer.write(data)
                server = await asyncio.start_server(echo, "127.0.0.1", 0)
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                while True:
                    writer.write(b"x" * 100)
                    await reader.readexactly(100)
            def run():
                asyncio.set_event_loop(loop)
                if busy == "spinning": spin()
                if busy == "connections":
                    task = loop.create_task(connections())
                loop.call_later(0.02, started.set)
                loop.run_forever()
            threading.Thread(target=run, daemon=True).start()
            if busy == "threadsafe":
                def call():
                    while True: loop.call_soon_threadsafe(int)
                threading.Thread(target=call, daemon=True).start()
            started.wait(20)
            print("well")
            """,
            busy,
        )
        assert done.stdout == "well\n"


def test_the_interpreter_ends_with_a_loop_and_parked_executor_threads() -> None:
    done = rig.script(
        """
        import asyncio
        import ropewalk
        loop = ropewalk.new_event_loop()
        async def main():
            await asyncio.gather(*(loop.run_in_executor(None, sum, [1, 2]) for _ in range(20)))
            loop.call_later(100, print, "never")
            asyncio.create_task(asyncio.sleep(100))
        loop.run_until_complete(main())
        print("well")
        """
    )
    assert done.stdout == "well\n"


@pytest.mark.parametrize("place", ["callback", "thread", "atexit"])
def test_the_interpreter_ends_inside_the_loop(place: str) -> None:
    done = rig.script(
        """
        import asyncio, atexit, os, sys, threading
        import ropewalk
        place = sys.argv[1]
        loop = ropewalk.new_event_loop()
        if place == "callback":
            loop.call_soon(sys.exit, 3)
        if place == "thread":
            loop.call_soon(lambda: threading.Thread(target=os._exit, args=(3,)).start())
        if place == "atexit":
            @atexit.register
            def last():
                loop.run_until_complete(asyncio.sleep(0.001))
                os._exit(3)
            sys.exit(0)
        loop.run_forever()
        """,
        place,
        expect=3,
    )
    assert done.stdout == ""


def test_a_loop_left_to_the_interpreters_end_with_everything_open() -> None:
    done = rig.script(
        """
        import asyncio, socket, sys
        import ropewalk
        async def main():
            loop = asyncio.get_running_loop()
            keep = sys.modules["__main__"]
            keep.server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
            keep.streams = await asyncio.open_connection(*keep.server.sockets[0].getsockname())
            keep.streams[1].write(bytes(1 << 20))
            keep.timer = loop.call_later(100, print)
            keep.pair = socket.socketpair()
            loop.add_reader(keep.pair[0], print)
            keep.task = loop.create_task(asyncio.sleep(100))
            keep.loop = loop
            loop.itself = loop
        loop = ropewalk.new_event_loop()
        loop.run_until_complete(main())
        print("well")
        """
    )
    assert done.stdout == "well\n"


def test_many_loops_one_after_the_other(our_loop: Any) -> None:
    """Their memory and descriptors are given back."""
    with rig.nothing_left_open():
        for _ in range(300):
            loop = ropewalk.new_event_loop()
            assert loop.run_until_complete(asyncio.sleep(0, 1)) == 1
            loop.close()
        del loop


def test_many_loops_in_threads() -> None:
    results: list[int] = []

    def run() -> None:
        async def main() -> int:
            results_ = await asyncio.gather(*(asyncio.sleep(0.001, i) for i in range(10)))
            return sum(results_)

        for _ in range(5):
            results.append(ropewalk.run(main()))

    with rig.nothing_left_open():
        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(rig.PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
    assert results == [45] * 40


def test_a_subprocess_started_elsewhere_is_not_reaped(our_loop: Any) -> None:
    """The loop watches its own children alone."""
    mine = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])

    async def main() -> None:
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0

    rig.run(our_loop, main())
    assert mine.wait() == 7
