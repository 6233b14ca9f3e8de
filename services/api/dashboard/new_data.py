"""What a new run learns from: sources and prompts by path or bucket, or rows, uploaded too. All of it can be looked into."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from fastapi.concurrency import run_in_threadpool
from nicegui import events, ui

from reflux.views import DatasetView, Problem
from services.api import datasets
from services.api.dashboard import previews, shell
from services.api.dashboard.previews import Look
from services.api.dashboard.spec_form import Entry, Form, put_value

FORMS = {".jsonl": "jsonl", ".csv": "csv"}
WHERE = "A folder that the workers see (file:///…), or a bucket (s3://bucket/prefix/)."


class Sources:
    """`data.sources`: places of source files, each with its domain."""

    def __init__(self, form: Form) -> None:
        self.form = form

    def draw(self) -> None:
        self.place = ui.element("div").classes("stack")
        self._rows()

    def _given(self) -> list[dict[str, Any]]:
        given = self.form.get("data.sources")
        kept = [row for row in given if isinstance(row, dict)] if isinstance(given, list) else []
        return kept or [{"uri": "", "domain": ""}]

    def _place(self, number: int) -> str:
        return str(self._given()[number].get("uri") or "")

    def _rows(self) -> None:
        self.place.clear()
        with self.place:
            for number, row in enumerate(self._given()):
                with ui.element("div").classes("source"):
                    first = number == 0
                    label = "Source files" if first else f"Source files, place {number + 1}"
                    self._box(number, "uri", row, label, "s3://our-code/tsn/")
                    self._box(number, "domain", row, "Domain", "generic")
                    if len(self._given()) > 1:
                        drop = ui.button(icon="close", on_click=lambda number=number: self._drop(number)).props(
                            "flat round dense"
                        )
                        drop.props["aria-label"] = f"Remove place {number + 1}"
                Look("sources", partial(self._place, number), f"source {number + 1}")
            error = shell.text("", "p", "problem small").props("id=f-data-sources-error role=alert")
            shell.text(WHERE, "p", "help").props("id=f-data-sources-help")
            ui.button("Another place", icon="add", on_click=self._add).props("flat dense").classes("start")
        self.form.entries["data.sources"] = Entry(self.first, error)

    def _box(self, number: int, name: str, row: dict[str, Any], label: str, example: str) -> None:
        box_id = "f-data-sources" if (number, name) == (0, "uri") else f"source-{number}-{name}"
        with ui.element("div").classes("field"):
            shell.text(label, "label").props["for"] = box_id
            box = ui.element("input").props("type=text autocomplete=off spellcheck=false")
            box.props["id"], box.props["^value"], box.props["placeholder"] = box_id, str(row.get(name) or ""), example
            box.props["aria-describedby"] = "f-data-sources-error f-data-sources-help"
            box.on("change", lambda event: self._put(number, name, str(event.args)), js_handler="(e) => emit(e.target.value)")
        if box_id == "f-data-sources":
            self.first = box

    def _put(self, number: int, name: str, value: str) -> None:
        rows = self._given()
        rows[number] = {key: word for key, word in {**rows[number], name: value.strip()}.items() if word}
        self._keep(rows)

    def _add(self) -> None:
        self._keep([*self._given(), {"uri": ""}])
        self._rows()

    def _drop(self, number: int) -> None:
        self._keep([row for place, row in enumerate(self._given()) if place != number])
        self._rows()

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        self.form.put("data.sources", rows if any(row.get("uri") for row in rows) or len(rows) > 1 else None)


class Rows:
    """`data.train` or `data.validation`: a file of chat rows, named or uploaded."""

    def __init__(self, form: Form, path: str, label: str) -> None:
        self.form, self.path, self.label = form, path, label

    def draw(self) -> None:
        self.entry = self.form.draw(self.path, self.label)
        upload = ui.upload(on_upload=self._take, auto_upload=True, max_files=1).classes("unshown")
        upload.props('accept=".jsonl,.csv"').props["max-file-size"] = shell.state().settings.max_dataset_bytes
        upload.on("rejected", lambda: self._tell("This file can't be taken: it is not JSONL or CSV, or it is too large."))
        pick = ui.button("Upload JSONL or CSV", icon="upload").props("flat dense").classes("start")
        pick.on("click", js_handler=f"() => getElement({upload.id}).$refs.qRef.pickFiles()")
        self.upload = upload
        self.place = ui.element("div").classes("stack").props("aria-live=polite")
        self.look = Look("rows", lambda: str(self.form.get(self.path) or ""), self.label)

    async def _take(self, event: events.UploadEventArguments) -> None:
        path = Path(event.file.name)
        form = FORMS.get(path.suffix.lower())
        self.upload.reset()
        if form is None:
            self._tell(f"{path.name} is neither JSONL nor CSV: its name ends in {path.suffix or 'nothing'}.")
            return
        name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in path.stem)[:60] or "rows"
        with tempfile.NamedTemporaryFile() as file:
            await event.file.save(file.name)
            artifacts = await run_in_threadpool(shell.artifacts)
            with Path(file.name).open("rb") as opened:
                stored = await shell.act(
                    lambda _session, _by: datasets.store(artifacts, opened, form, name),  # type: ignore[arg-type]
                    problem=lambda wrong: self._wrong(path.name, wrong),
                )
        if stored is not None:
            put_value(self.entry.box, stored.uri)
            self.form.put(self.path, stored.uri)
            self._right(path.name, stored)

    def _tell(self, told: str) -> None:
        self.place.clear()
        with self.place:
            shell.text(told, "p", "problem")

    def _wrong(self, name: str, problem: Problem) -> None:
        """Every line that is wrong, as far as the check names them."""
        self.place.clear()
        with self.place:
            shell.text(f"{name} was not taken. {problem.detail} {problem.hint}", "p", "problem")
            with ui.element("ul").classes("lines"):
                for line in problem.errors:
                    shell.text(f"{line.field}: {line.message}", "li")

    def _right(self, name: str, stored: DatasetView) -> None:
        self.place.clear()
        self.look.clear()
        with self.place:
            shell.text(f"{name}: {stored.rows} rows, {stored.bytes / 1000:,.0f} kB. The first:", "p", "small")
            previews.rows(stored.preview)


class Prompts:
    """`prompts.uri`: prompts of one's own, in place of those that the sources give."""

    def __init__(self, form: Form) -> None:
        self.form = form

    def draw(self) -> None:
        self.form.draw("prompts.uri", "Prompts of your own")
        Look("prompts", lambda: str(self.form.get("prompts.uri") or ""), "prompts")
