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
import threading
import warnings
from typing import Any

from ropewalk.asyncio._loop import EventLoop, new_event_loop
from ropewalk.asyncio._streams import StreamReader, StreamWriter

_DefaultPolicy: Any = asyncio.unix_events._UnixDefaultEventLoopPolicy
_lock = threading.Lock()
_replaced: list[tuple[Any, str, Any]] = []


class _AsTheOriginal(type):
    """``isinstance`` and ``issubclass`` of the replaced name answer as they did: all these loops are of that class."""

    def __instancecheck__(cls, instance: object) -> bool:
        if cls is _SelectorEventLoop:
            return isinstance(instance, _original_selector_loop)
        return super().__instancecheck__(instance)  # a class that a program derived from it

    def __subclasscheck__(cls, subclass: type) -> bool:
        if cls is _SelectorEventLoop:
            return issubclass(subclass, _original_selector_loop)
        return super().__subclasscheck__(subclass)


class _SelectorEventLoop(EventLoop, metaclass=_AsTheOriginal):
    """``asyncio.SelectorEventLoop`` while ropewalk is installed.

    Given a selector, which only the original can use, it is the original.
    """

    def __new__(cls, selector: Any = None) -> Any:
        if selector is not None:
            return _original_selector_loop(selector)
        return super().__new__(cls)

    def __init__(self, selector: None = None) -> None:
        super().__init__()


_SelectorEventLoop.__name__ = _SelectorEventLoop.__qualname__ = "EventLoop"
_original_selector_loop: Any = asyncio.SelectorEventLoop


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


def install() -> None:
    """Make the Rust event loop asyncio's default in this process. Again is no error; thread-safe.

    Loops that exist already go on as they are. A policy that was set before (uvloop's, say) is taken out;
    :func:`uninstall` puts it back.
    """
    with _lock:
        if _replaced:
            return

        def replace(owner: Any, name: str, value: Any) -> None:
            _replaced.append((owner, name, owner.__dict__[name]))
            setattr(owner, name, value)

        replace(_DefaultPolicy, "_loop_factory", staticmethod(new_event_loop))
        if "EventLoop" in asyncio.__dict__:  # from Python 3.13 on
            replace(asyncio, "EventLoop", _SelectorEventLoop)
        replace(asyncio, "SelectorEventLoop", _SelectorEventLoop)
        for name, native in (("StreamReader", StreamReader), ("StreamWriter", StreamWriter)):
            replace(asyncio, name, native)
            replace(asyncio.streams, name, native)
        policy = asyncio.events._event_loop_policy  # type: ignore[attr-defined]
        if policy is not None and not isinstance(policy, _DefaultPolicy):
            _replaced.append((asyncio.events, "", policy))
            _set_policy(None)


def uninstall() -> None:
    """Undo :func:`install`. Loops that exist already go on as they are. Thread-safe."""
    with _lock:
        while _replaced:
            owner, name, value = _replaced.pop()
            if name:
                setattr(owner, name, value)
                continue
            # The policy of before, unless the program has set one meanwhile. (Asking makes a default one.)
            policy = asyncio.events._event_loop_policy  # type: ignore[attr-defined]
            if policy is None or type(policy) is _DefaultPolicy:
                _set_policy(value)
