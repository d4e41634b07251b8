"""Fixtures of the simulator's own tests: a server of any profile in the test's loop, used over a real socket."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from support.served import Served, serving


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Served]]]:
    async with AsyncExitStack() as stack:

        async def start(profile_name: str = "hosted", **changes: object) -> Served:
            return await stack.enter_async_context(serving(profile_name, **changes))

        yield start


@pytest.fixture
async def served(serve: Callable[..., Awaitable[Served]]) -> Served:
    return await serve()
