"""`reflux run …`: start, look at and steer runs."""

from pathlib import Path
from string import Template
from typing import Annotated, Any

import typer
import yaml

from reflux.cli import output
from reflux.cli.connection import connect
from reflux.cli.review import review
from reflux.cli.watch import watch as watch_run
from reflux.views import RunView

app = typer.Typer(help="Start, watch and steer runs.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(help="The run's id, as `reflux run list` shows it.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


@app.command()
def start(
    spec: Annotated[Path, typer.Argument(help="A RunSpec as YAML, e.g. examples/automotive/demo.yaml", show_default=False)],
    watch: Annotated[bool, typer.Option("--watch", help="Stay and show the run until it is over.")] = False,
    json: Json = False,
) -> None:
    """Start a run from a spec. Exit code 1 if, watched, it does not succeed."""
    with connect() as client:
        run = client.create(read_spec(spec))
        if json and not watch:
            return typer.echo(run.model_dump_json(indent=2))
        output.console.print(f"run {run.id} accepted")
        if watch:
            finish(watch_run(client, run.id), json=json)


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=100)] = 20,
    status: Annotated[str | None, typer.Option(help="Only runs of this status.")] = None,
    json: Json = False,
) -> None:
    """The runs, newest first."""
    with connect() as client:
        page = client.runs(limit=limit, status=status)
    if json:
        return typer.echo(page.model_dump_json(indent=2))
    output.console.print(output.runs_table(page.data) if page.data else "No runs yet. Start one: reflux run start SPEC.yaml")


@app.command()
def show(run_id: RunId, json: Json = False) -> None:
    """A run as it is now: where it stands, its epochs, what went wrong and what to do."""
    with connect() as client:
        run = client.run(run_id)
    if json:
        return typer.echo(run.model_dump_json(indent=2))
    if run.terminal:
        return output.result(run)
    progress = run.progress
    output.console.print(f"{run.id}  {run.name}  {run.status}  epoch {run.epoch}/{run.max_epochs}  {run.health}")
    output.console.print(f"{progress.percent:.0f}%  ETA {output.duration(progress.eta_seconds)}  {progress.doing}")
    if run.epochs:
        output.console.print(output.epochs_table(run.epochs, run.best_epoch))


@app.command()
def watch(run_id: RunId, json: Json = False) -> None:
    """Show a run live until it is over. Leaving with Ctrl-C does not touch the run."""
    with connect() as client:
        finish(watch_run(client, run_id), json=json)


@app.command()
def events(run_id: RunId, after: Annotated[int, typer.Option(help="Only events after this number.")] = 0) -> None:
    """The run's history, one JSON line an event, live to its end."""
    with connect() as client:
        for event in client.follow(run_id, after):
            typer.echo(event.model_dump_json())


@app.command()
def abort(
    run_id: RunId,
    discard: Annotated[bool, typer.Option("--discard", help="Delete the artifacts made so far.")] = False,
) -> None:
    """End a run: gracefully, by force after 20 s. What it made stays, marked partial."""
    with connect() as client:
        run = client.abort(run_id, discard=discard)
    output.console.print(f"run {run.id} is {run.status}")


@app.command()
def pause(run_id: RunId) -> None:
    """Let a run rest after the work in hand; the GPU is free for others."""
    with connect() as client:
        output.console.print(f"run {run_id} is {client.pause(run_id).status}")


@app.command()
def resume(run_id: RunId) -> None:
    """Let a paused run go on where it stopped."""
    with connect() as client:
        output.console.print(f"run {run_id} is {client.resume(run_id).status}")


@app.command()
def fork(
    run_id: RunId,
    epoch: Annotated[int | None, typer.Option(help="A finished epoch; left out: the last.", min=1)] = None,
    changes: Annotated[Path | None, typer.Option(help="YAML with the settings that differ, by section.")] = None,
) -> None:
    """Start a new run that goes on after an epoch of this one, with its dataset, adapter and corrections."""
    with connect() as client:
        made = client.fork(run_id, epoch=epoch, changes=read_spec(changes) if changes else None)
    output.console.print(f"run {made.id} goes on after epoch {made.epoch} of {run_id}")


app.command()(review)


def read_spec(path: Path) -> dict[str, Any]:
    """A YAML spec. `${here}` in it stands for the folder that it lies in, `!file notes.txt` for the text of a file there.

    What is wrong with the file is printed; exit 2.
    """

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!file", lambda _, node: _text_of(node, path))
    try:
        text = path.read_text(encoding="utf-8")
        spec = yaml.load(Template(text).safe_substitute(here=path.resolve().parent), Loader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        output.err(f"{path} can't be read: {error}", "Name a YAML file.")
        raise typer.Exit(2) from error
    except yaml.YAMLError as error:
        output.err(f"{path} is not valid YAML: {error}", "Correct the line that is named.")
        raise typer.Exit(2) from error
    if not isinstance(spec, dict):
        output.err(
            f"{path} is not a spec: it is a {type(spec).__name__}, not a mapping.", "Look at examples/automotive/demo.yaml."
        )
        raise typer.Exit(2)
    return spec


def _text_of(node: yaml.Node, spec: Path) -> str:
    """The UTF-8 text that `!file PATH` in `spec` names, without the line ends after its last line."""
    hint = f"Name a text file in UTF-8. A relative path starts at {spec.resolve().parent}."
    where = f"{spec}, line {node.start_mark.line + 1}: `!file"
    if not isinstance(node, yaml.ScalarNode) or not node.value:
        output.err(f"{where}` needs the path of one file.", hint)
        raise typer.Exit(2)
    try:
        text = spec.resolve().parent.joinpath(Path(node.value).expanduser()).read_text(encoding="utf-8-sig")
    except OSError as error:
        output.err(f"{where} {node.value}` can't be read: {error.strerror}.", hint)
        raise typer.Exit(2) from error
    except ValueError:  # no UTF-8, or a path that no file can have
        text = "\0"
    if "\0" in text:
        output.err(f"{where} {node.value}` is not text.", hint)
        raise typer.Exit(2)
    return text.rstrip("\n")


def finish(run: RunView, *, json: bool = False) -> None:
    """Print the result; exit 1 unless the run succeeded."""
    if json:
        typer.echo(run.model_dump_json(indent=2))
    elif run.terminal:
        output.result(run)
    else:
        output.console.print(f"run {run.id} is {run.status}: `reflux run resume {run.id}` lets it go on")
    if run.terminal and run.outcome != "succeeded":
        raise typer.Exit(1)
