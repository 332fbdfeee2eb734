"""A loop for each test, in which nothing may be left open."""

from collections.abc import Iterator
from typing import Any

import pytest
import rig


@pytest.fixture(params=rig.LOOPS)
def loop(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Either loop: what asyncio's does is what is expected."""
    with rig.borrowed(request.param) as loop:
        yield loop


@pytest.fixture(params=[rig.OURS])
def our_loop(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Ropewalk's loop, for what is its own promise or too much work to do twice."""
    with rig.borrowed(request.param) as loop:
        yield loop
