"""The control panel: what is going on, in words, and what can be done next. What cannot be done is not shown."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from nicegui import ui

from reflux.events import AbortRequested, PauseRequested, ResumeRequested
from reflux.views import RunView
from services.api import runs
from services.api.dashboard import code, shell, words

Refresh = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Panel:
    """`actions` are among pause, resume, abort, fork, review, playground, again; a viewer has those that only look."""

    look: words.Look
    told: str
    problem: str = ""
    hint: str = ""
    log: str = ""
    notices: tuple[str, ...] = ()
    checkpoint: str = ""
    actions: tuple[str, ...] = ()


ACTING = ("pause", "resume", "abort", "fork", "again")


def panel(run: RunView, *, operates: bool) -> Panel:
    actions = [action for action in _actions(run) if operates or action not in ACTING]
    look = words.REVIEW if run.waits_for_review and run.status == "refining" else words.status(run.status)
    return Panel(
        look=look,
        told=_told(run),
        problem=code.plain(run.error.message) if run.error else "",
        hint=code.plain(run.error.hint) if run.error else "",
        log=code.plain(run.error.log) if run.error else "",
        notices=_notices(run),
        checkpoint=_checkpoint(run),
        actions=tuple(actions),
    )


def _told(run: RunView) -> str:
    match run.status:
        case "queued":
            return "It starts as soon as a run that is at work ends."
        case "paused":
            return "Paused. Its work is saved and the GPU is free; resume it and it goes on where it stopped."
        case "aborting":
            return "Aborting: what is in hand is saved, then the run is cleaned up. No further work is begun."
        case "succeeded":
            return _ended(run)
        case "failed":
            kept = " What was trained until then is kept." if run.partial else ""
            return f"It has failed in {_where(run)}.{kept}"
        case "aborted":
            kept = " What was trained until then is kept." if run.partial else " Nothing was trained until then."
            return f"It was aborted in {_where(run)}.{kept}"
    if run.waits_for_review:
        return "It waits for you: corrections are to be approved, edited or refused before the next epoch."
    if run.status == "cleaning_up" and run.outcome:
        return f"It has {run.outcome}, and cleans up."
    told = words.status(run.status).told
    return f"Epoch {run.epoch} of at most {run.max_epochs}. {told}" if run.status in ("training", "refining") else told


def _ended(run: RunView) -> str:
    why = f" It ended as of {run.reason.replace('_', ' ')}." if run.reason and run.recipe == "distill" else ""
    compared = run.comparison
    if compared is None:
        return f"Training is over.{why}"
    gain = f"{compared.difference:+.2f} ({compared.low:+.2f} to {compared.high:+.2f})".replace("-", "\u2212")
    verdict = "better than" if compared.gained else "not surely better than"
    return f"The student is {verdict} its base on the test prompts: {gain}.{why}"


def _where(run: RunView) -> str:
    return f"epoch {run.epoch}" if run.epoch else "its preparations"


def _notices(run: RunView) -> tuple[str, ...]:
    notices = [*run.warnings, *(removed.told for removed in run.removed)]
    for task in run.tasks or () if not run.terminal else ():
        if task.error:
            doing = words.TASKS.get(task.kind, task.kind)
            message, hint = task.error.get("message", ""), task.error.get("hint", "")
            notices.append(
                f"The task that {doing} is tried again after attempt {task.attempt}: {message}. {hint}".replace("..", ".")
            )
    if run.health == "orphaned":
        notices.append("The worker of a task was lost. Its work is saved; the task goes on as soon as a worker is free.")
    if run.manual_action_required:
        notices.append("Something is left that only you can remove: `reflux verify-cleanup` names it.")
    return tuple(code.plain(notice) for notice in notices)


def _checkpoint(run: RunView) -> str:
    if not run.epochs:
        return "No checkpoint: nothing was trained." if run.terminal and run.recipe != "job" else ""
    best = f"best of epoch {run.best_epoch}" if run.best_epoch else ""
    return f"Latest checkpoint: epoch {run.epochs[-1].epoch}; {best}."


def _actions(run: RunView) -> list[str]:
    actions = []
    gone = any(removed.what == "artifacts" for removed in run.removed)
    if run.waits_for_review:
        actions.append("review")
    if run.status == "paused":
        actions.append("resume")
    if not run.terminal and run.status not in ("paused", "aborting", "cleaning_up"):
        actions.append("pause")
    if run.epochs and not gone and not (run.terminal and run.outcome == "aborted" and not run.partial):
        actions.append("playground")
    if run.epochs and not gone and run.recipe == "distill":
        actions.append("fork")
    if run.terminal:
        actions.append("again")
    if not run.terminal and run.status not in ("aborting", "cleaning_up"):
        actions.append("abort")
    return actions


class ControlPanel:
    """Redrawn when what it says has changed; progress alone moves its bar."""

    def __init__(self, run: RunView, *, operates: bool, refresh: Refresh) -> None:
        self.operates, self.refresh = operates, refresh
        self.run = run
        self.drawn: Panel | None = None
        with ui.element("section").classes("card control") as self.card:
            self.card.props('aria-label="Control panel"')
            self.body = ui.element("div").classes("stack")
            self.progress = ui.element("div").classes("stack")
            with self.progress:
                self.bar = ui.linear_progress(0, show_value=False, size="8px").props('aria-label="Progress"')
                self.doing = ui.label().classes("quiet small number-wrap")
                self.doing.props('role="status"')
        self.show(run)

    def show(self, run: RunView) -> None:
        self.run = run
        wanted = panel(run, operates=self.operates)
        if wanted != self.drawn:
            self.drawn = wanted
            self.body.clear()
            with self.body:
                self._draw(wanted)
        self.progress.set_visibility(not run.terminal)
        self.bar.set_value(run.progress.percent / 100)
        self.doing.set_text(_moving(run))

    def _draw(self, wanted: Panel) -> None:
        with ui.element("div").classes("bar"):
            shell.chip(wanted.look, **{"data-status": self.run.status})
            if self.run.health != "ok" and not self.run.terminal:
                shell.chip(words.health(self.run.health))
            ui.label(wanted.told).classes("told")
        if wanted.problem:
            with ui.element("div").classes("notice tone-bad").props('role="alert"'):
                ui.icon("error").props("aria-hidden=true")
                with ui.element("div").classes("stack"):
                    ui.label(wanted.problem).classes("strong")
                    ui.label(wanted.hint)
                    if wanted.log:
                        with ui.expansion("Its log"):
                            ui.label(wanted.log).classes("mono log-tail")
        for notice in wanted.notices[-5:]:
            with ui.element("div").classes("notice tone-waiting"):
                ui.icon("warning_amber").props("aria-hidden=true")
                ui.label(notice)
        if wanted.checkpoint:
            ui.label(wanted.checkpoint).classes("quiet")
        if wanted.actions:
            with ui.element("div").classes("bar actions"):
                for action in wanted.actions:
                    self._button(action)

    def _button(self, action: str) -> None:
        run_id = self.run.id
        match action:
            case "review":
                _link("Review corrections", "rate_review", f"/runs/{run_id}/review", filled=True)
            case "playground":
                _link("Try it in the playground", "science", f"/playground?run={run_id}")
            case "again":
                _link("New run from its settings", "replay", f"/new?like={run_id}")
            case "resume":
                filled = ui.button("Resume", icon="play_arrow", on_click=partial(self._do, self._resume)).props("unelevated")
                filled.props["data-action"] = action
            case "pause":
                ui.button("Pause", icon="pause", on_click=partial(self._do, self._pause)).props("outline").props[
                    "data-action"
                ] = action
            case "fork":
                epoch = self.run.best_epoch or self.run.epochs[-1].epoch
                _link("Fork", "call_split", f"/new?fork={run_id}&epoch={epoch}")
            case "abort":
                button = ui.button("Abort", icon="stop_circle", on_click=partial(self._do, self._abort)).props(
                    "outline color=negative"
                )
                button.props["data-action"] = action

    async def _do(self, action: Refresh) -> None:
        """In the place of the card: what the button stands in is drawn anew as soon as the run moves."""
        with self.card:
            await action()

    async def _pause(self) -> None:
        await self._ask(PauseRequested, "Pausing: its work is being saved.")

    async def _resume(self) -> None:
        await self._ask(ResumeRequested, "It goes on.")

    async def _ask(self, request: type[PauseRequested | ResumeRequested], said: str) -> None:
        news = await shell.act(lambda session, by: runs.ask(session, self.run.id, request(by=by)))
        if news is not None:
            _, new = news
            told = said if new else "Somebody was faster: the run is as you wanted it already."
            ui.notify(told, type="positive" if new else "info")
        await self.refresh()

    async def _abort(self) -> None:
        with ui.dialog() as dialog, ui.card().classes("dialog"):
            shell.heading("Abort this run?")
            ui.label("What is in hand is saved, then the run ends for good and is cleaned up. It cannot be resumed.")
            discard = ui.checkbox("Delete what was trained and generated, too")
            with ui.element("div").classes("bar end"):
                ui.button("Keep it running", on_click=lambda: dialog.submit(False)).props("flat autofocus")
                ui.button("Abort", on_click=lambda: dialog.submit(True)).props("unelevated color=negative")
        wanted = await dialog
        dialog.delete()
        if not wanted:
            return
        told = await shell.act(
            lambda session, by: runs.ask(session, self.run.id, AbortRequested(by=by, discard=bool(discard.value)))
        )
        if told is not None:
            ui.notify("Aborting." if told[1] else "It is being aborted already.", type="positive" if told[1] else "info")
        await self.refresh()


def _link(text: str, icon: str, target: str, *, filled: bool = False) -> None:
    kind = "unelevated" if filled else "outline"
    ui.button(text, icon=icon, color="primary").props(f'{kind} href="{target}" type=a no-caps')


def _moving(run: RunView) -> str:
    parts = [f"{run.progress.percent:g} %", run.progress.doing]
    if run.progress.eta_seconds is not None:
        parts.append(f"about {words.span(run.progress.eta_seconds)} to go")
    return " · ".join(part for part in parts if part)
