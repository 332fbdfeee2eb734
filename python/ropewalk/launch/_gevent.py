"""Leaves threads to gevent where it puts greenlets in their place.

``gevent.monkey`` makes locks, events and queues of the standard library switch to another greenlet where they would
block. Ropewalk's block the thread, and every greenlet with it. So what gevent is about to replace, and what is built on
it, is taken out before; asyncio's loop is none of that, and stays.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SYSTEMS = ("threading", "queue", "concurrent.futures")


def has_threads() -> bool:
    """Whether gevent has replaced threads already."""
    monkey: Any = sys.modules.get("gevent.monkey")
    patched = getattr(monkey, "is_module_patched", None)  # not there while it is being imported
    return patched is not None and bool(patched("threading"))


def watch() -> None:
    """Hear of it when gevent is about to."""
    from gevent.events import subscribers

    if _about_to_patch not in subscribers:
        subscribers.append(_about_to_patch)


def _about_to_patch(event: Any) -> None:
    from gevent import events

    if isinstance(event, events.GeventWillPatchAllEvent):
        threads = event.will_patch_module("thread")
    elif isinstance(event, events.GeventWillPatchModuleEvent):
        threads = event.module_name in ("_thread", "threading", "queue")
    else:
        return
    if threads:
        from ropewalk.launch._install import uninstall

        uninstall(*SYSTEMS)
