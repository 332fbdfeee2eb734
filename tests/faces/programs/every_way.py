"""Says whose event loop each way of getting one gives."""

import asyncio
import threading
import unittest
import warnings


async def name():
    return type(asyncio.get_running_loop()).__module__


def by_new_event_loop():
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(name())
    finally:
        loop.close()


def by_runner():
    with asyncio.Runner() as runner:
        return runner.run(name())


def by_policy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loop = asyncio.get_event_loop_policy().new_event_loop()
    try:
        return loop.run_until_complete(name())
    finally:
        loop.close()


def by_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(name())))
    thread.start()
    thread.join()
    return found[0]


def by_unittest():
    found = []

    class Case(unittest.IsolatedAsyncioTestCase):
        async def test(self):
            found.append(await name())

    Case("test").run(unittest.TestResult())
    return found[0]


for label, way in {
    "asyncio.run": lambda: asyncio.run(name()),
    "asyncio.Runner": by_runner,
    "asyncio.new_event_loop": by_new_event_loop,
    "policy": by_policy,
    "thread": by_thread,
    "unittest": by_unittest,
}.items():
    print(f"{label}: {way()}")
