"""Frameworks that take a loop by name or by factory: each serves a request on ropewalk's.

Each runs as its users run it, in a process of its own, and says itself which loop it is on.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import rig

OURS = "ropewalk.asyncio.EventLoop"


def needs(*names: str) -> None:
    """Skip without the framework, but not where all tests are to run."""
    for name in names:
        if os.environ.get("CI"):
            importlib.import_module(name)
        else:
            pytest.importorskip(name, reason=f"{name} is not installed")


class Served:
    """A server in a process of its own, on a port that it chose and wrote down."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.port_file = folder / "port"
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PORT_FILE": str(self.port_file), "PYTHONUNBUFFERED": "1"},
        )

    def __enter__(self) -> Served:
        rig.until_sync(
            lambda: self.process.poll() is not None or (self.port_file.exists() and self.port_file.read_text()),
            "the server starts",
        )
        assert self.process.poll() is None, self.process.communicate()[0]
        return self

    def get(self, path: str = "/") -> str:
        port = int(self.port_file.read_text())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=rig.PATIENCE) as answer:
            return str(answer.read().decode())

    def stop(self, number: int = signal.SIGINT) -> str:
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=rig.PATIENCE)
        return output

    def __exit__(self, *error: Any) -> None:
        self.process.kill()
        self.process.communicate()


# Says which loop serves.
ASGI = """
import asyncio
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    kind = type(asyncio.get_running_loop())
    body = (kind.__module__.rpartition(".")[0] + "." + kind.__qualname__).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.mark.parametrize("named", ["by its option", "by ropewalk run"])
def test_uvicorn_from_the_command_line(tmp_path: Path, named: str) -> None:
    needs("uvicorn")
    (tmp_path / "program.py").write_text(
        ASGI
        + textwrap.dedent(
            """
            import os, uvicorn.server
            started = uvicorn.server.Server.startup
            async def startup(self, *args, **kwargs):
                await started(self, *args, **kwargs)
                with open(os.environ["PORT_FILE"], "w") as file:
                    file.write(str(self.servers[0].sockets[0].getsockname()[1]))
            uvicorn.server.Server.startup = startup
            """
        )
    )
    command = ["-m", "uvicorn", "program:app", "--port", "0"]
    if named == "by its option":
        command += ["--loop", "ropewalk.asyncio:new_event_loop"]
    else:
        command = ["-m", "ropewalk", "run", *command, "--loop", "asyncio"]
    with Served(tmp_path, *command) as server:
        assert server.get() == OURS
        assert server.get() == OURS
        output = server.stop()
    assert "Finished server process" in output, output


def test_uvicorn_in_a_program(tmp_path: Path) -> None:
    needs("uvicorn")
    (tmp_path / "program.py").write_text(
        ASGI
        + textwrap.dedent(
            """
            import os, socket
            import ropewalk, uvicorn
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            server = uvicorn.Server(uvicorn.Config(app))
            async def main():
                with open(os.environ["PORT_FILE"], "w") as file:
                    file.write(str(sock.getsockname()[1]))
                await server.serve(sockets=[sock])
            ropewalk.run(main())
            """
        )
    )
    with Served(tmp_path, "program.py") as server:
        assert server.get() == OURS
        server.stop(signal.SIGTERM)


AIOHTTP = """
import asyncio, os
from aiohttp import web, ClientSession
import ropewalk
def kind():
    kind = type(asyncio.get_running_loop())
    return kind.__module__.rpartition(".")[0] + "." + kind.__qualname__
async def answer(request):
    return web.Response(text=kind())
async def echo(request):
    return web.Response(body=await request.read())
async def chat(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data.upper())
    return socket
app = web.Application(client_max_size=2**26)
app.add_routes([web.get("/", answer), web.post("/echo", echo), web.get("/chat", chat)])
"""


@pytest.mark.parametrize("named", ["by its argument", "by ropewalk run"])
def test_aiohttp_server(tmp_path: Path, named: str) -> None:
    needs("aiohttp")
    (tmp_path / "program.py").write_text(
        AIOHTTP
        + textwrap.dedent(
            """
            import socket, sys
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            async def ready(app):
                with open(os.environ["PORT_FILE"], "w") as file:
                    file.write(str(sock.getsockname()[1]))
            app.on_startup.append(ready)
            loop = {"loop": ropewalk.new_event_loop()} if len(sys.argv) > 1 else {}
            web.run_app(app, sock=sock, print=None, **loop)
            print("ended in order")
            """
        )
    )
    command = ["program.py", "loop"] if named == "by its argument" else ["-m", "ropewalk", "run", "program.py"]
    with Served(tmp_path, *command) as server:
        assert server.get() == OURS
        assert "ended in order" in server.stop()


def test_aiohttp_client() -> None:
    needs("aiohttp")
    done = rig.script(
        AIOHTTP
        + textwrap.dedent(
            """
            async def main():
                runner = web.AppRunner(app)
                await runner.setup()
                site = web.TCPSite(runner, "127.0.0.1", 0)
                await site.start()
                port = runner.addresses[0][1]
                body = os.urandom(3_000_000)
                async with ClientSession(f"http://127.0.0.1:{port}") as session:
                    async with session.get("/") as response:
                        print(await response.text())
                    async def one(i):
                        async with session.post("/echo", data=b"%d" % i) as response:
                            assert await response.read() == b"%d" % i
                    await asyncio.gather(*(one(i) for i in range(100)))
                    async with session.post("/echo", data=body) as response:
                        assert await response.read() == body
                    async with session.ws_connect("/chat") as chat:
                        await chat.send_str("hello")
                        print((await chat.receive()).data)
                await runner.cleanup()
            ropewalk.run(main())
            """
        )
    )
    assert done.stdout.split() == [OURS, "HELLO"]
    assert "Unclosed" not in done.stderr


ANYIO = """
import anyio, asyncio, ropewalk, socket
def kind():
    kind = type(asyncio.get_running_loop())
    return kind.__module__.rpartition(".")[0] + "." + kind.__qualname__
