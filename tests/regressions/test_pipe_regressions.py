"""Bugs of pipes that were once found; each test is named after what broke."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
import rig


@pytest.mark.parametrize("last", [b"", b"last words"], ids=["close", "write, close"])
def test_a_pipe_that_is_closed_by_resume_writing_ends_once_and_after_its_last_byte(last: bytes) -> None:
    """AttributeError: 'NoneType' object has no attribute 'connection_lost'; or the last bytes lost."""
    lost: list[Any] = []

    class Protocol(asyncio.BaseProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def resume_writing(self) -> None:
            if last:
                self.transport.write(last)
            self.transport.close()

        def connection_lost(self, exc: Any) -> None:
            lost.append(exc)

    with rig.borrowed(rig.OURS.values[0]) as loop:

        async def main() -> None:
            reading, writing = os.pipe()
            os.set_blocking(reading, False)
            transport, _ = await loop.connect_write_pipe(Protocol, os.fdopen(writing, "wb", 0))
            data = bytes(1 << 20)
            transport.write(data)
            received = bytearray()
            while not lost or len(received) < len(data) + len(last):
                try:
                    received += os.read(reading, 1 << 16)
                except BlockingIOError:
                    pass
                await asyncio.sleep(0)
            assert received == data + last and lost == [None]
            os.close(reading)

        rig.run(loop, main())
        assert not loop.reports
