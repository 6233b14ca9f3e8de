"""`reflux keys …`: who may call the API."""

from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from reflux.cli import output
from reflux.cli.connection import connect
from reflux.cli.output import Json, examples
from reflux.views import Role

app = typer.Typer(help="Keys of the API: a viewer looks, an operator does everything, a worker works.", no_args_is_help=True)


@app.command(epilog=examples("reflux keys create viewer --label 'the team'", "export REFLUX_KEY=$(reflux keys create operator)"))
def create(
    role: Annotated[Role, typer.Argument(help="What it may do.", show_default=False)],
    label: Annotated[str, typer.Option(help="Whose it is, or what for.")] = "made by reflux keys",
    json: Json = False,
) -> None:
    """Make a key. It is shown now and never again: Reflux keeps its SHA-256."""
    with connect() as client:
        made = client.create_key(role, label)
    if json:
        return typer.echo(made.model_dump_json(indent=2))
    typer.echo(made.key)
    output.err(f"This is the {made.role} key {made.id}. It is not shown again.", f"`reflux keys revoke {made.id}` ends it.")


@app.command("list", epilog=examples("reflux keys list"))
def list_keys(json: Json = False) -> None:
    """All keys, without what opens."""
    with connect() as client:
        keys = client.all_keys()
    if json:
        return typer.echo("[" + ",\n".join(key.model_dump_json() for key in keys) + "]")
    table = Table(box=None, pad_edge=False)
    for column in ("key", "role", "made", "revoked", "label"):
        table.add_column(column, no_wrap=column != "label")
    for key in keys:
        table.add_row(key.id, key.role, _day(key.created_at), _day(key.revoked_at), output.plain(key.label))
    output.console.print(table)


@app.command(epilog=examples("reflux keys revoke key_5f0c1a2b3c4d5e6f"))
def revoke(key_id: Annotated[str, typer.Argument(help="As `reflux keys list` shows it.", show_default=False)]) -> None:
    """End a key: from now on it opens nothing. The last operator key stays."""
    with connect() as client:
        client.revoke_key(key_id)
    output.console.print(f"{output.plain(key_id)} opens nothing any more", soft_wrap=True)


def _day(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else ""
