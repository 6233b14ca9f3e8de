"""`reflux score`: the evaluator as a linter, without any server."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reflux.cli import output
from reflux.cli.spec_file import read_spec
from reflux.errors import RefluxError
from reflux.records import Evidence, Verdict
from reflux.spec import Rubric

if TYPE_CHECKING:
    from services.evaluator.files import Scored

PARTS = ("syntax", "protocol", "safety", "style")


def score(
    files: Annotated[list[Path], typer.Argument(help="C or C++ files, Markdown with code blocks, or JSONL of answers.")],
    minimum: Annotated[float, typer.Option("--min", min=0, max=10, help="Exit with 1 if one scores less.")] = 7.0,
    domain: Annotated[str, typer.Option(help="Whose words count: tsn, avb, or generic.")] = "generic",
    prompt: Annotated[str, typer.Option(help="What was asked; the domain is read from it too.")] = "",
    spec: Annotated[Path | None, typer.Option(help="Take the `rubric` section of this spec.")] = None,
    include: Annotated[list[Path] | None, typer.Option("--include", "-I", help="A folder of your own headers.")] = None,
    misra: Annotated[bool, typer.Option("--misra", help="Add MISRA C:2012 rules by cppcheck.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON verdict a line.")] = False,
) -> None:
    """Score code as a run would: syntax by GCC in a sandbox, protocol words, safety, style, each point with its reason."""
    rubric = _rubric(spec, include or [], misra=misra)
    try:
        scored = _score(files, rubric, prompt, domain, quiet=json)
    except RefluxError as error:
        output.err(error.message, error.hint)
        raise typer.Exit(2) from error
    for one in scored:
        if json:
            typer.echo(one.verdict.model_copy(update={"prompt_id": one.name}).model_dump_json())
        else:
            show(one.name, one.verdict, minimum)
    low = [one for one in scored if one.verdict.overall < minimum]
    if not json and len(scored) > 1:
        mean = sum(one.verdict.overall for one in scored) / len(scored)
        output.console.print(f"{len(scored)} scored, mean {mean:.2f}, {len(low)} below {minimum:g}")
    if low:
        raise typer.Exit(1)


def _score(files: list[Path], rubric: Rubric, prompt: str, domain: str, *, quiet: bool) -> "list[Scored]":
    from services.evaluator.files import score_file
    from services.evaluator.tasks import scorer_of

    scorer = scorer_of(rubric)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    disable = quiet or not output.console.is_terminal
    scored = []
    with Progress(*columns, console=output.console, transient=True, disable=disable) as progress:
        for file in files:
            bar = progress.add_task(file.name, total=None)

            def tell(done: int, bar: object = bar) -> None:
                progress.update(bar, completed=done)  # type: ignore[arg-type]

            scored += score_file(file, prompt=prompt, domain=domain, scorer=scorer, tell=tell)
    return scored


def _rubric(spec: Path | None, include: list[Path], *, misra: bool) -> Rubric:
    section = read_spec(spec).get("rubric", {}) if spec else {}
    try:
        rubric = Rubric.model_validate(section)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            output.err(f"rubric.{'.'.join(map(str, detail['loc']))}: {detail['msg']}", "Correct the spec.")
        raise typer.Exit(2) from error
    folders = (*rubric.include_dirs, *(str(folder.resolve()) for folder in include))
    # Here the user is the operator: what they name may be shown to the compiler.
    os.environ["REFLUX_INCLUDE_ROOTS"] = ":".join(folders)
    return rubric.model_copy(update={"include_dirs": folders, "misra": misra or rubric.misra})


def show(name: str, verdict: Verdict, minimum: float) -> None:
    """The scores, then each line of code that lost points with the reasons below it, then what is about no line."""
    colour = "green" if verdict.overall >= minimum else "red"
    parts = "  ".join(f"{part} {getattr(verdict, part):.1f}" for part in PARTS)
    heuristic = "  (no compiler: a heuristic)" if verdict.heuristic else ""
    output.console.print(f"[{colour}]{verdict.overall:5.2f}[/{colour}]  [bold]{escape(name)}[/bold]", soft_wrap=True)
    output.console.print(f"       {parts}{heuristic}", soft_wrap=True)
    lines = verdict.code.split("\n")
    shown = 0
    for reason in lost(verdict):
        if reason.line is not None and shown < reason.line <= len(lines):
            shown = reason.line
            line = escape(output.harmless(lines[shown - 1].expandtabs(4)))
            output.console.print(f"  [dim]{shown:4}[/dim] {line}", soft_wrap=True)
        output.console.print(f"       {said(reason)}", soft_wrap=True)


def lost(verdict: Verdict) -> list[Evidence]:
    """What took points, or is a rule of MISRA, by line; not what only keeps a sum within its bounds."""
    counts = (e for e in verdict.evidence if e.rule != "clamped" and (e.points < 0 or e.rule.startswith("misra")))
    return sorted(counts, key=lambda reason: (reason.line is None, reason.line or 0))


def said(reason: Evidence) -> str:
    """One reason as a line for Rich."""
    where = f"{reason.column}: " if reason.line is not None and reason.column else ""
    text = f"{reason.part} {where}{output.plain(reason.message)} [dim]({escape(reason.rule)})[/dim]"
    return f"[red]{reason.points:+.1f}[/red] {text}"
