"""Jobs for the tests: a script in a folder, as a task in a worker's hands."""

import textwrap
from pathlib import Path
from typing import Any

import pytest

from reflux.artifacts import Artifacts
from reflux.commands import RunJob
from reflux.errors import RefluxError
from reflux.spec import RunSpec
from reflux.stages import Stage
from reflux.task import Task
from services.gpu_trainer import job


def task(folder: Path, script: str | None = None, attempt: int = 1, limits: dict[str, Any] | None = None, **fields: Any) -> Task:
    """A job that runs `script` with Python, or job.command."""
    (folder / "code").mkdir(exist_ok=True)
    if script is not None:
        (folder / "code" / "train.py").write_text(textwrap.dedent(script))
    given = {"command": ["python", "train.py"], "code_uri": f"file://{folder}/code"} | fields
    spec = RunSpec.model_validate({"recipe": "job", "name": "j", "job": given, "limits": limits or {}})
    store = Artifacts(f"file://{folder}/store")
    return Task("r1", RunJob(stage=Stage.TRAINING, epoch=1), spec, store, attempt=attempt)


def phases(hand: Task) -> dict[str, str]:
    return {p["name"]: p["status"] for p in hand.drain()["phases"] if p["status"] != "begun"}


def failing(hand: Task) -> RefluxError:
    with pytest.raises(RefluxError) as failed:
        job.run_job(hand)
    return failed.value
