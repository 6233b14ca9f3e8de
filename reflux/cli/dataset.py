"""`reflux dataset …`: a user's own rows, for the recipe `finetune`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from reflux.cli import output
from reflux.cli.connection import connect
from reflux.cli.output import Json, examples

app = typer.Typer(help="Training rows of your own, for the recipe finetune.", no_args_is_help=True)


@app.command(epilog=examples("reflux dataset upload rows.csv", "reflux dataset upload rows.jsonl --name our-rows --json"))
def upload(
    file: Annotated[Path, typer.Argument(help="A .csv file, or JSONL.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Left out: the file's.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Check a file's rows line by line and store them; what is printed goes into `data.train` of a spec.

    CSV has the columns `prompt` and `completion` (and `system`, `domain`), or `messages` as JSON; JSONL has chat `messages`.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    quiet = json or not output.console.is_terminal
    try:
        size = file.stat().st_size
        with (
            connect() as client,
            Progress(*columns, console=output.console, transient=True, disable=quiet) as progress,
        ):
            bar = progress.add_task("uploading", total=size)
            stored = client.upload(file, name, tell=lambda count: progress.advance(bar, count))
    except OSError as error:
        output.err(f"{file} can't be read: {error.strerror}.", "Name a file of rows.")
        raise typer.Exit(2) from error
    if json:
        return typer.echo(stored.model_dump_json(indent=2))
    output.console.print(f"{stored.rows} rows are stored. In a spec:\n\nrecipe: finetune\ndata:")
    output.console.print(f"  train: {output.plain(stored.uri)}", soft_wrap=True)
