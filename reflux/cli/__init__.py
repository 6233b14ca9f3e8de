"""`reflux`: the command line. Exit codes: 0 done, 1 the run (or a check) failed, 2 wrong use, 3 the API can't be reached."""

import sys

import typer

from reflux.cli import ask, data, doctor, run, score, up, verify
from reflux.cli.output import err
from reflux.client import ApiError, Unreachable

app = typer.Typer(
    help="Distil a large teacher model into a small student of your own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(run.app, name="run")
app.add_typer(data.app, name="data")
app.command("up")(up.up)
app.command("demo")(up.demo)
app.command("doctor")(doctor.doctor)
app.command("score")(score.score)
app.command("ask")(ask.ask)
app.command("verify-cleanup")(verify.verify_cleanup)


def main() -> None:
    try:
        app()
    except ApiError as error:
        err(error.problem.detail, error.problem.hint)
        for problem in error.problem.errors:
            err(f"  {problem.field}: {problem.message}", problem.hint)
        sys.exit(1)
    except Unreachable as error:
        err(str(error), "Is the stack running? Start it with `reflux up`, or set REFLUX_URL and REFLUX_KEY.")
        sys.exit(3)
    except KeyboardInterrupt:
        sys.exit(130)
