"""The run in figures: the newest of each, and a dash with what it waits for until there is one."""

from dataclasses import dataclass

from nicegui import ui
from sqlalchemy.orm import Session

from reflux.views import MetricPointView, RunView
from services.api import history
from services.api.dashboard import shell, words

NAMES = ("loss", "val_loss", "tokens_per_second", "generated_tokens_per_second", "memory_gb", "peak_memory_gb")


@dataclass(frozen=True)
class Figure:
    """`more` says what the value is of, or what it waits for."""

    name: str
    value: str
    more: str = ""


def read(session: Session, run_id: str) -> dict[str, MetricPointView]:
    return history.latest(session, run_id, NAMES)


def figures(run: RunView, latest: dict[str, MetricPointView]) -> list[Figure]:
    waits = "the run ended before" if run.terminal else "waits for training"
    counts = run.counts
    examples = f"{counts['train']:,}" if counts else "\u2013"
    spread = (
        f"{counts['files']:,} files, {counts['practice']} practice prompts"
        if counts
        else waits.replace("training", "the dataset")
    )
    return [
        _step(run, latest, waits),
        _loss(run, latest, waits),
        _speed(latest, waits),
        Figure("Time", *_time(run)),
        _memory(latest, waits),
        _cost(run),
        Figure("Examples", examples, spread),
        _score(run),
    ]


def _step(run: RunView, latest: dict[str, MetricPointView], waits: str) -> Figure:
    told = next((t.progress for t in run.tasks or () if t.kind == "train" and t.status == "claimed" and t.progress), None)
    if told:
        return Figure("Step", f"{told['done']:g} / {told['total']:g}", f"of epoch {run.epoch}")
    loss = latest.get("loss")
    if loss is None:
        return Figure("Step", "\u2013", waits)
    return Figure("Step", f"{loss.step:,}", f"of epoch {loss.epoch}")


def _loss(run: RunView, latest: dict[str, MetricPointView], waits: str) -> Figure:
    loss, val = latest.get("loss"), latest.get("val_loss")
    if loss is None:
        done = run.epochs[-1].train_loss if run.epochs else None
        return Figure("Loss", f"{done:.3f}" if done is not None else "\u2013", "" if done is not None else waits)
    validated = f"validation {_number(val.value)}" if val else "not validated yet"
    return Figure("Loss", _number(loss.value), validated)


def _speed(latest: dict[str, MetricPointView], waits: str) -> Figure:
    names = {"tokens_per_second": "training", "generated_tokens_per_second": "answering"}
    told = [(latest[name], more) for name, more in names.items() if name in latest]
    if not told:
        return Figure("Tokens per second", "\u2013", waits)
    point, more = max(told, key=lambda one: one[0].at)
    return Figure("Tokens per second", f"{point.value:,.0f}" if point.value is not None else "\u2013", more)


def _time(run: RunView) -> tuple[str, str]:
    if run.terminal:
        took = (run.ended_at - run.started_at).total_seconds() if run.started_at and run.ended_at else None
        return words.span(took), "in all"
    if run.status == "paused":
        return "\u2013", "paused"
    if run.waits_for_review:
        return "\u2013", "waits for your review"
    if run.progress.eta_seconds is None:
        return "\u2013", "to go: waits for more to go by"
    return words.span(run.progress.eta_seconds), f"to go; {run.progress.percent:g} % done"


def _memory(latest: dict[str, MetricPointView], waits: str) -> Figure:
    now, most = latest.get("memory_gb"), latest.get("peak_memory_gb")
    if now is None or now.value is None:
        return Figure("Memory", "\u2013", waits)
    return Figure("Memory", f"{now.value:.1f} GB", f"at most {most.value:.1f} GB" if most and most.value is not None else "")


def _cost(run: RunView) -> Figure:
    limit = (run.spec or {}).get("limits", {}).get("max_teacher_cost_usd")
    if limit:
        more = f"of {words.dollars(limit)}; {run.usage.calls:,} answers"
    elif run.estimate:
        more = f"estimated {words.dollars(run.estimate.cost_usd)}; {run.usage.calls:,} answers"
    else:
        more = f"{run.usage.calls:,} answers, no limit"
    return Figure("Teacher cost", words.dollars(run.usage.cost_usd), more)


def _score(run: RunView) -> Figure:
    if not run.epochs:
        return Figure("Score", "\u2013", "the run ended before" if run.terminal else "waits for the first epoch")
    last = run.epochs[-1]
    best = next((e for e in run.epochs if e.epoch == run.best_epoch), last)
    return Figure("Score", words.score(last.choosing_score), f"best {words.score(best.choosing_score)} in epoch {best.epoch}")


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.3f}"


class Kpis:
    def __init__(self) -> None:
        self.labels: dict[str, tuple[ui.label, ui.label]] = {}
        with ui.element("section").classes("kpis").props('aria-label="Figures"'):
            self.place = ui.element("dl").classes("figures")

    def show(self, run: RunView, latest: dict[str, MetricPointView]) -> None:
        for figure in figures(run, latest):
            if figure.name not in self.labels:
                with self.place, ui.element("div").classes("figure card"):
                    with ui.element("dt").classes("quiet small"):
                        shell.text(figure.name)
                    with ui.element("dd"):
                        value = ui.label().classes("big number")
                        more = ui.label().classes("quiet small")
                self.labels[figure.name] = value, more
            value, more = self.labels[figure.name]
            value.set_text(figure.value)
            more.set_text(figure.more)
