"""The condition inside of another primitive."""

from __future__ import annotations

import sys

from ropewalk import _core
from ropewalk._condition import Condition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Inside(Condition):
    """The condition that programs find inside of an event or a semaphore, made when they look for it."""

    def __init__(self, let_go: Callable[[int], None] | None = None) -> None:
        super().__init__(_core.Lock())
        self._let_go = let_go

    def notify(self, n: int = 1) -> None:
        """Wake `n` of those who wait on the condition, and of those who wait by the primitive's own method."""
        super().notify(n)
        if self._let_go is not None:
            self._let_go(n)

    def notify_all(self) -> None:
        """Wake all who wait on the condition, and all who wait by the primitive's own method."""
        self._wake_all()
        if self._let_go is not None:
            self._let_go(sys.maxsize)

    def _wake_all(self) -> None:
        super().notify_all()
