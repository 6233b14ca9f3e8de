"""The answers of an epoch, worst first, and one of them with all that is known about it. What is chosen stands in the address."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from nicegui import ui
from nicegui.events import KeyEventArguments
from sqlalchemy.orm import Session

from reflux.records import PromptSet
from reflux.run import Run
from reflux.views import AnswerView
from services.api import answers, removals, runs
from services.api.answers import Scored
from services.api.dashboard import address, answer, code, live, sheets, shell
from services.api.dashboard.downloads import store

SHOWN = 25
SETS: dict[str, tuple[answers.Model, PromptSet, str]] = {
    "practice": ("student", "practice", "Practice"),
    "dev": ("student", "dev", "Dev"),
    "base": ("base", "test", "Test: base"),
    "best": ("best", "test", "Test: student"),
}
TO_CURRENT = "document.querySelector('.across [aria-current]')?.scrollIntoView({inline: 'center', block: 'nearest'})"
ORDERS = {"worst": "Worst first", "prompt": "By prompt"}
ONLY = {"": "All answers", "poor": "Poor ones", "broken": "Not compiling"}


@dataclass(frozen=True)
class Where:
    """What the page shows. Without `epoch` the newest that has answers; without `prompt` the first of the list."""

    epoch: int | None = None
    set: str = "practice"
    order: str = "worst"
    only: str = ""
    page: int = 1
    prompt: str = ""
    sample: int = 0
    diff: str = "split"

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """What can't be is as if it were left out: a bookmark always shows something."""
        return cls(
            epoch=_number(query.get("epoch"), None),
            set=_one_of(SETS, query.get("set"), "practice"),
            order=_one_of(ORDERS, query.get("order"), "worst"),
            only=_one_of(ONLY, query.get("only"), ""),
            page=max(1, _number(query.get("page"), 1) or 1),
            prompt=query.get("prompt", "")[:300],
            sample=_number(query.get("sample"), 0) or 0,
            diff=_one_of(("split", "unified"), query.get("diff"), "split"),
        )

    def at(self, run_id: str) -> str:
        given = {name: getattr(self, name) for name in self.__dataclass_fields__ if getattr(self, name) != getattr(Where, name)}
        return f"/runs/{run_id}/answers{address.query(given)}"


@dataclass
class Listing:
    """`found` are all that pass the filter, `rows` those of the page; `counts` by epoch, model and set.

    `removed`: that retention has taken them.
    """

    run: Run
    where: Where
    counts: dict[tuple[int, str, str], int]
    found: list[Scored]
    rows: list[AnswerView]
    removed: str = ""

    @property
    def epoch(self) -> int:
        return self.where.epoch or 0

    @property
    def total(self) -> int:
        model, prompt_set, _ = SETS[self.where.set]
        return self.counts.get((self.epoch, model, prompt_set), 0)

    def place(self, where: Where) -> int | None:
        """Where the chosen answer stands among those found; the first, if none is chosen."""
        if not where.prompt:
            return 0 if self.found else None
        wanted = where.prompt, where.sample
        return next((i for i, row in enumerate(self.found) if (row.brief.prompt_id, row.brief.sample) == wanted), None)


