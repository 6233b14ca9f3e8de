"""`reflux data prepare`: the dataset of a spec, made by the same code as in a run, without a run and without a server."""

import json as json_
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

import typer
from pydantic import BaseModel
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from reflux.artifacts import Artifacts
from reflux.cli import output
from reflux.cli.histogram import Lengths, lengths, picture, ruler
from reflux.cli.scratch import beside
from reflux.cli.spec_file import read_spec
from reflux.commands import Prepare
from reflux.errors import RefluxError
from reflux.records import Example
from reflux.spec import RunSpec, check
from reflux.stages import Stage
from reflux.task import Task

MADE_BY = "reflux data prepare"  # in dataset.json: this folder may be written again
SAMPLE_LINES = 8
PLAIN_EVERY_SECONDS = 5.0

app = typer.Typer(help="Make and look at datasets.", no_args_is_help=True)


class Sample(BaseModel):
    domain: str
    path: str | None
    prompt: str
    answer: str


class Found(BaseModel):
    """What this command adds to dataset.json. `rows` and `licences` count training and validation rows."""

    made_by: str = MADE_BY
    rows: dict[str, int]
    licences: dict[str, int]
    lengths: Lengths
    why_not_tokens: str
    samples: list[Sample]
    warnings: list[str]


class Steps:
    """What is being done, with an ETA: a bar in a terminal, else a line now and then."""

    def __init__(self, *, quiet: bool = False) -> None:
        terminal = output.console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=output.console, transient=True, disable=quiet or not terminal)
        self._bar: TaskID | None = None
        self._plain = not quiet and not terminal
        self._what = ""
        self._began = self._told = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def at(self, what: str, done: float = 0, total: float | None = None) -> None:
        """`done` of `total` of the step `what`; without a total it takes as long as it takes."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._told = what, now, now
            if self._bar is not None:
                self._bars.remove_task(self._bar)
            self._bar = self._bars.add_task(what, total=total)
            if self._plain:
                output.console.print(f"{what} …", soft_wrap=True)
        if self._bar is not None:
            self._bars.update(self._bar, completed=done, total=total)
        if self._plain and total and now - self._told > PLAIN_EVERY_SECONDS:
            left = output.duration((total - done) * (now - self._began) / done) if done else "…"
            output.console.print(f"{what}: {done:,.0f} of {total:,.0f}, ETA {left}", soft_wrap=True)
            self._told = now


@dataclass(eq=False)
class Shown(Task):
    """The task of a run's `prepare`, whose progress is shown here."""

    steps: Steps = field(default_factory=Steps)

    def progress(self, done: float, total: float, note: str = "") -> None:
        self.steps.at(f"reading {note}", done, total)


