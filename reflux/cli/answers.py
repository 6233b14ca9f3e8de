"""`reflux run answers`: what the student wrote, what the compiler said about it, and how the teacher corrected it."""

import difflib
from typing import Annotated, Literal

import typer
from rich.text import Text

from reflux.cli import output
from reflux.cli.connection import connect
from reflux.cli.run_id import RunId
from reflux.cli.score import PARTS, lost, said
from reflux.records import Correction, Evidence, Verdict
from reflux.views import AnswerView

COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def answers(
    run_id: RunId,
    epoch: Annotated[int | None, typer.Option(min=0, help="Left out: the newest.", show_default=False)] = None,
    prompt_set: Annotated[Literal["practice", "dev", "test"] | None, typer.Option("--set", help="Only of these prompts.")] = None,
    model: Annotated[
        Literal["student", "base", "best"], typer.Option(help="base and best: the comparison at the end.")
    ] = "student",
    order: Annotated[Literal["worst", "prompt"], typer.Option(help="The worst first, or by prompt.")] = "worst",
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 3,
    after: Annotated[str | None, typer.Option(help="Go on after this answer's id.", show_default=False)] = None,
    json: output.Json = False,
) -> None:
    """Scored answers of an epoch, the worst first: the code with GCC's messages below its lines, and the teacher's correction."""
    with connect() as client:
        page = client.answers(run_id, epoch, set=prompt_set, model=model, order=order, limit=limit, after=after)
    if json:
        return typer.echo(page.model_dump_json(indent=2))
    for row in page.data:
        _show(row)
    if not page.data:
        output.console.print(f"No answers of epoch {page.epoch} are scored that fit. Others: --epoch, --set, --model")
    elif page.has_more:
        output.console.print(f"There are more: --after {page.data[-1].id}", soft_wrap=True)


def _show(row: AnswerView) -> None:
    verdict = row.verdict
    head = Text.assemble((f"{verdict.overall:.2f}", "bold"), f"  {row.id}  {row.domain}\n")
    head.append("  ".join(f"{part} {getattr(verdict, part):.1f}" for part in PARTS), "dim")
    output.console.print(head, soft_wrap=True)
    output.console.print(output.plain(row.prompt.strip()), style="italic")
    if row.error:
        output.console.print(f"no answer: {output.plain(row.error)}", style="red")
    _code(verdict)
    if row.correction:
        _correction(verdict.code, row.correction)
    output.console.print()


def _code(verdict: Verdict) -> None:
    """Each line with its number, and below it what took points."""
    reasons = lost(verdict)
    lines = verdict.code.rstrip("\n").split("\n") if verdict.code.strip() else []
    for number, line in enumerate(lines, 1):
        text = Text.assemble((f"{number:4} ", "dim"), output.harmless(line.expandtabs(4)))
        output.console.print(text, soft_wrap=True)
        _reasons([reason for reason in reasons if reason.line == number])
    _reasons([reason for reason in reasons if reason.line is None or reason.line > len(lines)])


def _reasons(reasons: list[Evidence]) -> None:
    for reason in reasons:
        output.console.print(f"       {said(reason)}", soft_wrap=True)


def _correction(code: str, correction: Correction) -> None:
    better = correction.verdict.code if correction.verdict else correction.answer.text
    rose = f", {correction.attempt_verdict.overall:.2f} → {correction.verdict.overall:.2f}" if correction.verdict else ""
    state = {True: "admitted", False: "refused", None: "not judged yet"}[correction.admitted]
    why = f" ({output.plain(correction.why)})" if correction.why else ""
    output.console.print(f"[bold]the teacher's correction[/bold]: {state}{rose}{why}", soft_wrap=True)
    if correction.answer.error:
        output.console.print(f"  {output.plain(correction.answer.error)}", style="red")
        return
    before, after = (output.harmless(text).rstrip("\n").split("\n") for text in (code, better))
    for line in list(difflib.unified_diff(before, after, lineterm=""))[2:]:
        output.console.print(Text(f"  {line}", style=COLOURS.get(line[0], "")), soft_wrap=True)
