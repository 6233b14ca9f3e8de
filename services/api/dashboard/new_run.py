"""`/new`: a run is put together here, checked and estimated, and only then started."""

from typing import Any

from nicegui import ui

from reflux.run import Run
from reflux.spec import RunSpec
from services.api import catalogue, forks, runs
from services.api.dashboard import code, shell
from services.api.dashboard.beginnings import Anew, Beginning, Fork, fork_settings, settings_of
from services.api.dashboard.new_data import Prompts, Rows, Sources
from services.api.dashboard.new_plan import Plan
from services.api.dashboard.spec_form import Form, section_fields
from services.api.problems import ProblemError

BASIC = {
    "distill": ("prompts.practice", "refining.max_epochs", "refining.target_score", "limits.max_teacher_cost_usd"),
    "finetune": ("training.epochs", "training.learning_rate"),
    "job": ("job.command", "job.inputs_uri", "job.outputs_uri"),
}
TEACHER = ("teacher.provider", "teacher.model", "teacher.region", "teacher.endpoint_url", "teacher.terms_acknowledged")
RECIPES = {
    "distill": ("Distil a teacher", "A teacher shows, the student practises, the teacher corrects, for several epochs."),
    "finetune": ("Fine-tune on rows", "Train once on your own chat rows, JSONL or CSV."),
    "job": ("Run a command", "Your own training script, with logs, limits and artifacts of a run."),
}
SECTIONS = {
    "student": "Student",
    "lora": "Adapter",
    "training": "Training",
    "generation": "Generation",
    "refining": "Refining",
    "data": "Data",
    "prompts": "Prompts",
    "teacher": "Teacher",
    "teaching": "Teaching",
    "rubric": "Scoring",
    "evaluation": "Evaluation",
    "export": "Export",
    "limits": "Limits",
    "compute": "Machine",
    "job": "Command",
}
LABELS = {
    "prompts.practice": "Practice prompts",
    "refining.max_epochs": "Epochs, at most",
    "refining.target_score": "Score to reach",
    "limits.max_teacher_cost_usd": "Teacher cost, at most (USD)",
    "limits.max_runtime": "Time, at most",
    "teacher.endpoint_url": "Endpoint",
    "teacher.terms_acknowledged": "The teacher's terms allow it",
}
LAID_OUT = {"data.train", "data.validation", "student.model", "student.method"}
START = {"name": "run", "recipe": "distill"}


async def show(like: str = "", fork: str = "", epoch: int | None = None) -> None:
    """With `like`, a run's id: begins with that run's settings. With `fork`, one too: goes on after its `epoch`."""
    with shell.page("New run", here="new") as visitor:
        if not visitor.operates:
            raise ProblemError(403, "wrong_role", "A viewer's key can look, and not start runs.", "Sign in with an operator key.")
        table = shell.state().prices
        given: dict[str, object] = dict(START)
        beginning: Beginning = Anew(table)
        if like or fork:
            row = await shell.read(lambda session: runs.get(session, fork or like))
            run = Run.model_validate(row.state)
            given |= settings_of(run.spec, table)
        if fork:
            beginning = Fork(run, forks.forked_epoch(run, epoch), table)
            given = fork_settings(run, beginning.epoch, table)
        NewRun(given, beginning).draw()


