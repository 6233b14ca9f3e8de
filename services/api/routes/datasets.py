"""POST /v1/datasets: a user's own rows, for `data.train` and `data.validation` of the recipe `finetune`."""

import tempfile
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from reflux.views import DatasetView
from services.api import datasets
from services.api.auth import Operator
from services.api.problems import ProblemError
from services.api.session import Stored

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

BODY = {
    "required": True,
    "content": {form: {"schema": {"type": "string"}} for form in datasets.FORMS},
}


@router.post("", status_code=201, openapi_extra={"requestBody": BODY})
async def upload(
    _: Operator,
    request: Request,
    artifacts: Stored,
    name: Annotated[str, Query(pattern=r"^[A-Za-z0-9_-]{1,60}$", description="The file's, without an ending")] = "rows",
) -> DatasetView:
    """Store the body: JSONL of chat `messages`; or CSV with `messages` as JSON, or with `prompt` and `completion`.

    The same rows are stored once.
    """
    form = datasets.form_of(request.headers.get("content-type", ""))
    with tempfile.TemporaryFile() as file:
        try:
            async for part in request.stream():
                file.write(part)
        except ClientDisconnect as gone:
            raise ProblemError(400, "cut_short", "The upload broke off.", "Send it again.") from gone
        return await run_in_threadpool(datasets.store, artifacts, file, form, name)
