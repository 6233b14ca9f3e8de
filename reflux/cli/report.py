"""`reflux run report` and `run download`: what a run has left in the artifact store."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from reflux.cli import output
from reflux.cli.connection import connect
from reflux.cli.run_id import RunId
from reflux.client import Client
from reflux.views import ArtifactView

REPORT = "report.md"


def report(
    run_id: RunId,
    to: Annotated[
        Path | None, typer.Option("--out", "-o", help="Save it here, with its plots in the folder `report` beside it.")
    ] = None,
) -> None:
    """The report of a run: what it did, and whether anything was gained. In a pipe it is Markdown."""
    with connect() as client:
        if to is None:
            with tempfile.TemporaryDirectory() as folder:
                text = client.download(run_id, REPORT, Path(folder) / REPORT).read_text(encoding="utf-8")
        else:
            _writable(to.parent)
            client.download(run_id, REPORT, to)
            plots = [file for file in _all(client, run_id) if file.path.startswith("report/")]
            _fetch(client, run_id, plots, to.parent)
            output.console.print(f"The report is in {output.plain(str(to))}, with {len(plots)} plots", soft_wrap=True)
            return
    if output.console.is_terminal:
        output.console.print(Markdown(output.harmless(text)))
    else:
        typer.echo(text, nl=False)


def download(
    run_id: RunId,
    path: Annotated[
        str, typer.Argument(help="A file or folder of the run, e.g. adapter; left out: they are listed.", show_default=False)
    ] = "",
    to: Annotated[Path, typer.Option("--out", "-o", help="The folder that they go to.")] = Path(),
    json: output.Json = False,
) -> None:
    """What a run has made: list it, or download a file or a folder of it."""
    with connect() as client:
        found = _all(client, run_id)
        wanted = [file for file in found if file.path == path or file.path.startswith(path.rstrip("/") + "/")]
        if not path:
            for file in found:
                typer.echo(file.model_dump_json() if json else f"{file.size:>13,}  {output.harmless(file.path)}")
            return
        if not wanted:
            output.err(f"The run has no file and no folder {path}.", f"`reflux run download {run_id}` lists what it has.")
            raise typer.Exit(1)
        _writable(to)
        _fetch(client, run_id, wanted, to)
    for file in wanted if json else ():
        typer.echo(file.model_dump_json())
    if not json:
        size = sum(file.size for file in wanted)
        output.console.print(f"{len(wanted)} files, {size:,} bytes, are in {output.plain(str(to))}", soft_wrap=True)


def _all(client: Client, run_id: str) -> list[ArtifactView]:
    found: list[ArtifactView] = []
    more = True
    while more:
        page = client.artifacts(run_id, after=found[-1].path if found else None)
        found += page.data
        more = page.has_more
    return found


def _fetch(client: Client, run_id: str, files: list[ArtifactView], to: Path) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=output.console, transient=True, disable=not output.console.is_terminal) as progress:
        bar = progress.add_task("downloading", total=sum(file.size for file in files))
        for file in files:
            place = (to / file.path).resolve()
            if not place.is_relative_to(to.resolve()):
                output.err(f"{file.path} would be written outside of {to}.", "It was left out.")
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            client.download(run_id, file.path, place, tell=lambda count: progress.advance(bar, count))


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        output.err(f"{folder} can't be made: {error.strerror}.", "Name another place with --out.")
        raise typer.Exit(2) from error
