"""Two runs, or two checkpoints of one, side by side: settings that differ, scores, tests, costs, and what they answered."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from markupsafe import Markup
from nicegui import ui
from sqlalchemy.orm import Session

from reflux.records import PromptSet
from reflux.summary import EpochMetrics
from reflux.views import AnswerView
from services.api import answers
from services.api.dashboard import address, answer, charts, code, comparison, sheets, shell, words
from services.api.dashboard import sides as chosen
from services.api.dashboard.sides import MOST, Prompts, Side

SETS: dict[str, tuple[answers.Model, PromptSet, str]] = {
    "practice": ("student", "practice", "Practice"),
    "dev": ("student", "dev", "Dev"),
    "test": ("best", "test", "Test"),
}
LISTED = 200  # prompts to choose from


@dataclass(frozen=True)
class Where:
    runs: tuple[str, ...]
    set: str = "practice"
    prompt: str = ""

    @property
    def at(self) -> str:
        kept = {"runs": ",".join(self.runs), "set": self.set if self.set != "practice" else "", "prompt": self.prompt}
        return f"/compare{address.query(kept)}"


async def show(runs: str = "", set: str = "practice", prompt: str = "") -> None:
    sheets.add("run.css")
    sheets.add("answers.css")
    with shell.page("Compare", here="compare"):
        named = tuple(dict.fromkeys(part.strip() for part in runs.split(",") if part.strip()))
        where = Where(named[:MOST], set if set in SETS else "practice", prompt[:300])
        compared = await shell.read(lambda session: chosen.sides(session, where.runs))
        page = _Page(where, compared)
        page.head()
        if compared:
            page.draw()
            await page.answers()
            address.on_move(page.moved)


class _Page:
    def __init__(self, where: Where, compared: list[Side]) -> None:
        self.where, self.sides = where, compared
        self.names = _names(compared)

    def head(self) -> None:
        shell.heading("Compare", 1)
        with ui.element("div").classes("card"):
            for side, name in zip(self.sides, self.names, strict=True):
                with ui.element("div").classes("bar"):
                    ui.link(code.plain(name), f"/runs/{side.run.id}")
                    shell.chip(words.status(side.status))
                    done = {one.epoch: f"Epoch {one.epoch}" for one in side.run.epochs}
                    if done:
                        epoch = ui.select(done, value=side.epoch if side.epoch in done else None, label="Checkpoint")
                        epoch.props("outlined dense").classes("pick")
                        epoch.on_value_change(lambda event, side=side: self._instead(side, f"{side.run.id}@{event.value}"))
                    ui.button("Leave out", on_click=lambda side=side: self._instead(side, "")).props("flat dense")
            self._add()

    def _add(self) -> None:
        if len(self.sides) >= MOST:
            return
        with ui.element("div").classes("bar"):
            wanted = ui.input("Add a run by its id, or a checkpoint as id@epoch").props("outlined dense").classes("wanted")

            def add() -> None:
                if wanted.value and wanted.value.strip():
                    ui.navigate.to(replace(self.where, runs=(*self.where.runs, wanted.value.strip())).at)

            wanted.on("keydown.enter", add)
            ui.button("Add", on_click=add).props("outline")
            if len(self.sides) == 1 and len(self.sides[0].run.epochs) > 1:
                side = self.sides[0]
                pair = f"{side.run.id}@{side.run.epochs[0].epoch}", f"{side.run.id}@{side.epoch}"
                ui.link("Its first epoch and its best", replace(self.where, runs=pair).at)
        if not self.sides:
            ui.label("Choose runs in the list of runs, or name them here.").classes("quiet")

    def _instead(self, side: Side, asked: str) -> None:
        runs = tuple(asked if one is side else one.asked for one in self.sides)
        ui.navigate.to(replace(self.where, runs=tuple(one for one in runs if one)).at)

    def draw(self) -> None:
        if len({version for side in self.sides for version in _rubrics(side)}) > 1:
            with ui.element("div").classes("notice tone-waiting"):
                ui.label("They are scored by different rubrics: their scores do not compare. See the settings below.")
        self._draw_results()
        self._draw_curves()
        self._draw_tests()
        with ui.element("section").classes("card").props('aria-label="Settings that differ"'):
            shell.heading("Settings that differ")
            different = chosen.settings(self.sides)
            if different:
                ui.html(_table(("Setting", *self.names), different.items()), sanitize=False).classes("scrolling")
            else:
                ui.label("None: they were made by the same settings." if len(self.sides) > 1 else "There is but one.").classes(
                    "quiet"
                )

    def _draw_results(self) -> None:
        with ui.element("section").classes("card").props('aria-label="Results"'):
            shell.heading("Results")
            rows = _results(self.sides)
            ui.html(_table(("At its epoch", *self.names), rows.items()), sanitize=False).classes("scrolling")

    def _draw_curves(self) -> None:
        with ui.element("section").classes("card").props('aria-label="Scores by epoch"'):
            shell.heading("Scores by epoch")
            unlike = list(dict.fromkeys(side.run.id for side in self.sides))
            runs = {side.run.id: side.run for side in self.sides}
            lines = [
                charts.line(run_id, code.plain(runs[run_id].spec.name), _curve(runs[run_id].epochs), symbols=True)
                for run_id in unlike
                if runs[run_id].epochs
            ]
            if lines:
                charts.chart("Scores by epoch", charts.options(lines, x="epoch", whole_x=True, top=10))
            else:
                ui.label("Waits for a first epoch.").classes("empty")

    def _draw_tests(self) -> None:
        tested = {side.run.id: side for side in self.sides if side.run.comparison}
        with ui.element("section").classes("card").props('aria-label="Tests"'):
            shell.heading("On the test prompts, against each one's base")
            if not tested:
                ui.label("None of them has come to its test prompts.").classes("quiet")
            for side in tested.values():
                assert side.run.comparison is not None
                ui.label(code.plain(side.run.spec.name)).classes("strong")
                ui.html(comparison.interval(side.run.comparison), sanitize=False)

    async def answers(self) -> None:
        with ui.element("section").classes("card").props('aria-label="Answers"'):
            shell.heading("The same prompts, side by side")
            self.place = ui.element("div").classes("stack")
        await self._show_answers()

    async def moved(self, query: dict[str, str]) -> None:
        wanted = query.get("set", "practice")
        self.where = replace(self.where, set=wanted if wanted in SETS else "practice", prompt=query.get("prompt", ""))
        await self._show_answers()

    async def go(self, where: Where) -> None:
        address.push(where.at)
        self.where = where
        await self._show_answers()

    async def _show_answers(self) -> None:
        model, prompt_set, _ = SETS[self.where.set]
        where = self.where

        def look(session: Session) -> tuple[Prompts, str, list[AnswerView | None]]:
            known = chosen.prompts(session, self.sides, model, prompt_set)
            name = where.prompt if where.prompt in known.scores else next(iter(known.scores), "")
            return known, name, chosen.both(session, self.sides, known, name) if name else []

        known, name, found = await shell.read(look)
        if where != self.where:
            return
        self.place.clear()
        with self.place:
            self._draw_choice(known, name)
            if not name:
                ui.label("There is no prompt in this set that all of them have answered.").classes("empty")
                return
            shown = next(one for one in found if one is not None)
            ui.html(answer.prompt(shown.prompt), sanitize=False)
            with ui.element("div").classes("abreast"):
                for side, title, one in zip(self.sides, self.names, found, strict=True):
                    self._draw_one(side, title, one)

    def _draw_choice(self, known: Prompts, name: str) -> None:
        with ui.element("div").classes("bar"):
            with ui.element("div").classes("tabs").props('role="group" aria-label="Set"'):
                for key, (_, _, word) in SETS.items():
                    wanted = replace(self.where, set=key, prompt="")
                    with address.link(wanted.at, partial(self.go, wanted), "tab", current=key == self.where.set):
                        shell.text(word)
            if known.scores:
                choices = {
                    key: f"{key}: {' / '.join(f'{score:.1f}' for score in scores)}"
                    for key, scores in list(known.scores.items())[:LISTED]
                }
                select = ui.select(
                    choices, value=name if name in choices else None, label="Prompt, by difference", with_input=True
                )
                select.props("outlined dense").classes("wanted")
                select.on_value_change(lambda event: self.go(replace(self.where, prompt=event.value)) if event.value else None)

    def _draw_one(self, side: Side, title: str, one: AnswerView | None) -> None:
        with ui.element("div").classes("stack one"):
            with ui.element("div").classes("bar"):
                if one is not None:
                    tone = answer.tone(one.verdict.overall, side.run.spec.refining.quality_threshold)
                    shell.text(f"{one.verdict.overall:.2f}", classes=f"score number tone-{tone}")
                ui.label(code.plain(title)).classes("strong")
            if one is None:
                ui.label("Its answer is gone: the run was discarded.").classes("empty")
                return
            verdict = one.verdict
            parts = ", ".join(f"{word.lower()} {getattr(verdict, part):.1f}" for part, word in answer.PARTS.items())
            ui.label(parts).classes("quiet small")
            severe = [item for item in verdict.evidence if item.line and code.is_severe(item)]
            ui.html(code.annotated(verdict.code, verdict.language, severe), sanitize=False)


def _names(compared: Sequence[Side]) -> list[str]:
    """Of runs with the same name the ids too."""
    names = [side.word for side in compared]
    return [f"{name} ({side.run.id})" if names.count(name) > 1 else name for name, side in zip(names, compared, strict=True)]


def _rubrics(side: Side) -> tuple[str, ...]:
    return (str(sorted(side.run.spec.rubric.model_dump(mode="json").items(), key=str)),)


def _curve(epochs: Sequence[EpochMetrics]) -> charts.Points:
    return [[one.epoch, round(one.choosing_score, 3)] for one in epochs]


def _results(compared: Sequence[Side]) -> dict[str, list[str]]:
    at = [next((one for one in side.run.epochs if one.epoch == side.epoch), None) for side in compared]

    def each(of: Callable[[EpochMetrics], str]) -> list[str]:
        return [of(one) if one is not None else "\u2013" for one in at]

    rows = {
        "Practice": each(lambda one: f"{one.practice.overall:.2f}"),
        "Dev": each(lambda one: words.score(one.dev.overall if one.dev else None)),
        "Syntax": each(lambda one: f"{one.practice.syntax:.1f}"),
        "Words": each(lambda one: f"{one.practice.protocol:.1f}"),
        "Safety": each(lambda one: f"{one.practice.safety:.1f}"),
        "Style": each(lambda one: f"{one.practice.style:.1f}"),
        "Compile": each(lambda one: f"{one.practice.compiling:.0%}"),
        "Poor": each(lambda one: f"{one.correction_rate:.0%}"),
        "Training loss": each(lambda one: f"{one.train_loss:.3f}"),
        "Rows trained on": each(lambda one: f"{one.rows:,}"),
    }
    rows["Teacher cost of the run"] = [words.dollars(side.run.usage.cost_usd) for side in compared]
    rows["Teacher answers of the run"] = [f"{side.run.usage.calls:,}" for side in compared]
    return rows


def _table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> Markup:
    heads = Markup("").join(Markup('<th scope="col">{}</th>').format(code.visible(name)) for name in head)
    lines = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            name,
            Markup("").join(
                Markup('<td data-label="{}">{}</td>').format(code.plain(title), code.visible(value))
                for title, value in zip(head[1:], values, strict=True)
            ),
        )
        for name, values in rows
    )
    return Markup('<table class="grid compare"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>').format(heads, lines)
