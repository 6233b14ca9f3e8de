"""`reflux verify-cleanup`: what runs may have left behind, by their cleanup_status.json, the API's record, and the provider."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from reflux.cli import output
from reflux.cli.connection import connect
from reflux.client import ApiError, Client
from reflux.errors import RefluxError
from reflux.machines import Machine
from reflux.views import ResourceView, RunView

STATUS = "cleanup_status.json"


def verify_cleanup(
    run_id: Annotated[
        str | None, typer.Argument(help="Only this run; left out: every run that has ended.", show_default=False)
    ] = None,
    provider: Annotated[
        bool, typer.Option(help="Ask the provider what still exists, with the AWS credentials of this terminal.")
    ] = True,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Check that ended runs left nothing behind that costs money or space. Exit code 1 if something is to be done by hand."""
    with connect() as client:
        runs = list(_ended(client)) if run_id is None else [client.run(run_id)]
        machines = _machines(client, None if run_id is None else {run_id}, ask=provider)
        checked = [_checked(client, run, machines.pop(run.id, [])) for run in runs]
    checked += [{"run_id": deleted, "outcome": "deleted", "to_do": to_do} for deleted, to_do in machines.items()]
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


def _machines(client: Client, wanted: set[str] | None, *, ask: bool) -> dict[str, list[str]]:
    """What is to be done about machines of runs that are over, by run; those of deleted runs too."""
    to_do: dict[str, list[str]] = defaultdict(list)
    for row in client.resources():
        over = row.run_status in (None, "succeeded", "failed", "aborted")
        if over and (wanted is None or row.run_id in wanted):
            to_do[row.run_id] += _of_machine(row, ask=ask)
    return to_do


def _of_machine(row: ResourceView, *, ask: bool) -> list[str]:
    recorded = _recorded(row)
    if not ask:
        return [recorded]
    from services.teacher_worker.cloud import providers

    machine = Machine(
        token=row.token, run_id=row.run_id, kind=row.kind, region=row.region, deployment="", id=row.id
    )  # fmt: skip
    try:
        found = providers.standing(machine)
    except RefluxError as error:
        return [f"{recorded} The provider could not be asked: {error.message}. {error.hint}"]
    return [
        f"End {one.id} ({one.note}, {row.region}): {one.error}{_cost(one.cost_per_hour)}. {_command(row, one.id)}"
        for one in found
    ]


def _recorded(row: ResourceView) -> str:
    what = f"{row.id or row.token} ({row.kind}, {row.region})"
    if row.last is None:
        return f"Look for {what}: nobody has looked whether it is gone."
    why = f": {row.last.error}" if row.last.error else ""
    told = f"the last look ({row.last.timestamp}) found it {row.last.status.replace('_', ' ')}{why}"
    again = f"It is looked at again and again. {_command(row, row.id)}".rstrip()
    return f"Look for {what}: {told}{_cost(row.last.cost_per_hour)}. {again}"


def _cost(cost: float | None) -> str:
    return ", and its price is not known" if cost is None else f", at about ${cost:g} an hour" if cost else ""


def _command(row: ResourceView, name: str | None) -> str:
    if name is None:
        return ""
    if row.kind == "sagemaker_job":
        return f"By hand: aws sagemaker stop-training-job --region {row.region} --training-job-name {name}"
    return f"By hand: aws ec2 terminate-instances --region {row.region} --instance-ids {name}"


def _ended(client: Client) -> Iterator[RunView]:
    after: str | None = None
    while True:
        page = client.runs(limit=100, after=after)
        yield from (run for run in page.data if run.terminal)
        if not page.has_more:
            return
        after = page.data[-1].id


def _checked(client: Client, run: RunView, machines: list[str]) -> dict[str, Any]:
    return {"run_id": run.id, "outcome": run.outcome, "to_do": machines + list(_to_do(client, run)) if run.terminal else []}


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
    failed = resources["artifacts"].get("errors", {})
    for path, why in failed.items():
        yield f"Delete {path} in the artifact store: {why}"
    if more := resources["artifacts"].get("failed", 0) - len(failed):
        yield f"Delete {more} more objects below runs/{run.id}/tasks that no accepted attempt has"
