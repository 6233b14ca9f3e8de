"""What a run holds: epochs, answers, metrics, logs, checkpoints, artifacts."""

import mimetypes
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from reflux.records import PromptSet
from reflux.run import Run
from reflux.views import (
    AnswerList,
    ArtifactList,
    CheckpointList,
    CheckpointView,
    EpochList,
    LogList,
    SeriesList,
)
from services.api import answers, files, history, removals, runs
from services.api.auth import Viewer
from services.api.session import Configured, Database, Reading, Stored

router = APIRouter(prefix="/v1/runs/{run_id}", tags=["runs"])

Limit = Annotated[int, Query(ge=1, le=1000)]
Counted = Annotated[int, Query(ge=0, le=2**62)]


@router.get("/epochs")
def epochs(_: Viewer, session: Reading, run_id: str, after: Counted = 0, limit: Limit = 100) -> EpochList:
    """The finished epochs, from the one after `after` on."""
    found = [epoch for epoch in _run(session, run_id).epochs if epoch.epoch > after]
    return EpochList(data=found[:limit], has_more=len(found) > limit)


@router.get("/answers")
def list_answers(
    _: Viewer,
    session: Reading,
    artifacts: Stored,
    run_id: str,
    epoch: Annotated[int | None, Query(ge=0, le=10**6, description="Left out: the epoch that the run is in")] = None,
    model: answers.Model = "student",
    prompt_set: Annotated[PromptSet | None, Query(alias="set")] = None,
    order: Annotated[answers.Order, Query(description="The worst first, or by prompt")] = "worst",
    after: Annotated[str | None, Query(max_length=300, description="An answer's id")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> AnswerList:
    """Scored answers of one epoch. Those of `base` and `best` are of the comparison at the end."""
    run = _run(session, run_id)
    removals.refuse_if_gone(session, run_id, "artifacts")
    number, data, more = answers.page(
        session,
        artifacts,
        run,
        epoch=epoch,
        model=model,
        prompt_set=prompt_set,
        order=order,
        after=after,
        limit=limit,
    )
    return AnswerList(epoch=number, data=data, has_more=more)


@router.get("/metrics")
def series(
    _: Viewer,
    session: Reading,
    run_id: str,
    name: Annotated[list[str] | None, Query(max_length=100, description="Left out: all series")] = None,
    max_points: Annotated[int, Query(ge=4, le=10_000)] = 500,
) -> SeriesList:
    """Series by name, each thinned to `max_points`; its first, last, lowest and highest points stay."""
    runs.get(session, run_id)
    return SeriesList(data=history.metrics(session, run_id, name or [], max_points))


@router.get("/logs")
def logs(
    _: Viewer,
    session: Reading,
    run_id: str,
    service: Annotated[str | None, Query(max_length=100)] = None,
    level: Annotated[str | None, Query(max_length=20)] = None,
    after: Counted = 0,
    limit: Limit = 100,
) -> LogList:
    runs.get(session, run_id)
    found = history.logs(session, run_id, after=after, limit=limit + 1, service=service, level=level)
    return LogList(data=found[:limit], has_more=len(found) > limit)


@router.get("/checkpoints")
def checkpoints(_: Viewer, session: Reading, run_id: str) -> CheckpointList:
    """An adapter for each epoch that was trained. `path` names its folder among the artifacts."""
    run = _run(session, run_id)
    best = run.best.epoch if run.best else None
    data = [
        CheckpointView(
            epoch=e.epoch,
            path=_inside(run, e.adapter_path),
            train_loss=e.train_loss,
            val_loss=e.val_loss,
            score=e.choosing_score,
            best=e.epoch == best,
        )
        for e in run.epochs
    ]
    trained = run.trained
    if trained and run.epoch not in {e.epoch for e in run.epochs}:
        path = _inside(run, trained.adapter_path)
        data.append(CheckpointView(epoch=run.epoch, path=path, train_loss=trained.train_loss, val_loss=trained.val_loss))
    return CheckpointList(data=data)


@router.get("/artifacts")
def list_artifacts(
    _: Viewer,
    session: Reading,
    artifacts: Stored,
    run_id: str,
    after: Annotated[str | None, Query(max_length=1000)] = None,
    limit: Limit = 1000,
) -> ArtifactList:
    """Paths and sizes, in path order, from the one after `after` on."""
    runs.get(session, run_id)
    found = files.listed(artifacts, run_id, after, limit + 1)
    return ArtifactList(data=found[:limit], has_more=len(found) > limit)


@router.get(
    "/artifacts/{path:path}",
    response_class=Response,
    responses={
        200: {"description": "The artifact", "content": {"*/*": {}}},
        206: {"description": "The part that `Range` asked for", "content": {"*/*": {}}},
        307: {"description": "To an address, signed for 15 minutes, at the object store (REFLUX_SIGN_ARTIFACTS)"},
    },
)
def artifact(
    _: Viewer,
    session: Reading,
    artifacts: Stored,
    settings: Configured,
    run_id: str,
    path: Annotated[str, Path(max_length=1000)],
    range_: Annotated[str | None, Header(alias="Range", max_length=200)] = None,
) -> Response:
    """One artifact, whole or a `Range` of it."""
    runs.get(session, run_id)
    piece = removals.find(session, artifacts, run_id, path, range_)
    url = files.signed_url(artifacts, piece) if settings.sign_artifacts else None
    if url:
        return RedirectResponse(url, 307)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(piece.stop - piece.start),
        "Content-Disposition": "attachment",
        "ETag": piece.tag,
    }
    if piece.partial:
        headers["Content-Range"] = f"bytes {piece.start}-{piece.stop - 1}/{piece.size}"
    media_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
    return StreamingResponse(files.stream(artifacts, piece), 206 if piece.partial else 200, headers, media_type)


def _run(session: Database, run_id: str) -> Run:
    return Run.model_validate(runs.get(session, run_id).state)


def _inside(run: Run, path: str) -> str:
    return path.removeprefix(f"runs/{run.id}/")
