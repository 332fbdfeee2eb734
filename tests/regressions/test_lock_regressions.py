"""Bugs that the locks once had."""

from __future__ import annotations

import threading

import rig


def test_whoever_asks_whether_a_lock_is_native_hears_yes() -> None:
    """trio refuses a reentrant lock whose class is not of `_thread`; all of its programs died."""
    done = rig.script("""
        import ropewalk
        ropewalk.install()
        import threading
        print(threading.RLock().__class__.__module__, threading.Lock().__class__.__module__)
    """)
    assert done.stdout.split() == [type(kind()).__module__ for kind in (threading.RLock, threading.Lock)]
