"""``WritePipeTransport``: asyncio's, whose end comes once and after its last byte."""

from __future__ import annotations

import asyncio.unix_events
from typing import Any

_Base: Any = asyncio.unix_events._UnixWritePipeTransport  # type: ignore[attr-defined]


class WritePipeTransport(_Base):  # type: ignore[misc]
    """The writing end of a pipe; made by the event loop."""

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        # A protocol whose resume_writing() closes the transport has asyncio call this twice, and one that writes
        # before it closes, with that still to be sent.
        if self._pipe is not None and not self._buffer:
            super()._call_connection_lost(exc)