async def serve(stream):
    async with stream:
        async for data in stream:
            await stream.send(data.upper())
async def main():
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"HELLO"
        process = await anyio.run_process(["echo", "child"])
        assert process.stdout == b"child\\n"
        assert await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(anyio.sleep, 0)) is None
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(10)
        assert scope.cancelled_caught
        group.cancel_scope.cancel()
    await listener.aclose()
    print(kind())
"""


def test_anyio() -> None:
    needs("anyio")
    run = 'anyio.run(main, backend="asyncio", backend_options={"loop_factory": ropewalk.new_event_loop})'
    assert rig.script(f"{ANYIO}\n{run}\n").stdout == f"{OURS}\n"


def test_anyio_by_install() -> None:
    needs("anyio")
    assert rig.script(f"{ANYIO}\nropewalk.install()\nanyio.run(main)\n").stdout == f"{OURS}\n"


def test_httpx() -> None:
    """Its requests go through anyio."""
    needs("httpx", "anyio")
    done = rig.script(
        """
        import asyncio, httpx, ropewalk
        async def serve(reader, writer):
            await reader.readuntil(b"\\r\\n\\r\\n")
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello")
            writer.close()
        async def main():
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            host, port = server.sockets[0].getsockname()
            async with httpx.AsyncClient(trust_env=False) as client:
                print((await client.get(f"http://{host}:{port}/")).text)
                answers = await asyncio.gather(*(client.get(f"http://{host}:{port}/") for _ in range(20)))
                assert {answer.text for answer in answers} == {"hello"}
            server.close()
        ropewalk.run(main())
        """
    )
    assert done.stdout == "hello\n"


def pytest_run(folder: Path, *flags: str, ini: str, **files: str) -> str:
    (folder / "pytest.ini").write_text(f"[pytest]\n{ini}")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pytest.ini", *flags],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=rig.PATIENCE * 2,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


AUTO = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
TESTS = """
    import asyncio
    import pytest
    from ropewalk.asyncio import EventLoop

    @pytest.fixture
    async def server():
        async def echo(reader, writer):
            writer.write(await reader.readline())
            writer.close()
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        yield server.sockets[0].getsockname()
        server.close()

    async def test_loop():
        assert isinstance(asyncio.get_running_loop(), EventLoop)

    async def test_request(server):
        reader, writer = await asyncio.open_connection(*server)
        writer.write(b"hello\\n")
        assert await reader.read() == b"hello\\n"
        writer.close()

    @pytest.mark.parametrize("number", range(5))
    async def test_many(number):
        assert await asyncio.sleep(0.001, number) == number
"""


def test_pytest_asyncio_by_its_factories(tmp_path: Path) -> None:
    needs("pytest_asyncio")
    conftest = """
        import ropewalk

        def pytest_asyncio_loop_factories(config, item):
            return {"ropewalk": ropewalk.new_event_loop}
    """
    assert "7 passed" in pytest_run(tmp_path, ini=AUTO, conftest=conftest, test_it=TESTS)


def test_pytest_asyncio_by_its_policy_fixture(tmp_path: Path) -> None:
    needs("pytest_asyncio")
    conftest = """
        import pytest
        from ropewalk.asyncio import EventLoopPolicy

        @pytest.fixture(scope="session")
        def event_loop_policy():
            return EventLoopPolicy()
    """
    assert "7 passed" in pytest_run(tmp_path, ini=AUTO, conftest=conftest, test_it=TESTS)


def test_pytest_asyncio_by_install(tmp_path: Path) -> None:
    needs("pytest_asyncio")
    assert "7 passed" in pytest_run(tmp_path, ini=AUTO, conftest="import ropewalk; ropewalk.install()", test_it=TESTS)


def test_anyios_pytest_plugin(tmp_path: Path) -> None:
    needs("anyio")
    conftest = """
        import pytest, ropewalk

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"loop_factory": ropewalk.new_event_loop}
    """
    test = """
        import asyncio
        import pytest
        from ropewalk.asyncio import EventLoop

        pytestmark = pytest.mark.anyio

        async def test_loop():
            assert isinstance(asyncio.get_running_loop(), EventLoop)
    """
    assert "1 passed" in pytest_run(tmp_path, "-p", "no:asyncio", ini="", conftest=conftest, test_it=test)
