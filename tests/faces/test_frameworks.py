"""The loop in other people's frameworks, named in the way that each of them has for it.

Each runs in a process of its own, serves or does one thing, and says which loop it did it on.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path

import pytest

OURS = "ropewalk.asyncio"


def needed(name: str) -> None:
    """Stands in for `import`: where the checks are complete, a framework that is missing is a failure."""
    if os.environ.get("CI"):
        __import__(name)
    pytest.importorskip(name)


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def fetch(url: str, server: subprocess.Popen[str]) -> str:
    """Ask until the server answers; give up when it has ended."""
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            if server.poll() is not None:
                raise AssertionError(server.communicate()) from None
            time.sleep(0.02)


def test_uvicorn_takes_the_factory_by_name(tmp_path: Path) -> None:
    needed("uvicorn")
    (tmp_path / "service.py").write_text(
        textwrap.dedent(
            """
            import asyncio

            async def app(scope, receive, send):
                if scope["type"] != "http":
                    raise RuntimeError(scope["type"])
                await send({"type": "http.response.start", "status": 200, "headers": []})
                loop = type(asyncio.get_running_loop()).__module__
                await send({"type": "http.response.body", "body": loop.encode()})
            """
        )
    )
    port = free_port()
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--lifespan", "off"),
            *("--loop", "ropewalk.asyncio:new_event_loop"),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert fetch(f"http://127.0.0.1:{port}/", server).startswith(OURS)
        server.terminate()
        said = server.communicate(timeout=20)
        assert "Traceback" not in said[1], said
    finally:
        server.kill()
        server.communicate()


def test_aiohttp_serves_and_asks_on_it(tmp_path: Path) -> None:
    needed("aiohttp")
    (tmp_path / "program.py").write_text(
        textwrap.dedent(
            """
            import asyncio
            import aiohttp
            from aiohttp import web
            import ropewalk

            async def which(request):
                return web.Response(text=type(asyncio.get_running_loop()).__module__)

            async def ask(app):
                async def fetch():
                    port = app["site"].getsockname()[1]
                    async with aiohttp.ClientSession() as session:
                        async with session.get(f"http://127.0.0.1:{port}/") as answer:
                            print(await answer.text())
                    raise web.GracefulExit
                app["asking"] = asyncio.create_task(fetch())

            import socket
            app = web.Application()
            app["site"] = socket.create_server(("127.0.0.1", 0))
            app.router.add_get("/", which)
            app.on_startup.append(ask)
            web.run_app(app, sock=app["site"], loop=ropewalk.new_event_loop(), print=None)
            """
        )
    )
    assert run("program.py", cwd=tmp_path).startswith(OURS)


def test_anyio_takes_a_loop_factory(tmp_path: Path) -> None:
    needed("anyio")
    (tmp_path / "program.py").write_text(
        textwrap.dedent(
            """
            import asyncio
            import anyio
            import ropewalk

            async def main():
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.sleep, 0)
                print(type(asyncio.get_running_loop()).__module__, await anyio.to_thread.run_sync(lambda: 42))

            anyio.run(main, backend_options={"loop_factory": ropewalk.new_event_loop})
            """
        )
    )
    said = run("program.py", cwd=tmp_path).split()
    assert said[0].startswith(OURS)
    assert said[1] == "42"


def test_pytest_asyncio_takes_the_policy(tmp_path: Path) -> None:
    needed("pytest_asyncio")
    (tmp_path / "conftest.py").write_text(
        textwrap.dedent(
            """
            import warnings
            import pytest
            import ropewalk.asyncio

            @pytest.fixture(scope="session")
            def event_loop_policy():
                return ropewalk.asyncio.EventLoopPolicy()
            """
        )
    )
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            f"""
            import asyncio
            import pytest

            @pytest.mark.asyncio
            async def test_the_loop():
                await asyncio.sleep(0)
                assert type(asyncio.get_running_loop()).__module__.startswith({OURS!r})
            """
        )
    )
    said = run(
        "-W", "ignore", "-m", "pytest", "-q", "-p", "pytest_asyncio", "-p", "no:cacheprovider", ".", cwd=tmp_path
    )
    assert "1 passed" in said


@pytest.mark.parametrize("name", ["uvicorn", "aiohttp"])
def test_unmodified_under_ropewalk_run(name: str, tmp_path: Path) -> None:
    """Without a word about a loop, `ropewalk run` gives these ours."""
    needed(name)
    programs = {
        "uvicorn": """
            import asyncio, uvicorn
            config = uvicorn.Config(app=lambda *_: None, loop="asyncio", lifespan="off")
            factory = config.get_loop_factory()
            loop = factory() if factory else asyncio.new_event_loop()
            print(type(loop).__module__)
            loop.close()
            """,
        "aiohttp": """
            import asyncio
            from aiohttp import web
            async def started(app):
                print(type(asyncio.get_running_loop()).__module__)
                asyncio.get_running_loop().call_soon(stop)
            def stop():
                raise web.GracefulExit
            app = web.Application()
            app.on_startup.append(started)
            web.run_app(app, host="127.0.0.1", port=0, print=None)
            """,
    }
    (tmp_path / "program.py").write_text(textwrap.dedent(programs[name]))
    assert run("-m", "ropewalk", "run", "program.py", cwd=tmp_path).startswith(OURS)
