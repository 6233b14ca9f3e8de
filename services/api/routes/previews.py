"""POST /v1/previews: what is in a folder, a bucket or a file of rows, before a run learns from it."""

from fastapi import APIRouter, Request

from reflux.previews import Preview, PreviewRequest
from services.api.auth import Operator
from services.api.errands import Errands
from services.api.leaving import until_left
from services.api.problems import ProblemError

router = APIRouter(prefix="/v1/previews", tags=["datasets"])


@router.post("")
async def preview(by: Operator, request: Request, body: PreviewRequest) -> Preview:
    """Have a teacher worker look, for a few seconds, and say what is there and what is wrong with it."""
    errands: Errands = request.app.state.errands
    found = await until_left(request, errands.preview(body, by))
    if found is None:
        raise ProblemError(503, "shutting_down", "The API shuts down.", "Ask again in a moment.", headers={"Retry-After": "2"})
    return found
