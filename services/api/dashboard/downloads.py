"""A run's artifacts: a page of them at a time, each to be had by whoever is signed in."""

import mimetypes
from urllib.parse import quote

from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from markupsafe import Markup
from nicegui import ui

from reflux.artifacts import Artifacts
from reflux.errors import RefluxError
from reflux.views import ArtifactView
from services.api import files, removals, runs
from services.api.dashboard import code, shell
from services.api.problems import ProblemError

PATH = "/runs/{run_id}/artifacts/{path:path}"
SHOWN = 50


class Downloads:
    """Looked up when it is opened first: the store may be slow."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.last: str | None = None
        card = ui.element("section").classes("card").props('aria-label="Artifacts"')
        with card, ui.expansion("Artifacts") as self.expansion:
            self.list = ui.element("div").classes("stack")
            self.more = ui.button("Show more", on_click=self._more).props("outline")
            self.more.set_visibility(False)
        self.expansion.on_value_change(self._opened)

    async def _opened(self) -> None:
        if self.expansion.value and self.last is None:
            await self._more()

    async def _more(self) -> None:
        try:
            found = await run_in_threadpool(lambda: files.listed(store(), self.run_id, self.last, SHOWN + 1))
        except RefluxError as error:
            ui.notify(f"{error.message}. {error.hint}", type="negative", multi_line=True)
            return
        self.more.set_visibility(len(found) > SHOWN)
        with self.list:
            if not found and self.last is None:
                ui.label("Nothing is stored yet.").classes("empty")
            else:
                ui.html(listed(self.run_id, found[:SHOWN]), sanitize=False)
        self.last = found[:SHOWN][-1].path if found else ""


def listed(run_id: str, found: list[ArtifactView]) -> Markup:
    rows = Markup("").join(
        Markup('<li><a href="/runs/{}/artifacts/{}" download>{}</a> <span class="quiet number">{}</span></li>').format(
            run_id, quote(row.path), code.visible(row.path), _size(row.size)
        )
        for row in found
    )
    return Markup('<ul class="files">{}</ul>').format(rows)


async def download(run_id: str, path: str) -> Response:
    """One artifact, for a browser that is signed in."""
    try:
        return await run_in_threadpool(_download, run_id, path)
    except ProblemError as error:
        return JSONResponse(error.problem.model_dump(), error.status_code)
    except RefluxError as error:
        return JSONResponse({"detail": error.message, "hint": error.hint}, 503)


def _download(run_id: str, path: str) -> Response:
    with shell.session() as session:
        runs.get(session, run_id)
        piece = removals.find(session, store(), run_id, path)
    url = files.signed_url(store(), piece) if shell.state().settings.sign_artifacts else None
    if url:
        return RedirectResponse(url, 307)
    name = quote(path.rsplit("/", 1)[-1])
    headers = {"Content-Length": str(piece.size), "Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
    media_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
    return StreamingResponse(files.stream(store(), piece), headers=headers, media_type=media_type)


def store() -> Artifacts:
    """As `services.api.session.artifacts_of`: made when it is first needed."""
    state = shell.state()
    if state.artifacts is None:
        state.artifacts = Artifacts(state.settings.artifacts_url)
    found: Artifacts = state.artifacts
    return found


def _size(size: int) -> str:
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= step:
            return f"{size / step:.1f} {unit}"
    return f"{size} B"
