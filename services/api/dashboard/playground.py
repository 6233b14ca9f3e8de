"""`/playground`: one checkpoint or two are asked the same, and answer as they write; `a` and `b` are `run@checkpoint`."""

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass

import pydantic
from nicegui import background_tasks, events, ui
from nicegui.element import Element
from sqlalchemy import select
from sqlalchemy.orm import Session

from reflux.completions import CompletionRequest, CompletionView, Piece, Waiting
from reflux.run import Run
from reflux.spec import RunSpec
from services.api import runs
from services.api.dashboard import address, answer, code, sheets, shell, words
from services.api.errands import Errands
from services.api.problems import ProblemError
from services.api.tables import RunRow

OFFERED = 30  # of the newest runs
DRAWN_SECONDS = 0.2  # between two looks at what is being written
NUMBERS = {"max_tokens": ("Tokens, at most", "as the run's spec"), "temperature": ("Temperature", "as the run's spec")}


@dataclass(frozen=True)
class Student:
    """A run that can be asked, and its checkpoints by name: `best`, `base`, and each epoch."""

    id: str
    name: str
    spec: RunSpec
    checkpoints: dict[str, str]


async def show(run: str = "", a: str = "", b: str = "") -> None:
    sheets.add("answers.css")
    with shell.page("Playground", here="playground") as visitor:
        wanted = [side for side in (a or (f"{run}@best" if run else ""), b) if side]
        students = await shell.read(lambda session: _students(session, [side.partition("@")[0] for side in wanted]))
        shell.heading("Playground", 1)
        if not students:
            with ui.element("div").classes("card empty"):
                shell.text("There is no student to ask yet: no run has finished an epoch.", "p")
                ui.link("All runs", "/")
            return
        first = f"{students[0].id}@best"
        Playground({student.id: student for student in students}, [*wanted, first][0], b, operates=visitor.operates).draw()


def _students(session: Session, wanted: list[str]) -> list[Student]:
    """Those of the newest runs that have a checkpoint, and the wanted ones first. 404 for a run that there is not."""
    newest = select(RunRow).where(RunRow.recipe != "job").order_by(RunRow.created_at.desc()).limit(OFFERED)
    rows = {row.id: row for row in (*(runs.get(session, run_id) for run_id in wanted), *session.scalars(newest))}
    found = (_student(Run.model_validate(row.state)) for row in rows.values())
    return [student for student in found if len(student.checkpoints) > 1 or student.id in wanted]


def _student(run: Run) -> Student:
    epochs = sorted({epoch.epoch for epoch in run.epochs} | ({run.epoch} if run.trained else set()), reverse=True)
    best = {"best": f"best so far, epoch {run.best.epoch}" if run.best else "newest"} if epochs else {}
    return Student(
        run.id, run.spec.name, run.spec, {**best, **{str(n): f"epoch {n}" for n in epochs}, "base": "base, before training"}
    )


