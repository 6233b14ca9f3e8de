"""What the commands print: for people with Rich, at 80 columns too; for scripts as JSON."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reflux.stages import Stage
from reflux.summary import Comparison, EpochMetrics
from reflux.views import DryRun, RunView

console = Console(highlight=False, soft_wrap=False, emoji=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]

EXIT_CODES = {
    0: "done; a run that was watched succeeded, or rests",
    1: "a run that was watched failed or was aborted, a check failed, or the API refused",
    2: "wrong use: an option, an argument, a file",
    3: "no API is known here, or it does not answer",
    130: "left with Ctrl-C; what was watched goes on",
}
STAGES = [stage.value for stage in Stage]
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def examples(*commands: str) -> str:
    """The end of a command's help."""
    return "\b\n" + "\n".join(["Examples:" if len(commands) > 1 else "Example:", *(f"  {command}" for command in commands)])


def harmless(text: str) -> str:
    """Text of a model, or of a file, without the characters that could steer a terminal."""
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def err(message: str, hint: str = "") -> None:
    """One sentence of what happened, and what to do."""
    sys.stderr.write(f"{harmless(message)}\n")
    if hint:
        sys.stderr.write(f"  → {harmless(hint)}\n")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "…"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def plain(text: str) -> str:
    """Text of somebody else, as it stands, for Rich."""
    return escape(harmless(text))


