"""`reflux retention`: what old runs need no longer, and would be removed."""

from typing import Annotated

import typer
from rich.table import Table

from reflux.cli import output
from reflux.cli.connection import connect
from reflux.cli.output import Json
from reflux.views import RetentionPlan

AS_SET = "Without it: as the API is set."


def retention(
    artifacts_days: Annotated[float | None, typer.Option(help=f"Answers, checkpoints … of runs so old. {AS_SET}", min=0)] = None,
    artifacts_gb: Annotated[float | None, typer.Option(help=f"The oldest ones' above so many GB of all. {AS_SET}", min=0)] = None,
    results_days: Annotated[float | None, typer.Option(help=f"Exported models, reports. {AS_SET}", min=0)] = None,
    logs_days: Annotated[float | None, typer.Option(help=f"Log lines. {AS_SET}", min=0)] = None,
    metrics_days: Annotated[float | None, typer.Option(help=f"Metrics. {AS_SET}", min=0)] = None,
    json: Json = False,
) -> None:
    """What retention would remove now, why, and what it must keep. This removes nothing: control does, as it is set."""
    limits = {
        "artifacts_days": artifacts_days,
        "artifacts_gb": artifacts_gb,
        "results_days": results_days,
        "logs_days": logs_days,
        "metrics_days": metrics_days,
    }
    with connect() as client:
        plan = client.retention(**limits)
    if json:
        return typer.echo(plan.model_dump_json(indent=2))
    if plan.removals:
        output.console.print(_table(plan))
    for kept in plan.kept:
        output.console.print(f"kept: {kept.what} of {kept.run_id}, {output.plain(kept.why)}", soft_wrap=True)
    freed = sum(removal.bytes or 0 for removal in plan.removals)
    runs = len({removal.run_id for removal in plan.removals})
    counted = "1 run" if runs == 1 else f"{runs} runs"
    more = ", and more after them" if plan.has_more else ""
    output.console.print(f"{counted} would give {freed:,} bytes{more}. Nothing was removed.", soft_wrap=True)


def _table(plan: RetentionPlan) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("run", "what", "number", "bytes", "why"):
        table.add_column(column, no_wrap=column != "why", justify="right" if column in ("number", "bytes") else "left")
    for r in plan.removals:
        size = "" if r.bytes is None else f"{r.bytes:,}"
        table.add_row(r.run_id, r.what, f"{r.count:,}", size, output.plain(r.why))
    return table