@app.command(epilog=output.examples("reflux data prepare our.yaml --out our-dataset --samples 2"))
def prepare(
    spec: Annotated[Path, typer.Argument(help="A RunSpec as YAML, e.g. examples/automotive/demo.yaml", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Where the dataset goes.")] = Path("dataset"),
    samples: Annotated[int, typer.Option("--samples", min=0, help="How many rows of each domain to show.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for a script.")] = False,
) -> None:
    """Make a spec's dataset and show what is in it. Exit code 1 if it can't be made, 2 for a wrong spec or folder."""
    wanted = _checked(spec)
    target = out.expanduser().resolve()
    _may_write(target)
    try:
        near = next(folder for folder in (target, *target.parents) if folder.is_dir())
        with beside(near) as scratch:
            statistics, found = _make(wanted, scratch, samples, quiet=json)
            _move(scratch / "dataset", target)
    except RefluxError as error:
        output.err(f"{error.code}: {error.message}", error.hint)
        raise typer.Exit(1) from error
    except ImportError as error:
        output.err(f"Datasets can't be made here: {error}.", "pip install 'reflux[teacher]'")
        raise typer.Exit(1) from error
    except OSError as error:
        output.err(f"The dataset can't be written: {error}.", "Free some space, or name another folder with --out.")
        raise typer.Exit(1) from error
    if json:
        said = {"folder": str(target)} | statistics | found.model_dump()
        return typer.echo(json_.dumps(said, indent=2, ensure_ascii=False))
    output.console.print(f"[bold]{escape(wanted.name)}[/bold]: the dataset is in {escape(str(out))}\n", soft_wrap=True)
    output.console.print(_summary(statistics, found))
    _show(wanted.student.model, found)


def _checked(path: Path) -> RunSpec:
    """The spec in the file; else all that is wrong with it is printed, and exit 2."""
    spec, problems = check(read_spec(path))
    if spec is None:
        output.err(f"{path} is not a valid spec:")
        for problem in problems:
            output.err(f"  {problem.field}: {problem.message}", problem.hint)
        raise typer.Exit(2)
    if spec.recipe == "job":
        output.err(f"{path} has the recipe job, which needs no dataset.", "Use distill or finetune.")
        raise typer.Exit(2)
    return spec


def _may_write(target: Path) -> None:
    """Exit 2 unless the folder is new, empty, or was made by this command."""
    try:
        if not target.exists() or not any(target.iterdir()):
            return
        made = json_.loads((target / "dataset.json").read_bytes())
        if isinstance(made, dict) and made.get("made_by") == MADE_BY:
            return
    except (OSError, ValueError):
        pass
    output.err(f"{target} is there already, and `{MADE_BY}` did not make it.", "Name another folder with --out.")
    raise typer.Exit(2)


def _make(spec: RunSpec, scratch: Path, samples: int, *, quiet: bool) -> tuple[dict[str, Any], Found]:
    """Make the dataset in `scratch`; what its own dataset.json says, and what is added to it."""
    with Steps(quiet=quiet) as steps:
        steps.at("loading what reads source code")
        from services.teacher_worker.dataset import make

        task = Shown("here", Prepare(stage=Stage.PREPARING), spec, Artifacts("memory://"), steps=steps)
        made = make(spec, scratch, task)
        steps.at(f"loading the tokenizer of {spec.student.model.rpartition('/')[2]}")
        scale = ruler(spec.student)
        sizes, rows, licences, shown = Counter[int](), Counter[str](), Counter[str](), list[Sample]()
        for row in _rows(made.folder):
            sizes[scale.length(row)] += 1
            rows[row.domain] += 1
            licences[row.lineage.licence or "none stated"] += 1
            if rows[row.domain] <= samples:
                shown.append(_sample(row))
            steps.at(f"measuring rows in {scale.unit}", rows.total(), made.train + made.val)
    limit = spec.training.max_length if scale.unit == "tokens" else None
    found = Found(
        rows=dict(sorted(rows.items())),
        licences=dict(licences.most_common()),
        lengths=lengths(sizes, scale.unit, limit),
        why_not_tokens=scale.why_not_tokens,
        samples=sorted(shown, key=lambda sample: sample.domain),
        warnings=made.warnings,
    )
    file = made.folder / "dataset.json"
    statistics: dict[str, Any] = json_.loads(file.read_bytes())
    kept = statistics | found.model_dump(exclude={"samples"})
    file.write_text(json_.dumps(kept, ensure_ascii=False) + "\n", encoding="utf-8")
    return statistics, found


def _rows(folder: Path) -> Iterator[Example]:
    for name in ("train.jsonl", "val.jsonl"):
        with (folder / name).open(encoding="utf-8") as lines:
            yield from map(Example.model_validate_json, lines)


def _sample(row: Example) -> Sample:
    turns = [message for message in row.messages if message.role != "system"]
    answer = max(i for i, turn in enumerate(turns) if turn.role == "assistant")
    prompt = "\n".join(turn.content for turn in turns[:answer])
    return Sample(domain=row.domain, path=row.lineage.path, prompt=prompt, answer=turns[answer].content)


def _move(made: Path, target: Path) -> None:
    """Put the files into their place; Ctrl-C waits, so that they never are of two datasets."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file in made.iterdir():
            file.replace(target / file.name)
    finally:
        signal.signal(signal.SIGINT, before)


def _show(model: str, found: Found) -> None:
    tell = partial(output.console.print, soft_wrap=True)
    measured = found.lengths
    tell(f"\n[bold]rows by {measured.unit}[/bold]  median {measured.median:,}, longest {measured.longest:,}")
    tell(picture(measured))
    if found.why_not_tokens:
        tell(f"In characters: no tokenizer of {escape(model)} could be had here. {escape(found.why_not_tokens)}")
    for sample in found.samples:
        tell(f"\n[bold]{escape(sample.domain)}[/bold]  [dim]{escape(sample.path or '')}[/dim]")
        for mark, text in (("?", sample.prompt), ("→", sample.answer)):
            first, *more = _shortened(output.harmless(text), output.console.width - 4)
            tell(f"  [cyan]{mark}[/cyan] {escape(first)}", *(f"    {escape(line)}" for line in more), sep="\n")
    tell()
    for warning in found.warnings:
        tell(f"[yellow]warning[/yellow]  {escape(warning)}")
    if measured.over:
        rows = sum(found.rows.values())
        cut = f"{measured.over:,} of {rows:,} rows would be cut off at {measured.limit:,} tokens, training.max_length"
        tell(f"[yellow]warning[/yellow]  {cut}")
        tell(f"         → Raise it (the longest has {measured.longest:,}), or leave files out by data.exclude.")


def _summary(statistics: dict[str, Any], found: Found) -> Table:
    n = {name: f"{number:,}" for name, number in statistics.items() if isinstance(number, int)}
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, what in (
        ("files", f"{n['files']} read"),
        ("skipped", _counts(statistics["skipped"])),
        ("rows", f"{n['examples']} made, {n['duplicates']} of them exact duplicates, left out"),
        ("families", f"{n['families']}, {n['families_held_out']} of them held out for the dev and test prompts"),
        ("sets", f"{n['train']} training, {n['val']} validation"),
        ("prompts", _counts(statistics["prompts"])),
        ("domains", _counts(found.rows)),
        ("licences", _counts(found.licences)),
    ):
        table.add_row(f"[bold]{name}[/bold]", escape(what))
    return table


def _counts(numbers: dict[str, int], most: int = 8) -> str:
    counted = [f"{count:,} {name.replace('_', ' ')}" for name, count in numbers.items() if count]
    more = [f"{len(counted) - most} more"] if len(counted) > most else []
    return ", ".join(counted[:most] + more) or "none"


def _shortened(text: str, width: int) -> list[str]:
    """The first lines, each within `width` columns."""
    lines = text.expandtabs(4).split("\n")
    more = [f"… {len(lines) - SAMPLE_LINES} more lines"] if len(lines) > SAMPLE_LINES else []
    return [line if len(line) <= width else line[: width - 1] + "…" for line in lines[:SAMPLE_LINES] + more]