def runs_table(runs: list[RunView]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("run", "name", "status", "epoch", "score", "cost", "health"):
        table.add_column(column, no_wrap=column != "name")  # where it is narrow, the name gives way
    for run in runs:
        score = f"{run.epochs[-1].practice.overall:.2f}" if run.epochs else ""
        epoch = f"{run.epoch}/{run.max_epochs}" if run.epoch else ""
        name = Text(harmless(run.name), no_wrap=True, overflow="ellipsis")
        table.add_row(run.id, name, run.status, epoch, score, f"${run.usage.cost_usd:.3f}", run.health)
    return table


def epochs_table(epochs: list[EpochMetrics], best: int | None) -> Table:
    """One row an epoch. `dev` chooses the best (★), `gcc` is the share that compiles, `taken` what was admitted of requested."""
    table = Table(box=None, pad_edge=False)
    columns = ("epoch", "loss", "practice", "dev", "syntax", "words", "safety", "style", "gcc", "poor", "taken")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for e in epochs:
        p = e.practice
        table.add_row(
            f"{'★' if e.epoch == best else ' '}{e.epoch}",
            f"{e.train_loss:.2f}",
            f"{p.overall:.2f}",
            f"{e.dev.overall:.2f}" if e.dev else "",
            f"{p.syntax:.1f}",
            f"{p.protocol:.1f}",
            f"{p.safety:.1f}",
            f"{p.style:.1f}",
            f"{p.compiling:.0%}",
            f"{e.correction_rate:.0%}",
            f"{e.admitted}/{e.requested}",
        )
    return table


def comparison_table(comparison: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("test prompts", "score", "syntax", "words", "safety", "style", "gcc"):
        table.add_column(column, justify="left" if column == "test prompts" else "right", no_wrap=True)
    for name, s in (("base model", comparison.base), ("trained student", comparison.best)):
        table.add_row(
            name,
            f"{s.overall:.2f}",
            f"{s.syntax:.1f}",
            f"{s.protocol:.1f}",
            f"{s.safety:.1f}",
            f"{s.style:.1f}",
            f"{s.compiling:.0%}",
        )
    return table


def comparison_words(c: Comparison) -> str:
    interval = f"{c.difference:+.2f} (95% interval {c.low:+.2f} to {c.high:+.2f}; {c.prompts} prompts, {c.samples} answers each)"
    if c.low > 0:
        return f"The student gained {interval}."
    if c.high < 0:
        return f"The student lost {interval}."
    return f"No gain that could be told from chance: {interval}."


def standing(run: RunView) -> None:
    """A run that is not over."""
    progress = run.progress
    epoch = f"epoch {run.epoch}/{run.max_epochs}  " if run.epoch else ""
    console.print(f"{run.id}  {plain(run.name)}  {run.status}  {epoch}{run.health}", soft_wrap=True)
    console.print(f"{progress.percent:.0f}%  ETA {duration(progress.eta_seconds)}  {plain(progress.doing)}", soft_wrap=True)
    if run.waits_for_review:
        console.print(f"corrections wait for somebody: `reflux run review {run.id}`", soft_wrap=True)
    if run.epochs:
        console.print(epochs_table(run.epochs, run.best_epoch))


def estimated(found: DryRun) -> None:
    """What a run would need."""
    console.print("The spec is valid. The run would need about")
    if teacher := found.estimate:
        tokens = f"{teacher.input_tokens:,} tokens in, {teacher.output_tokens:,} out"
        most = f"at most {teacher.most_calls} answers, ${teacher.most_cost_usd:.2f}"
        console.print(f"  teacher     {teacher.calls} answers, {tokens}, ${teacher.cost_usd:.3f} ({most})", soft_wrap=True)
    memory = f"{found.gpu_memory_gb:g} GB" if found.gpu_memory_gb else "not known for this student"
    console.print(f"  GPU memory  {memory}")
    if hours := found.gpu_hours:
        console.print(f"  GPU hours   {hours.likely:.2g} ({hours.low:.2g} to {hours.high:.2g})")
        console.print(f"              {plain(hours.basis)}", soft_wrap=True)
        if usd := hours.usd_per_hour:
            spread = f"{usd * hours.low:,.2f} to {usd * hours.high:,.2f}"
            told = f"${usd * hours.likely:,.2f} ({spread}), at ${usd:.2f} an hour; spot costs less"
            console.print(f"  machine     {told}", soft_wrap=True)


def result(run: RunView) -> None:
    """The last page of a run."""
    console.print()
    console.print(f"[bold]Run {run.id} has {run.outcome}[/bold]" + (f": {plain(run.reason)}" if run.reason else ""))
    if run.epochs:
        console.print()
        console.print(epochs_table(run.epochs, run.best_epoch))
    if run.comparison:
        console.print()
        console.print(comparison_table(run.comparison))
        console.print(comparison_words(run.comparison))
    console.print()
    if run.recipe == "distill":
        _teacher(run)
    console.print(f"took       {duration(_seconds(run))}")
    where = run.artifacts_url.removeprefix("file://") if run.artifacts_url.startswith("file://") else run.artifacts_url
    console.print(f"artifacts  {escape(_short(where))}", soft_wrap=True)
    model = ("outputs",) if run.recipe == "job" else ("adapter",)
    for name in ("report.md", *model, "training_summary.json", "cleanup_status.json"):
        if not where.startswith("/") or Path(where, name).exists():
            console.print(f"           {escape(_short(where))}/{name}", soft_wrap=True)
    for removed in run.removed:
        console.print(f"retention  {plain(removed.told)}", soft_wrap=True)
    for warning in run.warnings:
        console.print(f"[yellow]warning[/yellow]    {plain(warning)}", soft_wrap=True)
    if run.error:
        err(f"{run.error.code}: {run.error.message}", run.error.hint)


def _teacher(run: RunView) -> None:
    usage = run.usage
    tokens = f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out"
    console.print(f"teacher    {usage.calls} answers, {tokens}, ${usage.cost_usd:.3f}")
    if usage.reused:
        console.print(f"           {usage.reused} more answers were bought by other runs")
    if usage.at_risk:
        console.print(f"           {usage.at_risk} calls were never answered; the provider may have charged for them")
    if expected := run.estimate:
        most = f"at most {expected.most_calls}, ${expected.most_cost_usd:.2f}"
        console.print(f"estimated  {expected.calls} answers, ${expected.cost_usd:.3f} ({most})")


def _seconds(run: RunView) -> float | None:
    if run.ended_at is None or run.started_at is None:
        return None
    return (run.ended_at - run.started_at).total_seconds()


def _short(path: str) -> str:
    here = str(Path.cwd()) + "/"
    return path.removeprefix(here)
