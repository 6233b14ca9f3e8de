"""A call that may wait for long: it ends with whoever made it, and with the server."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from sse_starlette.sse import AppStatus

T = TypeVar("T")

LOOK_SECONDS = 0.5


async def until_left(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` gives; None, and it is cancelled, once the client has left or the server shuts down."""
    task = asyncio.create_task(work)
    while not (await asyncio.wait({task}, timeout=LOOK_SECONDS))[0]:
        if AppStatus.should_exit or await request.is_disconnected():
            task.cancel()
            await asyncio.wait({task})
            return None
    return task.result()
