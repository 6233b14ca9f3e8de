"""`reflux up`: the embedded stack in one command. `reflux demo`: the whole main job, on it."""

import signal
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from reflux.cli import output
from reflux.cli.connection import STATE
from reflux.cli.run import finish
from reflux.cli.spec_file import read_spec
from reflux.cli.watch import watch
from reflux.client import Client

Folder = Annotated[Path, typer.Option("--folder", help="Where the stack keeps everything.")]
Answers = Annotated[
    list[Path] | None, typer.Option("--teacher-answers", help="Recorded answers (JSONL) for teacher.provider: recorded.")
]
EXAMPLES = Path(__file__).parents[2] / "examples" / "automotive"


def up(
    folder: Folder = STATE,
    teacher_answers: Answers = None,
    teacher_workers: Annotated[int, typer.Option(min=1, max=32, help="How many.")] = 1,
    evaluators: Annotated[int, typer.Option(min=1, max=32, help="How many.")] = 1,
) -> None:
    """Start PostgreSQL, Valkey, the API, control and the workers here; stop them with Ctrl-C. Runs go on at the next start."""
    from reflux.local.stack import Stack

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    workers = {"teacher_worker": teacher_workers, "evaluator": evaluators, "gpu_trainer": 1}
    answers = tuple(teacher_answers or [EXAMPLES / "teacher.jsonl"])
    with Stack(folder, answers, workers, tell=_tell) as stack:
        output.console.print(
            f"Reflux is up. Dashboard: {stack.api_url}  (sign in with the operator key; calls: docs/api.md)", soft_wrap=True
        )
        output.console.print(f"operator key: {stack.keys['operator']}", soft_wrap=True)
        output.console.print(f"In another terminal: reflux run start {EXAMPLES / 'demo.yaml'} --watch", soft_wrap=True)
        stopped.wait()
        output.console.print("stopping …")


def demo(
    spec: Annotated[Path, typer.Option(help="The spec to run.", show_default="the example's")] = EXAMPLES / "demo.yaml",
    folder: Folder = STATE,
) -> None:
    """Bring up a stack, run the example from source files to a better student, show the result, stop everything."""
    from reflux.local.stack import Stack

    began = time.monotonic()
    output.console.print("Starting the embedded stack: PostgreSQL, Valkey, API, control, teacher_worker, evaluator, gpu_trainer")
    with Stack(folder, (EXAMPLES / "teacher.jsonl",), tell=_tell) as stack:
        output.console.print(f"It is up at {stack.api_url} after {time.monotonic() - began:.0f} s; logs in {folder}/logs")
        with Client(stack.api_url, stack.keys["operator"]) as client:
            run = client.create(read_spec(spec))
            output.console.print(f"run {run.id} accepted; it aims at 10 minutes on two idle cores")
            try:
                run = watch(client, run.id)
            except KeyboardInterrupt:
                client.abort(run.id)
                output.console.print("aborting, then stopping the stack …")
                run = client.wait(run.id, 60)
        stack.__exit__()
        output.console.print("Everything that was started is stopped.")
    finish(run)


def _tell(what: str) -> None:
    output.console.print(f"  starting {what}")
