"""POST /v1/completions: a question to a checkpoint, with its answer as it is written."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing

from fastapi import APIRouter, Request
from pydantic import BaseModel
from sse_starlette.sse import EventSourceResponse

from reflux.completions import CompletionRequest, CompletionView, Piece
from services.api.auth import Operator
from services.api.errands import Asked, Errands
from services.api.leaving import until_left
from services.api.problems import ProblemError

router = APIRouter(prefix="/v1/completions", tags=["completions"])

HEARTBEAT_SECONDS = 10


@router.post(
    "",
    response_model=CompletionView,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def create(by: Operator, request: Request, body: CompletionRequest) -> CompletionView | EventSourceResponse:
    """Ask a student. Whoever leaves before the end ends the generation."""
    errands: Errands = request.app.state.errands
    asked = await errands.ask(body, by)
    if body.stream:
        return EventSourceResponse(_events(errands, asked), ping=HEARTBEAT_SECONDS)
    answer = await until_left(request, _last(errands, asked))
    if answer is None:
        raise ProblemError(503, "shutting_down", "The API shuts down.", "Ask again in a moment.", headers={"Retry-After": "2"})
    return answer


async def _last(errands: Errands, asked: Asked) -> CompletionView:
    async with aclosing(errands.follow(asked)) as events:
        *_, last = [event async for event in events]
    assert isinstance(last, CompletionView)
    return last


async def _events(errands: Errands, asked: Asked) -> AsyncIterator[bytes]:
    try:
        async with aclosing(errands.follow(asked)) as events:
            async for event in events:
                name = "piece" if isinstance(event, Piece) else "end" if isinstance(event, CompletionView) else "waiting"
                yield _sent(name, event)
    except ProblemError as error:
        yield _sent("error", error.problem)


def _sent(name: str, told: BaseModel) -> bytes:
    # In ASCII: some readers of lines also end them at U+2028 and its like, which a student may write.
    return f"event: {name}\ndata: {json.dumps(told.model_dump(mode='json'))}\n\n".encode()
