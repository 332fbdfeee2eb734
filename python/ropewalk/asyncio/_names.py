"""``getaddrinfo``: addresses in numbers at once, names by the core's own threads."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

_Base: Any = asyncio.SelectorEventLoop

# What the core does itself, as long as it is what the program would call: some replace it.
_getaddrinfo = socket.getaddrinfo


class NameMethods(_Base):  # type: ignore[misc]
    """Name resolution, documented at https://docs.python.org/3/library/asyncio-eventloop.html#dns."""

    # An executor of the program's own is one that it wants to be used.
    _has_own_executor = False

    def set_default_executor(self, executor: Any) -> None:
        """Set the executor that ``run_in_executor(None, ...)`` uses, and name resolution with it."""
        super().set_default_executor(executor)
        self._has_own_executor = True

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """``socket.getaddrinfo`` without blocking."""
        if not self._debug and not self._has_own_executor and socket.getaddrinfo is _getaddrinfo:
            found = self._begin_lookup(host, port, family, type, proto, flags)
            if found.__class__ is list:
                return found
            if found is not NotImplemented:
                return await found
        return await super().getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)
