"""`reflux ask`: a question to a student, with its answer as it is written."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from reflux.cli import output
from reflux.cli.connection import connect
from reflux.cli.score import show
from reflux.completions import Checkpoint, CompletionView, Piece, Waiting


def ask(
    run_id: Annotated[str, typer.Argument(help="The run's id, as `reflux run list` shows it.", show_default=False)],
    prompt: Annotated[str, typer.Argument(help="What the student is asked; - reads it from the input.", show_default=False)],
    checkpoint: Annotated[str, typer.Option(help="best, base (before any training), or the number of an epoch.")] = "best",
    score: Annotated[bool, typer.Option("--score", help="Let the evaluator score the answer.")] = False,
    domain: Annotated[str, typer.Option(help="Whose words count for the score: tsn, avb, or generic.")] = "generic",
    max_tokens: Annotated[int | None, typer.Option(min=1, max=32_768, help="The longest answer; left out: the run's.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 takes the likeliest; left out: the run's.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="Another number, another answer to the same question.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON, once it is there.")] = False,
) -> None:
    """Ask a student. While the GPU is busy, it says with what; Ctrl-C ends the generation."""
    options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "sample": sample}
    wanted = _checkpoint(checkpoint)
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        output.err("There is no question.", "Write it in quotes after the run's id, or - and give it on the input.")
        raise typer.Exit(2)
    try:
        with connect() as client:
            _tell(client.complete(run_id, text, checkpoint=wanted, score=score, domain=domain, **options), json=json)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            output.err(f"{'.'.join(map(str, detail['loc'])) or 'the question'}: {detail['msg']}", "Correct it.")
        raise typer.Exit(2) from error


def _tell(events: Iterator[Waiting | Piece | CompletionView], *, json: bool) -> None:
    with Console(stderr=True).status("asking") as status:
        for event in events:
            match event:
                case Waiting():
                    status.update(_words(event))
                    status.start()
                case Piece(text=piece) if not json:
                    status.stop()
                    sys.stdout.write(output.harmless(piece))
                    sys.stdout.flush()
                case CompletionView():
                    status.stop()
                    _finish(event, json=json)


def _checkpoint(wanted: str) -> Checkpoint:
    if wanted in ("best", "base"):
        return "best" if wanted == "best" else "base"
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    raise typer.BadParameter("best, base, or the number of an epoch", param_hint="--checkpoint")


def _words(waiting: Waiting) -> str:
    eta = "" if waiting.eta_seconds is None else f", about {output.duration(waiting.eta_seconds)}"
    return f"{waiting.doing}{eta}"


def _finish(answer: CompletionView, *, json: bool) -> None:
    if json:
        return typer.echo(answer.model_dump_json(indent=2))
    who = "the base" if answer.checkpoint == "base" else f"epoch {answer.checkpoint}"
    cut = ", cut off at the longest answer" if answer.finish_reason == "length" else ""
    typer.echo("")
    typer.echo(f"{who}: {answer.usage.prompt} tokens read, {answer.usage.answer} written{cut}, {answer.seconds:.1f} s", err=True)
    if answer.verdict:
        show("the answer", answer.verdict, 7.0)
    if answer.unscored:
        output.err(f"The answer was not scored: {answer.unscored}")
