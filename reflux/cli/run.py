"""`reflux run …`: start, look at and steer runs."""

import re
from pathlib import Path
from typing import Annotated

import typer

from reflux.cli import output
from reflux.cli.answers import answers
from reflux.cli.connection import connect
from reflux.cli.logs import logs
from reflux.cli.output import Json, examples
from reflux.cli.report import download, report
from reflux.cli.review import review
from reflux.cli.run_id import RunId
from reflux.cli.spec_file import read_spec
from reflux.cli.tensorboard import tensorboard
from reflux.cli.watch import watch as watch_run
from reflux.views import RunView

app = typer.Typer(help="Start, watch and steer runs.", no_args_is_help=True)

METADATA = re.compile(r"([^=]+)=(.*)", re.DOTALL)


@app.command(
    epilog=examples(
        "reflux run start examples/automotive/demo.yaml --watch",
        "reflux run start our.yaml --dry-run",
        "run=$(reflux run start our.yaml --json | jq -r .id)",
    )
)
def start(
    spec: Annotated[Path, typer.Argument(help="A RunSpec as YAML, e.g. examples/automotive/demo.yaml", show_default=False)],
    watch: Annotated[bool, typer.Option("--watch", help="Stay and show the run until it is over.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the spec and estimate what the run needs.")] = False,
    key: Annotated[
        str | None, typer.Option("--idempotency-key", help="The same key again gives the same run.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Start a run from a spec. With --watch, exit code 1 unless it succeeds."""
    with connect() as client:
        wanted = read_spec(spec)
        if dry_run:
            found = client.dry_run(wanted)
            return typer.echo(found.model_dump_json(indent=2)) if json else output.estimated(found)
        run = client.create(wanted, key)
        if json and not watch:
            return typer.echo(run.model_dump_json(indent=2))
        if not json:
            output.console.print(f"run {run.id} accepted")
        if watch:
            finish(watch_run(client, run.id, quiet=json), json=json)


@app.command("list", epilog=examples("reflux run list --status failed", "reflux run list --metadata team=gptp --json"))
def list_runs(
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=100)] = 20,
    status: Annotated[str | None, typer.Option(help="Only runs of this status.", show_default=False)] = None,
    recipe: Annotated[str | None, typer.Option(help="distill, finetune or job.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="Only runs of this name.", show_default=False)] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE; may be given several times.", show_default=False)
    ] = None,
    after: Annotated[str | None, typer.Option(help="Go on after this run's id.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """The runs, newest first."""
    wanted: dict[str, str | int | None] = {}
    for pair in metadata or ():
        found = METADATA.fullmatch(pair)
        if found is None:
            raise typer.BadParameter(f"{pair} is not NAME=VALUE", param_hint="--metadata")
        wanted[f"metadata[{found[1]}]"] = found[2]
    with connect() as client:
        page = client.runs(limit=limit, status=status, recipe=recipe, name=name, after=after, **wanted)
    if json:
        return typer.echo(page.model_dump_json(indent=2))
    output.console.print(output.runs_table(page.data) if page.data else "No such runs. Start one: reflux run start SPEC.yaml")
    if page.has_more:
        output.err(f"There are more: --after {page.data[-1].id}")


@app.command(epilog=examples("reflux run show 20261125-110001-fed803", "reflux run show 20261125-110001-fed803 --json"))
def show(run_id: RunId, json: Json = False) -> None:
    """A run as it is now: where it stands, its epochs, what went wrong and what to do."""
    with connect() as client:
        run = client.run(run_id)
    if json:
        return typer.echo(run.model_dump_json(indent=2))
    if run.terminal:
        return output.result(run)
    output.standing(run)


@app.command(epilog=examples("reflux run watch 20261125-110001-fed803"))
def watch(run_id: RunId, json: Json = False) -> None:
    """Show a run live until it is over or paused, over any outage of the API. Leaving with Ctrl-C does not touch the run.

    Exit code 1 if it failed or was aborted.
    """
    with connect() as client:
        finish(watch_run(client, run_id, quiet=json), json=json)


@app.command(epilog=examples("reflux run events 20261125-110001-fed803 | jq -r .type"))
def events(
    run_id: RunId,
    after: Annotated[int, typer.Option(help="Only events after this number.", min=0)] = 0,
) -> None:
    """The run's history, one JSON line an event, each once, live to its end."""
    with connect() as client:
        for event in client.follow(run_id, after):
            typer.echo(event.model_dump_json())


@app.command(epilog=examples("reflux run abort 20261125-110001-fed803", "reflux run abort 20261125-110001-fed803 --discard"))
def abort(
    run_id: RunId,
    discard: Annotated[bool, typer.Option("--discard", help="Delete the artifacts made so far.")] = False,
    json: Json = False,
) -> None:
    """End a run: gracefully, by force after 20 s. What it made stays, marked partial."""
    with connect() as client:
        _steered(client.abort(run_id, discard=discard), json=json)


@app.command(epilog=examples("reflux run pause 20261125-110001-fed803"))
def pause(run_id: RunId, json: Json = False) -> None:
    """Let a run rest after the work in hand; the GPU is free for others."""
    with connect() as client:
        _steered(client.pause(run_id), json=json)


@app.command(epilog=examples("reflux run resume 20261125-110001-fed803"))
def resume(run_id: RunId, json: Json = False) -> None:
    """Let a paused run go on where it stopped."""
    with connect() as client:
        _steered(client.resume(run_id), json=json)


@app.command(epilog=examples("reflux run fork 20261125-110001-fed803 --epoch 2 --changes more-epochs.yaml"))
def fork(
    run_id: RunId,
    epoch: Annotated[int | None, typer.Option(help="A finished epoch; left out: the last.", min=1, show_default=False)] = None,
    changes: Annotated[
        Path | None, typer.Option(help="YAML with the settings that differ, by section.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Start a new run that goes on after an epoch of this one, with its dataset, adapter and corrections."""
    with connect() as client:
        made = client.fork(run_id, epoch=epoch, changes=read_spec(changes) if changes else None)
    if json:
        return typer.echo(made.model_dump_json(indent=2))
    output.console.print(f"run {made.id} goes on after epoch {made.epoch} of {output.plain(run_id)}", soft_wrap=True)


@app.command(
    epilog=examples("reflux run delete 20261125-110001-fed803", "reflux run delete 20261125-110001-fed803 --artifacts --yes")
)
def delete(
    run_id: RunId,
    artifacts: Annotated[bool, typer.Option("--artifacts", help="Delete what it made, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget a run that is over, with its events, logs and metrics."""
    if not yes:
        what = "and everything that it made" if artifacts else "but not what it made"
        typer.confirm(f"Delete run {output.harmless(run_id)}, {what}?", abort=True)
    with connect() as client:
        client.delete(run_id, artifacts=artifacts)
    output.console.print(f"run {output.plain(run_id)} is deleted", soft_wrap=True)


app.command(
    epilog=examples(
        "reflux run logs 20261125-110001-fed803 --level warning", "reflux run logs 20261125-110001-fed803 --last 50 --follow"
    )
)(logs)
app.command(
    epilog=examples(
        "reflux run answers 20261125-110001-fed803", "reflux run answers 20261125-110001-fed803 --epoch 2 --set dev --limit 10"
    )
)(answers)
app.command(epilog=examples("reflux run report 20261125-110001-fed803", "reflux run report 20261125-110001-fed803 -o report.md"))(
    report
)
app.command(
    epilog=examples(
        "reflux run download 20261125-110001-fed803", "reflux run download 20261125-110001-fed803 adapter -o our-model"
    )
)(download)
app.command(
    epilog=examples(
        "reflux run tensorboard 20261125-110001-fed803", "reflux run tensorboard 20261125-110001-fed803 --no-serve -o logs"
    )
)(tensorboard)
app.command(
    epilog=examples(
        "reflux run review 20261125-110001-fed803 --save todo.jsonl", "reflux run review 20261125-110001-fed803 --from todo.jsonl"
    )
)(review)


def _steered(run: RunView, *, json: bool) -> None:
    if json:
        return typer.echo(run.model_dump_json(indent=2))
    output.console.print(f"run {run.id} is {run.status}")


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
