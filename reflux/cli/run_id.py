"""A run's id, as an argument that the shell completes."""

from typing import Annotated

import typer

from reflux.cli.connection import run_ids

RunId = Annotated[
    str,
    typer.Argument(help="The run's id, as `reflux run list` shows it.", show_default=False, autocompletion=run_ids),
]