def read(session: Session, run_id: str, where: Where) -> Listing:
    run = Run.model_validate(runs.get(session, run_id).state)
    counts = answers.counts(session, run_id)
    model, prompt_set, _ = SETS[where.set]
    answered = [epoch for epoch, of, in_set in counts if (of, in_set) == (model, prompt_set)]
    epoch = max(answered, default=run.epoch) if where.epoch is None else where.epoch
    order: answers.Order = "prompt" if where.order == "prompt" else "worst"
    found = answers.ordered(session, store(), run_id, epoch, model, prompt_set, order)
    threshold = run.spec.refining.quality_threshold
    found = [row for row in found if _passes(row, where.only, threshold)]
    listing = Listing(run, replace(where, epoch=epoch), counts, found, [])
    listing.removed = next((r.told for r in removals.of_run(session, run_id) if r.what == "artifacts"), "")
    place = listing.place(where) if where.prompt else None
    if place is not None:
        listing.where = replace(listing.where, page=place // SHOWN + 1)
    start = (min(listing.where.page, -(-len(found) // SHOWN) or 1) - 1) * SHOWN
    listing.rows = answers.whole(session, store(), run_id, epoch, found[start : start + SHOWN])
    return listing


def read_one(session: Session, run_id: str, epoch: int, row: Scored) -> AnswerView | None:
    return next(iter(answers.whole(session, store(), run_id, epoch, [row])), None)


async def show(run_id: str) -> None:
    sheets.add("run.css")
    sheets.add("answers.css")
    with shell.page("Answers", here="runs"):
        where = Where.of(ui.context.client.request.query_params)
        page = _Page(run_id)
        live.follow_run(run_id, page.look_again)
        listing = await shell.read(lambda session: read(session, run_id, where))
        await page.draw(listing, where)


class _Page:
    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.turn = 0
        self.drawn = False
        self.shown: AnswerView | None = None

    async def draw(self, listing: Listing, where: Where) -> None:
        ui.context.client.title = f"Answers of {code.plain(listing.run.spec.name)} · Reflux"
        with ui.element("div").classes("bar head"):
            shell.heading("Answers", 1)
            ui.link(code.plain(listing.run.spec.name), f"/runs/{self.run_id}")
            with ui.element("nav").classes("bar end").props('aria-label="This run"'):
                ui.link("Compare checkpoints", f"/compare?runs={self.run_id}")
        self.filters = ui.element("div").classes("bar filters").props('role="search" aria-label="Which answers"')
        self.news = ui.button(on_click=self.reload).props("outline dense").classes("news")
        self.news.set_visibility(False)
        with ui.element("div").classes("answers") as self.frame:
            self.list = ui.element("nav").classes("list card").props('aria-label="Answers"')
            self.detail = ui.element("article").classes("detail").props('aria-live="polite" aria-label="Answer"')
        self.listing, self.where = listing, where
        self._draw_filters()
        self._draw_list()
        await self._show_chosen()
        ui.keyboard(self._key, ignore=["input", "select", "textarea"])
        address.on_move(self.moved)
        self.drawn = True

    # Moving

    async def go(self, where: Where, *, push: bool = True) -> None:
        """Show what `where` says, and only read what is not there yet."""
        if push and where.at(self.run_id) != self.where.at(self.run_id):
            address.push(where.at(self.run_id))
        same = ("epoch", "set", "order", "only", "page")
        before, self.where = self.where, where
        self.turn += 1
        if any(getattr(before, name) != getattr(where, name) for name in same) or self._is_elsewhere(where):
            turn = self.turn
            listing = await shell.read(lambda session: read(session, self.run_id, where))
            if turn != self.turn:
                return
            self.listing = listing
            self._draw_filters()
            self.news.set_visibility(False)
        self._draw_list()
        await self._show_chosen()

    def _is_elsewhere(self, where: Where) -> bool:
        """Whether the chosen answer is on another page of the list than the one shown."""
        place = self.listing.place(where)
        return place is not None and bool(where.prompt) and place // SHOWN + 1 != self.listing.where.page

    async def moved(self, query: dict[str, str]) -> None:
        await self.go(Where.of(query), push=False)

    async def reload(self) -> None:
        self.listing = await shell.read(lambda session: read(session, self.run_id, self.where))
        self.news.set_visibility(False)
        self._draw_filters()
        self._draw_list()
        await self._show_chosen()

    async def step(self, by: int) -> None:
        place = self.listing.place(self.where)
        if place is None or not 0 <= place + by < len(self.listing.found):
            return
        brief = self.listing.found[place + by].brief
        await self.go(replace(self.where, prompt=brief.prompt_id, sample=brief.sample, page=1))

    async def _key(self, event: KeyEventArguments) -> None:
        modified = event.modifiers.ctrl or event.modifiers.alt or event.modifiers.meta
        if event.action.keydown and not modified:
            if event.key == "j" or event.key.arrow_right:
                await self.step(1)
            elif event.key == "k" or event.key.arrow_left:
                await self.step(-1)

    async def look_again(self) -> None:
        """More answers are offered, so that no list moves below a hand; what became of the one shown is shown."""
        if not self.drawn:
            return
        _, counts = await shell.read(lambda session: (runs.get(session, self.run_id), answers.counts(session, self.run_id)))
        model, prompt_set, _ = SETS[self.where.set]
        more = counts.get((self.listing.epoch, model, prompt_set), 0) - self.listing.total
        if more and not self.listing.found:
            await self.reload()
        elif more:
            self.news.set_text(f"{more} more are scored: show them")
            self.news.set_visibility(True)
        elif set(counts) != set(self.listing.counts):
            self.listing.counts = counts
            self._draw_filters()
        place = self.listing.place(self.where)
        if place is not None and self.shown is not None:
            row, epoch = self.listing.found[place], self.listing.epoch
            now = await shell.read(lambda session: read_one(session, self.run_id, epoch, row))
            if now is not None and now.id == self.shown.id and now != self.shown:
                await self._show_chosen()

    # Drawing

    def _draw_filters(self) -> None:
        where, listing = self.where, self.listing
        epochs = sorted({epoch for epoch, _, _ in listing.counts} | ({listing.epoch} if listing.epoch else set()))
        self.filters.clear()
        with self.filters:
            choices = {epoch: f"Epoch {epoch}" for epoch in epochs}
            chosen = ui.select(choices, value=listing.epoch or None, label="Epoch").props("outlined dense")
            chosen.classes("pick").on_value_change(lambda event: self.go(_anew(where, epoch=event.value)))
            with ui.element("div").classes("tabs").props('role="group" aria-label="Set"'):
                for name, (model, prompt_set, word) in SETS.items():
                    count = listing.counts.get((listing.epoch, model, prompt_set), 0)
                    known = any(key[1:] == (model, prompt_set) for key in listing.counts)
                    if known or name in ("practice", where.set):
                        self._tab(name, f"{word} {count or ''}".strip())
            for field, options, label in (("order", ORDERS, "Order"), ("only", ONLY, "Show")):
                select = ui.select(options, value=getattr(where, field), label=label).props("outlined dense").classes("pick")
                select.on_value_change(lambda event, field=field: self.go(_anew(where, **{field: event.value})))

    def _tab(self, name: str, word: str) -> None:
        wanted = _anew(self.where, set=name, epoch=None if name in ("base", "best") else self.where.epoch)
        with self._link(wanted, "tab", current=name == self.where.set):
            shell.text(word)

    def _draw_list(self) -> None:
        self.frame.classes(add="chosen" if self.where.prompt else "", remove="" if self.where.prompt else "chosen")
        self.list.clear()
        place = self.listing.place(self.where)
        chosen = self.listing.found[place].id if place is not None else ""
        with self.list:
            if not self.listing.found:
                ui.label(_waits_for(self.listing)).classes("empty")
            for row in self.listing.rows:
                wanted = replace(self.where, prompt=row.prompt_id, sample=row.sample, page=1)
                with self._link(wanted, "entry", current=row.id == chosen):
                    ui.html(answer.brief(row, self.listing.run.spec), sanitize=False, tag="span").classes("inside")
            self._draw_pages()

    def _draw_pages(self) -> None:
        pages = -(-len(self.listing.found) // SHOWN)
        if pages <= 1:
            return
        page = min(self.listing.where.page, pages)
        with ui.element("div").classes("bar pages"):
            for word, number in (("Back", page - 1), ("Next", page + 1)):
                if 1 <= number <= pages:
                    with self._link(replace(self.where, page=number, prompt="", sample=0), "tab"):
                        shell.text(word)
            first = (page - 1) * SHOWN
            ui.label(f"{first + 1} to {first + len(self.listing.rows)} of {len(self.listing.found):,}").classes("quiet small")

    def _link(self, where: Where, css: str, *, current: bool = False) -> ui.element:
        return address.link(where.at(self.run_id), lambda: self.go(where), css, current=current)

    async def _show_chosen(self) -> None:
        turn, listing, where = self.turn, self.listing, self.where
        place = listing.place(where)
        row = listing.found[place] if place is not None else None
        found = await shell.read(lambda session: read_one(session, self.run_id, listing.epoch, row)) if row else None
        if turn != self.turn:
            return
        self.shown = found
        self.detail.clear()
        with self.detail:
            if found is None or place is None or row is None:
                if where.prompt:
                    ui.label("This answer is not among those shown. Choose another epoch, or show all answers.").classes("empty")
                return
            self._draw_detail(found, place)
        if where.set in ("practice", "dev"):
            like = row.chunk
            verdicts = await shell.read(lambda s: answers.across(s, store(), self.run_id, found.prompt_id, like))
            if turn == self.turn and len({epoch for epoch, _ in verdicts}) > 1:
                points = [
                    (epoch, v.overall, v.compiles, replace(where, epoch=epoch, prompt=found.prompt_id, page=1).at(self.run_id))
                    for epoch, v in verdicts
                ]
                threshold = listing.run.spec.refining.quality_threshold
                self.across.set_content(answer.across(points, listing.epoch, threshold))
                with self.detail:
                    ui.run_javascript(f"setTimeout(() => {TO_CURRENT}, 50)")

    def _draw_detail(self, found: AnswerView, place: int) -> None:
        listing, spec = self.listing, self.listing.run.spec
        verdict = found.verdict
        with ui.element("div").classes("bar"):
            with self._link(replace(self.where, prompt="", sample=0), "tab back"):
                shell.text("All answers")
            score = answer.tone(verdict.overall, spec.refining.quality_threshold)
            shell.text(f"{verdict.overall:.2f}", classes=f"score large number tone-{score}")
            shell.heading(code.plain(found.prompt_id))
            ui.label(f"{found.domain}, epoch {listing.epoch}" + (f", sample {found.sample + 1}" if found.sample else ""))
            with ui.element("div").classes("bar end"):
                ui.link("Ask this checkpoint", f"/playground?a={self.run_id}@{listing.epoch}")
                ui.label(f"{place + 1} of {len(listing.found):,}").classes("quiet")
                back = ui.button(icon="chevron_left", on_click=lambda: self.step(-1)).props(
                    'flat round dense title="Previous (k)"'
                )
                on = ui.button(icon="chevron_right", on_click=lambda: self.step(1)).props('flat round dense title="Next (j)"')
                back.props["aria-label"], on.props["aria-label"] = "Previous answer", "Next answer"
                back.set_enabled(place > 0)
                on.set_enabled(place + 1 < len(listing.found))
        ui.html(answer.prompt(found.prompt), sanitize=False)
        for told in answer.warnings(found):
            with ui.element("div").classes("notice tone-waiting"):
                ui.icon("warning_amber").props("aria-hidden=true")
                ui.label(told)
        self.across = ui.html("", sanitize=False)
        with ui.element("div").classes("why"):
            with ui.element("section").classes("card").props('aria-label="Code"'):
                ui.html(answer.listing(found), sanitize=False)
                ui.html(answer.whole(found), sanitize=False)
            with ui.element("section").classes("card").props('aria-label="Evidence"'):
                ui.html(answer.evidence(verdict, answer.weights(spec)), sanitize=False)
        if found.correction is not None:
            self._draw_correction(found)

    def _draw_correction(self, found: AnswerView) -> None:
        row, spec = found.correction, self.listing.run.spec
        assert row is not None
        waits = answer.waits(row, spec)
        with ui.element("section").classes("card").props('aria-label="Correction"'):
            with ui.element("div").classes("bar"):
                shell.heading("The teacher's correction")
                if waits:
                    ui.link("Review", f"/runs/{self.run_id}/review")
                with ui.element("div").classes("tabs end").props('role="group" aria-label="Differences"'):
                    for kind, word in (("split", "Side by side"), ("unified", "One column")):
                        wanted = replace(self.where, prompt=found.prompt_id, sample=found.sample, diff=kind)
                        with self._link(wanted, "tab", current=self.where.diff == kind):
                            shell.text(word)
            ui.html(answer.correction(row, waits=waits, next_epoch=self.listing.epoch + 1), sanitize=False)
            if not row.answer.error:
                ui.html(answer.difference(row, split=self.where.diff == "split"), sanitize=False)
            if row.verdict:
                with ui.expansion("The evidence on the correction"):
                    ui.html(answer.evidence(row.verdict, answer.weights(spec), anchors=False), sanitize=False)


def _anew(where: Where, **changes: object) -> Where:
    """Another list: its first page, and nothing chosen."""
    return replace(where, page=1, prompt="", sample=0, **changes)  # type: ignore[arg-type]


def _passes(row: Scored, only: str, threshold: float) -> bool:
    return {"": True, "poor": row.brief.overall < threshold, "broken": not row.brief.compiles}[only]


def _waits_for(listing: Listing) -> str:
    if listing.run.spec.recipe != "distill":
        return "There are none: this recipe trains the student, and asks it nothing."
    if listing.removed:
        return listing.removed
    if listing.total:
        return "None of this epoch's answers is so."
    if listing.run.stage.terminal:
        return "There are none: the run ended before."
    if not listing.run.epoch:
        return "Waits for the first epoch."
    return f"Waits for the answers of epoch {listing.epoch}: they come once it is trained."


def _number(text: str | None, default: int | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) < 7 else default


def _one_of(known: Mapping[str, object] | tuple[str, ...], wanted: str | None, default: str) -> str:
    return wanted if wanted in known else default  # type: ignore[return-value]