class NewRun:
    """The page: on the left the form, on the right the spec as YAML, what is wrong with it, and what it would cost."""

    def __init__(self, given: dict[str, object], beginning: Beginning) -> None:
        self.form = Form(self._changed, given)
        self.fork = beginning if isinstance(beginning, Fork) else None
        self.plan = Plan(self.form, beginning, self._draw_form)
        self.models = catalogue.models()

    def draw(self) -> None:
        title = f"Fork of {code.plain(self.fork.run.spec.name)}" if self.fork else "New run"
        ui.context.client.title = f"{title} · Reflux"
        shell.heading(title, 1)
        with ui.element("div").classes("halves"):
            self.left = ui.element("div").classes("stack roomy")
            with ui.element("aside").classes("stack roomy aside").props('aria-label="The spec, and its estimate"'):
                self.plan.draw()
        self._draw_form()

    def _changed(self) -> None:
        self.plan.changed()

    def _draw_form(self) -> None:
        """Anew: after the recipe, the preset or the YAML has changed."""
        self.left.clear()
        self.form.entries = {}
        recipe = "distill" if self.fork else str(self.form.get("recipe") or "distill")
        with self.left:
            with _card("What"):
                self.form.draw("name")
                if self.fork:
                    self._epochs(self.fork)
                else:
                    self._recipes(recipe)
            if not self.fork:
                self._material(recipe)
            if recipe == "distill":
                with _card("Teacher"):
                    self._grid(TEACHER)
            if recipe != "job":
                with _card("How far"):
                    self._grid(tuple(path for path in (*BASIC[recipe], "limits.max_runtime") if self._may_change(path)))
            self._everything()

    def _may_change(self, path: str) -> bool:
        return not self.fork or path.partition(".")[0] not in forks.FIXED

    def _material(self, recipe: str) -> None:
        """What a fork takes over: the student, and what it learns from."""
        if recipe != "job":
            with _card("Student"):
                self._student()
        with _card("Data" if recipe != "job" else "Command"):
            if recipe == "distill":
                Sources(self.form).draw()
                Prompts(self.form).draw()
            if recipe == "finetune":
                Rows(self.form, "data.train", "Training rows").draw()
                Rows(self.form, "data.validation", "Rows for validation").draw()
            if recipe == "job":
                self._grid(BASIC["job"])

    def _epochs(self, fork: Fork) -> None:
        run = fork.run
        with ui.element("div").classes("field"):
            shell.text("Go on after", "label").props("for=fork-epoch")
            with ui.element("select").props("id=fork-epoch aria-describedby=fork-epoch-help") as box:
                for done in run.epochs:
                    best = " (best)" if run.best and done.epoch == run.best.epoch else ""
                    option = shell.text(f"Epoch {done.epoch}{best}", "option")
                    option.props["value"], option.props["selected"] = str(done.epoch), done.epoch == fork.epoch
            told = "It has this run's dataset, and the epoch's adapter and corrections. The run itself is not touched."
            shell.text(told, "p", "help").props("id=fork-epoch-help")
        box.on("change", lambda event: self._go_on_after(fork, int(event.args)), js_handler="(e) => emit(e.target.value)")

    def _go_on_after(self, fork: Fork, epoch: int) -> None:
        fork.epoch = epoch
        ui.navigate.history.replace(f"/new?fork={fork.run.id}&epoch={epoch}")
        self._changed()

    def _recipes(self, chosen: str) -> None:
        with ui.element("fieldset").classes("choices"):
            shell.text("Recipe", "legend")
            for name, (word, told) in RECIPES.items():
                with ui.element("label").classes("choice"):
                    radio = ui.element("input").props(f"type=radio name=recipe value={name}")
                    radio.props["checked"] = name == chosen
                    radio.on("change", lambda name=name: self._choose({"recipe": name}))
                    with ui.element("span"):
                        shell.text(word, "strong")
                        shell.text(told, classes="help block")

    def _student(self) -> None:
        whole = [preset for preset in catalogue.PRESETS if "model" in preset.spec["student"]]
        methods = [preset for preset in catalogue.PRESETS if preset not in whole]
        if whole:
            with ui.element("div").classes("field"):
                shell.text("Begin with", "label").props("for=begin-with")
                with ui.element("select").props("id=begin-with aria-describedby=begin-with-help") as box:
                    for name, word in (("", "nothing filled in"), *((preset.id, preset.title) for preset in whole)):
                        shell.text(word, "option").props["value"] = name
                shell.text("Fills in what is known to suit a student; all of it can be changed.", "p", "help").props(
                    "id=begin-with-help"
                )
            specs = {preset.id: preset.spec for preset in whole}
            box.on("change", lambda event: self._choose(specs.get(str(event.args), {})), js_handler="(e) => emit(e.target.value)")
        with ui.element("datalist").props("id=models"):
            for known in self.models:
                shell.text(known.title, "option").props["value"] = known.model
        self.form.draw("student.model", "Model", list="models")
        method = self.form.get("student.method") or "qlora"
        with ui.element("fieldset").classes("choices"):
            shell.text("Method", "legend")
            for preset in methods:
                with ui.element("label").classes("choice"):
                    radio = ui.element("input").props(f"type=radio name=preset value={preset.id}")
                    radio.props["checked"] = preset.id == method
                    radio.on("change", lambda preset=preset: self._choose(preset.spec))
                    with ui.element("span"):
                        shell.text(preset.title, "strong")
                        shell.text(preset.description, classes="help block")
                        shell.text(self._memory(preset.id), classes="help block number")

    def _memory(self, preset: str) -> str:
        model = self.form.get("student.model") or RunSpec.model_fields["student"].default.model
        for known in self.models:
            for fits in known.fits:
                if known.model == model and fits.preset == preset:
                    return f"about {fits.gpu_memory_gb:.0f} GB of GPU memory"
        return ""

    def _choose(self, sections: dict[str, Any]) -> None:
        """Take over what a recipe or a preset sets."""
        if not sections:
            return
        for name, values in sections.items():
            for inner, value in values.items() if isinstance(values, dict) else ():
                self.form.put(f"{name}.{inner}", value)
            if not isinstance(values, dict):
                self.form.put(name, values)
        self._draw_form()
        self._changed()
        (name, value), *_ = sections.items()
        chosen = f"recipe][value={value}" if name == "recipe" else f"preset][value={self.form.get('student.method')}"
        self.left.client.run_javascript(f"document.querySelector('input[name={chosen}]').focus()")

    def _grid(self, paths: tuple[str, ...]) -> None:
        with ui.element("div").classes("fields"):
            for path in paths:
                self.form.draw(path, LABELS.get(path, ""))

    def _everything(self) -> None:
        with _card("Everything else"):
            shell.text("Left alone, each keeps its default. Maps and lists of maps are written in the YAML.", "p", "help")
            with ui.element("div"):
                for section, word in SECTIONS.items():
                    left = [path for path, _ in section_fields(section) if path not in self.form.entries and path not in LAID_OUT]
                    paths = [path for path in left if self._may_change(path)]
                    if paths:
                        with ui.element("details"):
                            shell.text(word, "summary")
                            self._grid(tuple(paths))
                if self._may_change("seed"):
                    with ui.element("details"):
                        shell.text("Seed", "summary")
                        self._grid(("seed",))


def _card(title: str) -> ui.element:
    card = ui.element("section").classes("card")
    with card:
        shell.heading(title)
    return card
