"""`reflux`: the command line. What its exit codes mean stands in reflux/cli/output.py."""

import sys

import typer

from reflux.cli import ask, data, dataset, doctor, keys, preview, retention, run, score, up, verify
from reflux.cli.output import EXIT_CODES, err, examples
from reflux.client import ApiError, Unreachable

LISTED_CODES = "\b\nExit codes:\n" + "\n".join(f"  {code:<4}{meaning}" for code, meaning in EXIT_CODES.items())

app = typer.Typer(
    help="Distil a large teacher model into a small student of your own. Begin with `reflux demo`, or `reflux up`.",
    epilog=LISTED_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("up", epilog=examples("reflux up", "reflux up --teacher-workers 4 --evaluators 2"))(up.up)
app.command("demo", epilog=examples("reflux demo"))(up.demo)
app.add_typer(run.app, name="run")
app.command(
    "ask",
    epilog=examples(
        "reflux ask 20261125-110001-fed803 'Write memset in C.' --score",
        "reflux ask 20261125-110001-fed803 - --checkpoint base < question.txt",
    ),
)(ask.ask)
app.add_typer(dataset.app, name="dataset")
data.app.command(
    epilog=examples("reflux data preview s3://our-code/tsn/", "reflux data preview file:///data/p.jsonl --holds prompts")
)(preview.preview)
app.add_typer(data.app, name="data")
app.command("score", epilog=examples("reflux score src/*.c --domain tsn --min 8", "reflux score answers.jsonl --json"))(
    score.score
)
app.add_typer(keys.app, name="keys")
app.command("doctor", epilog=examples("reflux doctor", "reflux doctor our.yaml"))(doctor.doctor)
app.command("verify-cleanup", epilog=examples("reflux verify-cleanup", "reflux verify-cleanup 20261125-110001-fed803 --json"))(
    verify.verify_cleanup
)
app.command(
    "retention", epilog=examples("reflux retention", "reflux retention --artifacts-days 30 --artifacts-gb 200 --logs-days 14")
)(retention.retention)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that knows no ★
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
