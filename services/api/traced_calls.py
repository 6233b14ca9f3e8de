"""Spans of the API's own: the call that made a run, and those by which workers report."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request

from reflux import traces
from services.api.auth import AtWork


def created(request: Request, run_id: str, began: int) -> None:
    """`began`: nanoseconds since 1970. The span is in the run's trace, and linked to the caller's own where it has one."""
    parent, link = traces.traceparent(run_id), request.headers.get("traceparent")
    with traces.span(_name(request), parent, {"reflux.run.id": run_id}, kind="server", began=began, link=link):
        pass


async def reported(_: AtWork, request: Request) -> AsyncIterator[None]:
    """Below the span that the worker's `traceparent` names. Only for those who hold a worker's key."""
    with traces.span(_name(request), request.headers.get("traceparent"), kind="server"):
        yield


def _name(request: Request) -> str:
    route: Any = request.scope["route"]
    return f"{request.method} {route.path}"