class Playground:
    def __init__(self, students: dict[str, Student], a: str, b: str, *, operates: bool) -> None:
        self.students, self.sides, self.operates = students, [a, b], operates
        self.panels: list[Panel] = []

    def draw(self) -> None:
        with ui.element("section").classes("card"):
            with ui.element("div").classes("fields wide"):
                self._choice(0, "Student")
                self._choice(1, "Beside it")
            with ui.element("div").classes("field"):
                shell.text("Prompt", "label").props("for=prompt")
                self.prompt = ui.element("textarea").props("id=prompt rows=4 maxlength=200000").classes("yaml asked")
                self.prompt.props["placeholder"] = "Write a C function that …"
                self.prompt.on("change", self._typed, js_handler="(e) => emit(e.target.value)")
            self.asked = ""
            self.options: dict[str, str] = {}
            self._options()
            with ui.element("div").classes("bar"):
                self.ask_button = ui.button("Ask", icon="send", on_click=self.ask).props("unelevated")
                self.stop_button = ui.button("Stop", icon="stop", on_click=self.stop).props("outline")
                self.stop_button.disable()
                if not self.operates:
                    self.ask_button.disable()
                    shell.text("A viewer's key can't ask a student; an operator's can.", classes="quiet")
            self.problem = shell.text("", "p", "problem").props("role=alert")
        self.place = ui.element("section").classes("columns").props('aria-label="Answers"')
        ui.context.client.on_delete(self.stop)

    def _choice(self, side: int, label: str) -> None:
        with ui.element("div").classes("field"):
            shell.text(label, "label").props(f"for=side-{side}")
            with ui.element("select").props(f"id=side-{side}") as box:
                if side:
                    shell.text("nobody", "option").props["value"] = ""
                for student in self.students.values():
                    with ui.element("optgroup") as group:
                        group.props["label"] = f"{student.name} · {student.id}"
                        for name, word in student.checkpoints.items():
                            option = shell.text(f"{student.name}: {word}", "option")
                            option.props["value"] = f"{student.id}@{name}"
                            option.props["selected"] = self.sides[side] == f"{student.id}@{name}"
            box.on("change", lambda event: self._choose(side, str(event.args)), js_handler="(e) => emit(e.target.value)")

    def _choose(self, side: int, chosen: str) -> None:
        """The address says what is asked, so that it can be kept."""
        self.sides[side] = chosen
        address.push(f"/playground{address.query({'a': self.sides[0], 'b': self.sides[1]})}")

    def _options(self) -> None:
        with ui.element("details"):
            shell.text("How it is asked", "summary")
            with ui.element("div").classes("fields"):
                for name, (label, left_out) in NUMBERS.items():
                    with ui.element("div").classes("field"):
                        shell.text(label, "label").props(f"for=option-{name}")
                        box = ui.element("input").props(f"id=option-{name} type=text inputmode=decimal autocomplete=off")
                        box.props["placeholder"] = left_out
                        box.on(
                            "change",
                            lambda event, name=name: self._set(name, event.args),
                            js_handler="(e) => emit(e.target.value)",
                        )
                with ui.element("div").classes("field"):
                    shell.text("Score it as an answer about", "label").props("for=option-domain")
                    box = ui.element("input").props("id=option-domain type=text autocomplete=off placeholder=generic")
                    box.on("change", lambda event: self._set("domain", event.args), js_handler="(e) => emit(e.target.value)")
            shell.text("The same question has the same answer; another temperature, another one.", "p", "help")

    def _set(self, name: str, value: object) -> None:
        self.options[name] = str(value).strip()

    def _typed(self, event: events.GenericEventArguments) -> None:
        self.asked = str(event.args)

    async def ask(self) -> None:
        """All sides at once; the GPU answers one after the other."""
        self.problem.set_content("")
        given = {name: value for name, value in self.options.items() if value}
        sides = [side for side in dict.fromkeys(self.sides) if side]
        try:
            requests = [_request(side, self.asked, given) for side in sides]
            by = await shell.operator()
        except pydantic.ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            self.problem.set_content(str(code.visible(f"{_named(wrong['loc'])}: {wrong['msg']}")))
            return
        except ProblemError as error:
            self.problem.set_content(str(code.visible(f"{error.problem.detail} {error.problem.hint}")))
            return
        self.place.clear()
        with self.place:
            self.panels = [Panel(self.students[request.run], request) for request in requests]
        self.ask_button.disable()
        self.stop_button.enable()
        for panel in self.panels:
            panel.begin(by)
        await asyncio.gather(*(panel.over.wait() for panel in self.panels))
        self.ask_button.enable()
        self.stop_button.disable()

    def stop(self) -> None:
        for panel in self.panels:
            panel.stop()


