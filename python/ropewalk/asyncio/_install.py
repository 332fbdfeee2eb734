"""Putting the Rust event loop in the place of asyncio's default, and taking it out again.

A program gets its loop from ``asyncio.run``, ``asyncio.Runner``, ``asyncio.new_event_loop``,
``asyncio.get_event_loop`` or by naming ``asyncio.EventLoop`` or ``asyncio.SelectorEventLoop``. The first four
end in one attribute of the default policy class; replacing that attribute keeps everything else as it is:
who warns, what ``set_event_loop_policy(None)`` means, which policy is current. The two names are replaced in
asyncio's namespace. A program that asks for another loop by name still gets that one.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import asyncio.streams
import asyncio.unix_events
import warnings
from _thread import allocate_lock
from typing import Any

from ropewalk import _replace
from ropewalk.asyncio._loop import EventLoop, new_event_loop
from ropewalk.asyncio._streams import StreamReader, StreamWriter

_DefaultPolicy: Any = asyncio.unix_events._UnixDefaultEventLoopPolicy
_original_selector_loop: Any = asyncio.SelectorEventLoop
_lock = allocate_lock()
_installed = False
_policies: list[Any] = []  # the one that was taken out, if one was


class _SelectorEventLoop(EventLoop, metaclass=_replace.StandIn):
    """``asyncio.SelectorEventLoop`` while ropewalk is installed.

    Given a selector, which only the original can use, it is the original.
    """

    _stands_for = (_original_selector_loop,)

    def __new__(cls, selector: Any = None) -> Any:
        if selector is not None:
            return _original_selector_loop(selector)
        return super().__new__(cls)

    def __init__(self, selector: None = None) -> None:
        super().__init__()


_SelectorEventLoop.__name__ = _SelectorEventLoop.__qualname__ = "EventLoop"


class EventLoopPolicy(_DefaultPolicy):  # type: ignore[misc]
    """asyncio's default policy with ropewalk's event loop.

    Policies are deprecated since Python 3.14; ``ropewalk.run``, ``loop_factory=ropewalk.new_event_loop`` and
    ``ropewalk.install`` do without them.
    """

    def _loop_factory(self) -> EventLoop:
        return new_event_loop()


def _set_policy(policy: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(policy)


def _replacements() -> _replace.Table:
    loops = {"EventLoop": _SelectorEventLoop, "SelectorEventLoop": _SelectorEventLoop}
    streams = {"StreamReader": StreamReader, "StreamWriter": StreamWriter}
    return {
        "asyncio.unix_events:_UnixDefaultEventLoopPolicy": {"_loop_factory": staticmethod(new_event_loop)},
        "asyncio": {**loops, **streams},
        "asyncio.streams": streams,
    }


def install() -> None:
    """Make the Rust event loop asyncio's default in this process. Again is no error; thread-safe.

    Loops that exist already go on as they are. A policy that was set before (uvloop's, say) is taken out;
    :func:`uninstall` puts it back.
    """
    global _installed
    with _lock:
        if _installed:
            return
        _installed = True
        _replace.put("asyncio", _replacements(), fresh=True)  # which of them needs a stand-in, is one
        policy = asyncio.events._event_loop_policy  # type: ignore[attr-defined]
        if policy is not None and not isinstance(policy, _DefaultPolicy):
            _policies.append(policy)
            _set_policy(None)


def uninstall() -> None:
    """Undo :func:`install`. Loops that exist already go on as they are. Thread-safe."""
    global _installed
    with _lock:
        _installed = False
        _replace.take_out("asyncio")
        while _policies:
            before = _policies.pop()
            # Unless the program has set one meanwhile. (Asking makes a default one.)
            policy = asyncio.events._event_loop_policy  # type: ignore[attr-defined]
            if policy is None or type(policy) is _DefaultPolicy:
                _set_policy(before)
