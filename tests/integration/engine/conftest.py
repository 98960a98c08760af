"""Hosts with engines, as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from support.engines import Host, cable


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with cable() as (one, two):
        one.prepare()
        two.prepare()
        yield one, two


@pytest.fixture
def pair() -> Iterator[Callable[..., tuple[Host, Host]]]:
    """Called with an engine's options: two hosts that reach each other."""
    with ExitStack() as stack:

        def make(queues: int = 1, **options: Any) -> tuple[Host, Host]:
            one, two = stack.enter_context(cable())
            for host, other in ((one, two), (two, one)):
                host.prepare(queues="multi_queue" if queues > 1 else "")
                host.start(queues=queues, **options).apply([], other.routes())
            return one, two

        yield make
