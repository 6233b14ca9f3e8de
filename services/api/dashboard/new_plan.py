"""The right-hand side of a new run: its spec as YAML, what is wrong with it, what it would cost, and its start."""

import html
import secrets
from collections.abc import Callable
from typing import Any

import yaml
from nicegui import ui

from reflux.spec import FieldProblem, RunSpec, check
from reflux.views import DryRun, GpuHours
from services.api import gpu_hours, runs
from services.api.dashboard import shell, words
from services.api.dashboard.spec_form import Form, put_value
from services.api.problems import ProblemError


class Plan:
    """`redraw` is called when the YAML has changed the spec."""

    def __init__(self, form: Form, redraw: Callable[[], None]) -> None:
        self.form, self.redraw = form, redraw
        self.planned: RunSpec | None = None
        self.once = ""

    def draw(self) -> None:
        with ui.element("section").classes("card"):
            shell.heading("Estimate")
            self.told = ui.element("div").classes("stack").props("aria-live=polite")
            with ui.element("div").classes("bar"):
                self.check_button = ui.button("Check and estimate", icon="fact_check", on_click=self.estimate).props("outline")
                self.start_button = ui.button("Start the run", icon="play_arrow", on_click=self.start).props("unelevated")
                self.start_button.disable()
        with ui.element("section").classes("card"):
            shell.text("The whole spec as YAML", "label").props("for=spec-yaml")
            self.box = ui.html(html.escape(self._written()), sanitize=False, tag="textarea").classes("yaml")
            self.box.props("id=spec-yaml spellcheck=false rows=16 aria-describedby=spec-yaml-error")
            self.box.on("change", lambda event: self._read(str(event.args)), js_handler="(e) => emit(e.target.value)")
            self.error = shell.text("", "p", "problem small").props("id=spec-yaml-error role=alert")
            shell.text("The same file starts a run by `reflux run start`. Edit it here or on the left.", "p", "help")
        self._say_nothing_yet()

    def changed(self) -> None:
        """The form has: show it, mark what is wrong, and let nothing start that was not estimated."""
        put_value(self.box, self._written())
        self.error.set_content("")
        self._mark(check(self.form.given)[1], untouched=False)
        if self.planned is not None:
            self.planned = None
            self.start_button.disable()
            self._say("The spec has changed since. Estimate it again, then start it.")

    async def estimate(self) -> None:
        given, table = self.form.given, shell.state().prices
        try:
            spec = runs.checked(given)
            dry = runs.dry_run(spec, table)
        except ProblemError as error:
            self._wrong(error.problem.detail, error.problem.errors)
            return
        hours = await shell.read(lambda session: gpu_hours.expected(session, spec))
        self._mark([], untouched=True)
        self.planned, self.once = spec, secrets.token_urlsafe(16)
        self.start_button.enable()
        self.told.clear()
        with self.told:
            _estimated(spec, dry, hours)

    async def start(self) -> None:
        """Twice is once: the estimate has a key of its own."""
        spec, once, table = self.planned, self.once, shell.state().prices
        if spec is None:
            return
        self.start_button.disable()
        run_id = await shell.act(lambda session, by: runs.create(session, spec, by, once, table)[0].id)
        if run_id is not None:
            ui.navigate.to(f"/runs/{run_id}")
        else:
            self.start_button.enable()

    def _written(self) -> str:
        return str(yaml.safe_dump(self.form.given, sort_keys=False, allow_unicode=True))

    def _read(self, text: str) -> None:
        try:
            given: Any = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"Line {mark.line + 1}: " if mark else ""
            self.error.set_content(html.escape(f"{where}{getattr(error, 'problem', None) or 'this is not YAML'}."))
            return
        if not isinstance(given, dict):
            self.error.set_content("A spec is a mapping of sections. Start with `name:` and `data:`.")
            return
        self.form.given = given
        self.redraw()
        self.changed()
        self._mark(check(given)[1], untouched=True)

    def _mark(self, problems: list[FieldProblem], *, untouched: bool) -> None:
        elsewhere = self.form.mark(problems, untouched=untouched)
        if elsewhere and untouched:
            told = "; ".join(f"{problem.field or 'the spec'}: {problem.message}. {problem.hint}" for problem in elsewhere)
            self.error.set_content(html.escape(told))

    def _wrong(self, told: str, problems: list[FieldProblem]) -> None:
        self._mark(problems, untouched=True)
        self.planned = None
        self.start_button.disable()
        self.told.clear()
        with self.told:
            shell.text(told, "p", "problem").props("role=alert")
            with ui.element("ul").classes("lines"):
                for problem in problems:
                    with ui.element("li"):
                        ui.link(problem.field or "the spec", f"#{self.form.place_of(problem.field) or 'spec-yaml'}")
                        shell.text(f": {problem.message}. {problem.hint}")

    def _say_nothing_yet(self) -> None:
        self._say("What the run asks its teacher for, and what memory it needs, is told before it starts.")

    def _say(self, told: str) -> None:
        self.told.clear()
        with self.told:
            shell.text(told, "p", "quiet")


def _estimated(spec: RunSpec, dry: DryRun, hours: GpuHours | None) -> None:
    rows: list[tuple[str, str, str]] = []
    if spec.recipe == "distill":
        wanted = f"{spec.prompts.practice} to practise, {spec.prompts.dev} to choose by, {spec.prompts.test} to compare by"
        rows.append(("Prompts", wanted, "as many as the sources give"))
    if dry.estimate is not None:
        e = dry.estimate
        rows.append(("Teacher answers", words.count(e.calls), f"at most {words.count(e.most_calls)}"))
        rows.append(("Tokens", f"{words.count(e.input_tokens)} in, {words.count(e.output_tokens)} out", ""))
        rows.append(("Teacher cost", words.dollars(e.cost_usd), f"at most {words.dollars(e.most_cost_usd)}"))
    if spec.recipe != "job":
        known = f"{dry.gpu_memory_gb:.1f} GB" if dry.gpu_memory_gb else "not known"
        rows.append(("GPU memory", known, "" if dry.gpu_memory_gb else "Preflight measures a student that is not in the list."))
        if hours is None:
            rows.append(("GPU hours", "not known", "Of this student's size nothing is known."))
        else:
            rows.append(("GPU hours", f"about {hours.likely:g}", f"between {hours.low:g} and {hours.high:g}: {hours.basis}"))
    with ui.element("dl").classes("facts"):
        for name, value, more in rows:
            shell.text(name, "dt")
            with ui.element("dd"):
                shell.text(value, classes="strong")
                if more:
                    shell.text(more, "div", "help")
