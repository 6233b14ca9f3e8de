"""A look into a place of data: what a teacher worker finds there, drawn below the field that names it."""

from collections.abc import Callable, Sequence

import pydantic
from markupsafe import Markup
from nicegui import ui

from reflux.previews import Excerpt, Holds, LinesPreview, PreviewRequest, SourcesPreview
from reflux.training_rows import Row
from services.api.dashboard import code, shell
from services.api.errands import Errands
from services.api.problems import ProblemError

SHOWN_CHARACTERS = 240  # of a turn


class Look:
    """`place` says what the field holds when the button is pressed; `of` tells the buttons apart for who hears a page."""

    def __init__(self, holds: Holds, place: Callable[[], str], of: str) -> None:
        self.holds, self.place = holds, place
        self.button = ui.button("Look into it", icon="search", on_click=self.look).props("flat dense").classes("start")
        self.button.props["aria-label"] = f"Look into it: {of}"
        self.found = ui.element("div").classes("stack").props("aria-live=polite")

    async def look(self) -> None:
        """Whoever leaves meanwhile sees nothing of it: a look takes seconds, and ends by itself."""
        self.button.disable()
        self._tell("A teacher worker looks into it …", "quiet small")
        try:
            request = PreviewRequest(uri=self.place(), holds=self.holds)
            errands: Errands = shell.state().errands
            found = await errands.preview(request, await shell.operator())
        except pydantic.ValidationError:
            told = "No place is named." if not self.place() else "This is too long for an address."
            self._tell(f"{told} It begins with file:// or s3://.", "problem small")
        except ProblemError as error:
            self._tell(f"{error.problem.detail.rstrip('.')}. {error.problem.hint}", "problem small")
        else:
            self._show(found)
        if not self.button.is_deleted:
            self.button.enable()

    def clear(self) -> None:
        self.found.clear()

    def _tell(self, told: str, classes: str) -> None:
        if self.found.is_deleted:
            return
        self.found.clear()
        with self.found:
            ui.html(code.visible(told), sanitize=False, tag="p").classes(classes)

    def _show(self, found: SourcesPreview | LinesPreview) -> None:
        if self.found.is_deleted:
            return
        self._tell(counted(found), "small")
        with self.found:
            if isinstance(found, SourcesPreview):
                lines(found.paths)
                if found.first:
                    begun(found.first)
            else:
                lines([f"{wrong.field}: {wrong.message}" for wrong in found.wrong], "problem")
                rows(found.rows)
            if found.blots:
                told = f"Secrets struck out here: {found.blots}. A run would read them: take them out."
                shell.text(told, "p", "problem small")


def counted(found: SourcesPreview | LinesPreview) -> str:
    if isinstance(found, SourcesPreview):
        of_c = sum(found.suffixes.values())
        by_suffix = ", ".join(found.by_suffix())
        more = "" if found.complete else " There are more: a look takes some seconds only."
        return f"Files of C or C++: {of_c:,}{f' ({by_suffix})' if by_suffix else ''}. Others: {found.others:,}.{more}"
    first = "" if found.complete else "the first "
    return f"Looked at {first}{found.checked:,} {found.holds} ({found.form.upper()}). Wrong: {found.errors:,}."


def lines(told: Sequence[str], classes: str = "") -> None:
    if told:
        items = Markup("").join(Markup("<li>{}</li>").format(code.visible(line)) for line in told)
        ui.html(items, sanitize=False, tag="ul").classes(f"lines {classes}")


def rows(shown: Sequence[Row]) -> None:
    """The first rows, by turns."""
    if not shown:
        return
    with ui.element("div").classes("preview").props('tabindex=0 role=region aria-label="The first rows"'):
        for row in shown:
            turns = [Markup("<p><b>{}</b> {}</p>").format(turn.role, code.visible(_cut(turn.content))) for turn in row.messages]
            ui.html(Markup("").join(turns), sanitize=False).classes("preview-row")


def begun(first: Excerpt) -> None:
    told = Markup("<b>{}</b><pre>{}</pre>").format(code.visible(first.path), code.visible(first.text))
    with ui.element("div").classes("preview").props('tabindex=0 role=region aria-label="The first lines of a file"'):
        ui.html(told, sanitize=False).classes("preview-row")


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