def _request(side: str, asked: str, given: dict[str, str]) -> CompletionRequest:
    run_id, _, checkpoint = side.partition("@")
    number = int(checkpoint) if checkpoint.isdecimal() else checkpoint or "best"
    return CompletionRequest.model_validate(
        {"run": run_id, "checkpoint": number, "prompt": asked.strip(), "score": True, **given}
    )


def _named(place: tuple[int | str, ...]) -> str:
    name = str(place[0]) if place else "the question"
    return {"prompt": "Prompt", **{key: label for key, (label, _) in NUMBERS.items()}, "domain": "Domain"}.get(name, name)


class Panel:
    """One side's answer: what is waited for, what is written, and in the end its score."""

    def __init__(self, student: Student, request: CompletionRequest) -> None:
        self.student, self.request = student, request
        self.over = asyncio.Event()
        self.said = ""
        with ui.element("article").classes("card") as self.card:
            with ui.element("div").classes("bar"):
                shell.heading(f"{student.name}: {student.checkpoints.get(str(request.checkpoint), request.checkpoint)}")
            self.state = shell.text("Asking …", "p", "quiet small").props("role=status")
            self.text = ui.html("", sanitize=False, tag="pre").classes("written")
            self.score = ui.element("div").classes("stack")

    def begin(self, by: str) -> None:
        self.following = background_tasks.create(self._follow(by, self.card), name="playground")
        self.following.add_done_callback(lambda _: self.over.set())

    def stop(self) -> None:
        if not self.over.is_set():
            self.following.cancel()

    async def _follow(self, by: str, place: Element) -> None:
        """Leaving off, by Stop or with the page, ends the generation."""
        errands: Errands = shell.state().errands
        drawn_at = 0.0
        try:
            asked = await errands.ask(self.request, by)
            async with aclosing(errands.follow(asked)) as told:
                async for event in told:
                    if isinstance(event, Waiting):
                        left = f", for about {words.span(event.eta_seconds)}" if event.eta_seconds else ""
                        self._tell(f"Waits: {event.doing}{left}.")
                    elif isinstance(event, Piece):
                        self.said += event.text
                        if time.monotonic() - drawn_at > DRAWN_SECONDS:
                            drawn_at = time.monotonic()
                            self._tell("Writes …")
                            self.text.set_content(str(code.visible(self.said)))
                    else:
                        with place:
                            self._end(event)
        except ProblemError as error:
            self.text.set_content(str(code.visible(self.said)))
            self._tell(f"{error.problem.detail} {error.problem.hint}")
            self.state.classes(remove="quiet", add="problem")
        except asyncio.CancelledError:
            if not self.card.is_deleted:
                self.text.set_content(str(code.visible(self.said)))
                self._tell("Stopped.")
            raise

    def _tell(self, told: str) -> None:
        self.state.set_content(str(code.visible(told)))

    def _end(self, done: CompletionView) -> None:
        speed = done.usage.answer / done.seconds if done.seconds else 0.0
        cut = " It ran into the token limit." if done.finish_reason == "length" else ""
        self._tell(f"{done.usage.answer} tokens in {done.seconds:.1f} s, {speed:.0f} tokens/s, waiting included.{cut}")
        self.text.set_content(str(code.visible(done.text)))
        verdict = done.verdict
        if verdict is None:
            with self.score:
                shell.text(f"No score: {done.unscored}", "p", "quiet")
            return
        said = [item for item in verdict.evidence if item.line and (code.is_compiler(item) or code.is_severe(item))]
        with self.score:
            with ui.element("div").classes("bar"):
                tone = answer.tone(verdict.overall, self.student.spec.refining.quality_threshold)
                shell.text(words.score(verdict.overall), classes=f"chip tone-{tone} number strong")
                shell.text("compiles" if verdict.compiles else "does not compile", classes="quiet")
            if said:
                ui.html(code.annotated(verdict.code, verdict.language, said), sanitize=False)
            ui.html(answer.evidence(verdict, answer.weights(self.student.spec), anchors=False), sanitize=False)
