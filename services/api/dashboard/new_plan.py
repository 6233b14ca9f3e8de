"""The right-hand side of a new run: its spec as YAML, what is wrong with it, what it would cost, and its start."""

import copy
import html
from collections.abc import Callable
from typing import Any

import yaml
from nicegui import ui

from reflux.spec import FieldProblem, RunSpec
from reflux.views import DryRun, GpuHours
from services.api.dashboard import previews, shell, words
from services.api.dashboard.beginnings import Beginning, Fork, Given
from services.api.dashboard.spec_form import Form, put_value
from services.api.problems import ProblemError


class Plan:
    """`redraw` is called when the YAML has changed the spec."""

    def __init__(self, form: Form, beginning: Beginning, redraw: Callable[[], None]) -> None:
        self.form, self.beginning, self.redraw = form, beginning, redraw
        self.planned: Given | None = None

    def draw(self) -> None:
        forks = isinstance(self.beginning, Fork)
        with ui.element("section").classes("card"):
            shell.heading("Estimate")
            self.told = ui.element("div").classes("stack").props("aria-live=polite")
            with ui.element("div").classes("bar"):
                self.check_button = ui.button("Check and estimate", icon="fact_check", on_click=self.estimate).props("outline")
                word = "Start the fork" if forks else "Start the run"
                self.start_button = ui.button(word, icon="play_arrow", on_click=self.start).props("unelevated")
                self.start_button.disable()
        if forks:
            with ui.element("section").classes("card").props('aria-label="Changes"'):
                shell.heading("What is changed")
                self.changes = ui.element("div").classes("stack").props("aria-live=polite")
        with ui.element("section").classes("card"):
            label = "What a fork may change, as YAML" if forks else "The whole spec as YAML"
            shell.text(label, "label").props("for=spec-yaml")
            self.box = ui.html(html.escape(self._written()), sanitize=False, tag="textarea").classes("yaml")
            self.box.props("id=spec-yaml spellcheck=false rows=16 aria-describedby=spec-yaml-error")
            self.box.on("change", lambda event: self._read(str(event.args)), js_handler="(e) => emit(e.target.value)")
            self.error = shell.text("", "p", "problem small").props("id=spec-yaml-error role=alert")
            usual = "The same file starts a run by `reflux run start`. Edit it here or on the left."
            shell.text("What is left out has its default. Edit it here or on the left." if forks else usual, "p", "help")
        self._say_nothing_yet()
        self._differ()

    def changed(self) -> None:
        """The form has: show it, mark what is wrong, and let nothing start that was not estimated."""
        put_value(self.box, self._written())
        self.error.set_content("")
        self._mark(self.beginning.check(self.form.given)[1], untouched=False)
        self._differ()
        if self.planned is not None:
            self.planned = None
            self.start_button.disable()
            self._say("The spec has changed since. Estimate it again, then start it.")

    async def estimate(self) -> None:
        given = copy.deepcopy(self.form.given)
        try:
            dry, hours = await shell.read(lambda session: self.beginning.estimate(session, given))
        except ProblemError as error:
            self._wrong(error.problem.detail, error.problem.errors)
            return
        self._mark([], untouched=True)
        self.planned = given
        self.start_button.enable()
        self.told.clear()
        with self.told:
            _estimated(RunSpec.model_validate(dry.spec), dry, hours, self.beginning)

    async def start(self) -> None:
        """Twice is once: what is being started is not planned any more."""
        given, self.planned = self.planned, None
        if given is None:
            return
        self.start_button.disable()
        run_id = await shell.act(lambda session, by: self.beginning.start(session, given, by))
        if run_id is not None:
            ui.navigate.to(f"/runs/{run_id}")
        else:
            self.planned = given
            self.start_button.enable()

    def _differ(self) -> None:
        if not isinstance(self.beginning, Fork):
            return
        told = self.beginning.differences(self.form.given)
        self.changes.clear()
        with self.changes:
            previews.lines(told)
            if not told:
                shell.text("Nothing: the fork goes on with the run's own settings.", "p", "quiet")

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
        self._mark(self.beginning.check(given)[1], untouched=True)

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


def _estimated(spec: RunSpec, dry: DryRun, hours: GpuHours | None, beginning: Beginning) -> None:
    rows: list[tuple[str, str, str]] = []
    if isinstance(beginning, Fork):
        last = spec.refining.max_epochs
        rows.append(("Epochs", f"{beginning.epoch + 1} to {last}" if last > beginning.epoch + 1 else f"{last}", "at most"))
    elif spec.recipe == "distill":
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
            if usd := hours.usd_per_hour:
                between = f"between {words.dollars(usd * hours.low)} and {words.dollars(usd * hours.high)}"
                each = f"{between}, at {words.dollars(usd)} an hour on demand"
                rows.append(("Machine cost", f"about {words.dollars(usd * hours.likely)}", each))
    with ui.element("dl").classes("facts"):
        for name, value, more in rows:
            shell.text(name, "dt")
            with ui.element("dd"):
                shell.text(value, classes="strong")
                if more:
                    shell.text(more, "div", "help")
