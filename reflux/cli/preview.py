"""`reflux data preview`: what a place of data holds, as the teacher workers see it."""

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.markup import escape

from reflux.cli import output
from reflux.cli.connection import connect
from reflux.cli.output import Json
from reflux.previews import Holds, LinesPreview, SourcesPreview


def preview(
    uri: Annotated[str, typer.Argument(help="As in a spec: file:///… or s3://….", show_default=False)],
    holds: Annotated[
        Holds | None,
        typer.Option(help="Left out: rows for a .jsonl or .csv file, else sources.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Have a teacher worker look into a place of data, and show what is there.

    Source files are counted by suffix; rows and prompts are checked line by line, as many as a few seconds allow. Exit code 1
    if it can't be read, or a line is wrong.
    """
    is_file = uri.lower().endswith((".jsonl", ".csv"))
    with connect() as client:
        found = client.preview(uri, holds or ("rows" if is_file else "sources"))
    if json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        for line in _sources(found) if isinstance(found, SourcesPreview) else _lines(found):
            output.console.print(line, soft_wrap=True)
        if found.blots:
            output.console.print(f"{found.blots} secrets are struck out here.")
    if isinstance(found, LinesPreview) and found.errors:
        raise typer.Exit(1)


def _sources(found: SourcesPreview) -> Iterator[str]:
    counted = ", ".join(found.by_suffix()) or "no file of C or C++"
    more = "" if found.complete else "; and more: not all was looked at"
    yield f"[bold]{counted}[/bold]; others: {found.others:,}{more}"
    yield from (f"  {_safe(path)}" for path in found.paths)
    if found.first:
        yield f"\n[bold]{_safe(found.first.path)}[/bold]\n{_safe(found.first.text)}"


def _lines(found: LinesPreview) -> Iterator[str]:
    first = "" if found.complete else "the first "
    yield f"[bold]{first}{found.checked:,} {found.holds} looked at, {found.errors:,} wrong[/bold] ({found.form})"
    yield from (f"  [red]{_safe(wrong.field)}[/red]: {_safe(wrong.message)}" for wrong in found.wrong)
    for row in found.rows:
        yield "\n" + "\n".join(f"[cyan]{turn.role}[/cyan] {_safe(turn.content)}" for turn in row.messages)


def _safe(text: str) -> str:
    return escape(output.harmless(text))
