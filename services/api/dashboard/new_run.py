"""`/new`: a run is put together here, checked and estimated, and only then started."""

from typing import Any

from nicegui import ui

from reflux.spec import RunSpec
from services.api import catalogue, runs
from services.api.dashboard import shell
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


async def show(like: str = "") -> None:
    """With `like`, a run's id: begins with that run's spec."""
    with shell.page("New run", here="new") as visitor:
        if not visitor.operates:
            raise ProblemError(403, "wrong_role", "A viewer's key can look, and not start runs.", "Sign in with an operator key.")
        given: dict[str, object] = dict(START)
        if like:
            row = await shell.read(lambda session: runs.get(session, like))
            spec = RunSpec.model_validate(row.state["spec"])
            given = spec.model_dump(mode="json", exclude_defaults=True, exclude={"teacher": {"input_usd_per_million"}})
        NewRun(given).draw()


class NewRun:
    """The page: on the left the form, on the right the spec as YAML, what is wrong with it, and what it would cost."""

    def __init__(self, given: dict[str, object]) -> None:
        self.form = Form(self._changed, given)
        self.plan = Plan(self.form, self._draw_form)
        self.models = catalogue.models()

    def draw(self) -> None:
        shell.heading("New run", 1)
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
        recipe = str(self.form.get("recipe") or "distill")
        with self.left:
            with _card("What"):
                self.form.draw("name")
                self._recipes(recipe)
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
            if recipe == "distill":
                with _card("Teacher"):
                    self._grid(TEACHER)
            if recipe != "job":
                with _card("How far"):
                    self._grid((*BASIC[recipe], "limits.max_runtime"))
            self._everything()

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
                    paths = [
                        path for path, _ in section_fields(section) if path not in self.form.entries and path not in LAID_OUT
                    ]
                    if paths:
                        with ui.element("details"):
                            shell.text(word, "summary")
                            self._grid(tuple(paths))
                with ui.element("details"):
                    shell.text("Seed", "summary")
                    self._grid(("seed",))


def _card(title: str) -> ui.element:
    card = ui.element("section").classes("card")
    with card:
        shell.heading(title)
    return card
