"""`reflux run review`: look at corrections that wait for a person, and decide."""

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.syntax import Syntax

from reflux.cli import output
from reflux.cli.connection import connect
from reflux.client import Client
from reflux.records import Correction
from reflux.views import Decision, ReviewView

SAVED = "decision"  # what a row of a saved file must tell, besides `review` and `prompt_id`


def review(
    run_id: Annotated[str, typer.Argument(help="The run's id, as `reflux run list` shows it.", show_default=False)],
    save: Annotated[Path | None, typer.Option("--save", help="Write them to a JSONL file, to be decided on there.")] = None,
    decided: Annotated[Path | None, typer.Option("--from", help="Take the decisions of such a file.")] = None,
    approve_all: Annotated[bool, typer.Option("--approve-all", help="Train on all of them.")] = False,
    refuse_all: Annotated[bool, typer.Option("--refuse-all", help="Train on none of them.")] = False,
) -> None:
    """Corrections that wait for a person (refining.review): show them, or approve, edit or refuse them.

    In a saved file set `decision` of each row to approve, edit (and change `text`) or refuse.
    """
    chosen = [option for option in (save, decided, approve_all, refuse_all) if option]
    if len(chosen) > 1:
        output.err("Only one of --save, --from, --approve-all and --refuse-all can be done at once.", "Leave out the others.")
        raise typer.Exit(2)
    with connect() as client:
        waiting = client.reviews(run_id)
        if not waiting:
            output.console.print(f"run {run_id} waits for no review")
        elif save:
            _save(waiting, save)
        elif chosen:
            _decide(client, run_id, waiting, _read(decided) if decided else {}, "approve" if approve_all else "refuse")
        else:
            _show(waiting)


def _show(waiting: list[ReviewView]) -> None:
    for one in waiting:
        output.console.print(f"[bold]{one.key}[/bold], epoch {one.epoch}: {len(one.corrections)} corrections")
        for row in one.corrections:
            output.console.print(f"\n[bold]{row.prompt_id}[/bold]  {row.why}")
            output.console.print(output.harmless(row.prompt), markup=False)
            for name, text in (("the student", row.attempt_verdict.code), ("the teacher", row.answer.text)):
                output.console.print(f"[dim]{name}:[/dim]")
                output.console.print(Syntax(output.harmless(text.strip()), "c", word_wrap=True, background_color="default"))
    output.console.print("\nDecide: --approve-all, --refuse-all, or --save FILE, edit it, and --from FILE.")


def _save(waiting: list[ReviewView], file: Path) -> None:
    rows = [_row(one.key, row) for one in waiting for row in one.corrections]
    try:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        output.err(f"{file} can't be written: {error}", "Name another file.")
        raise typer.Exit(2) from error
    output.console.print(
        f"{len(rows)} corrections are in {file}: set `decision`, change `text` where you edit, then --from {file}"
    )


def _row(key: str, row: Correction) -> dict[str, str]:
    shown = {"prompt": row.prompt, "student": row.attempt_verdict.code, "why_admitted": row.why}
    return {"review": key, "prompt_id": row.prompt_id, SAVED: "approve", "text": row.answer.text, "why": "", **shown}


def _read(file: Path) -> dict[str, list[Decision]]:
    """The decisions of a saved file, by review."""
    found: dict[str, list[Decision]] = {}
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        output.err(f"{file} can't be read: {error}", "Name a file that --save wrote.")
        raise typer.Exit(2) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            decision = Decision.model_validate({name: row[name] for name in ("prompt_id", SAVED, "text", "why") if name in row})
            found.setdefault(row["review"], []).append(decision)
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            output.err(f"{file}, line {number}: {str(error).splitlines()[0]}", "Each row is one that --save wrote.")
            raise typer.Exit(2) from error
    return found


def _decide(client: Client, run_id: str, waiting: list[ReviewView], decisions: dict[str, list[Decision]], others: str) -> None:
    """From a file, only the reviews that it names; each must be whole."""
    chosen = [one for one in waiting if one.key in decisions] if decisions else waiting
    for one in chosen:
        client.decide(run_id, one.key, decisions.get(one.key, ()), None if decisions else others)
        output.console.print(f"{one.key} is decided")
    if len(chosen) < len(waiting):
        output.console.print(f"{len(waiting) - len(chosen)} reviews are still open")
