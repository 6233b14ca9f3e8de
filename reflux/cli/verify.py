"""`reflux verify-cleanup`: what ended runs may have left behind, from their own cleanup_status.json."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from reflux.cli import output
from reflux.cli.connection import connect
from reflux.client import ApiError, Client
from reflux.views import RunView

STATUS = "cleanup_status.json"


def verify_cleanup(
    run_id: Annotated[
        str | None, typer.Argument(help="Only this run; left out: every run that has ended.", show_default=False)
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Check that ended runs left nothing behind that costs money or space. Exit code 1 if something is to be done by hand."""
    with connect() as client:
        checked = [_checked(client, run) for run in (_ended(client) if run_id is None else [client.run(run_id)])]
    left = [row for row in checked if row["to_do"]]
    if json_:
        typer.echo(json.dumps(checked, indent=2))
    else:
        for row in left:
            output.console.print(f"[bold]{row['run_id']}[/bold]  {row['outcome'] or 'goes on'}")
            for line in row["to_do"]:
                output.console.print(f"  [red]☐[/red] {output.harmless(line)}", soft_wrap=True)
        output.console.print(f"{len(checked)} runs checked, {len(left)} with something left to do")
    if left:
        raise typer.Exit(1)


def _ended(client: Client) -> Iterator[RunView]:
    after: str | None = None
    while True:
        page = client.runs(limit=100, after=after)
        yield from (run for run in page.data if run.terminal)
        if not page.has_more:
            return
        after = page.data[-1].id


def _checked(client: Client, run: RunView) -> dict[str, Any]:
    return {"run_id": run.id, "outcome": run.outcome, "to_do": list(_to_do(client, run)) if run.terminal else []}


def _to_do(client: Client, run: RunView) -> Iterator[str]:
    """What a person has to do about the run, a sentence each."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            status = json.loads(client.download(run.id, STATUS, Path(folder) / STATUS).read_bytes())
    except ApiError as error:
        if run.manual_action_required:
            yield f"Its cleanup was never finished ({error.problem.detail}). Look for what it made outside, by its tags."
        return
    resources = status["resources"]
    for resource in [resources.get("ec2_instance"), *resources.get("ebs_volumes", [])]:
        if resource and resource["status"] == "failed":
            cost = (
                f" It costs ${status['estimated_orphaned_cost_per_hour']:g} an hour."
                if status["estimated_orphaned_cost_per_hour"]
                else ""
            )
            yield f"End {resource['id']} by hand: {resource['error']}.{cost}"
    failed = resources["artifacts"].get("errors", {})
    for path, why in failed.items():
        yield f"Delete {path} in the artifact store: {why}"
    if more := resources["artifacts"].get("failed", 0) - len(failed):
        yield f"Delete {more} more objects below runs/{run.id}/tasks that no accepted attempt has"
