"""What a job reads and writes, looked at before its command is started."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from reflux.artifacts import Artifacts
from reflux.commands import Prepare
from reflux.errors import Terminal
from reflux.events import DatasetPrepared
from reflux.spec import Job
from reflux.task import Task


def prepare(task: Task) -> DatasetPrepared:
    """Count the inputs. The machine that runs the command fetches them itself."""
    assert isinstance(task.command, Prepare)
    began, files = time.monotonic(), 0
    for uri in places(task.spec.job):
        found = sizes(uri)
        files += len(found)
        task.log(f"{uri}: {len(found)} files, {sum(found.values())} bytes")
        task.check()
    return DatasetPrepared(
        key=task.command.key,
        seconds=time.monotonic() - began,
        **dict.fromkeys(("train_path", "val_path", "prompts_path"), ""),
        **dict.fromkeys(("train", "val", "practice", "dev", "test"), 0),
        files=files,
    )


def places(job: Job) -> list[str]:
    return [uri for uri in (job.code_uri, job.inputs_uri) if uri]


def sizes(uri: str) -> dict[str, int]:
    """The files below a folder or prefix. Terminal if there are none."""
    url = urlsplit(uri)
    here = url.scheme == "file"
    found = {} if here and not Path(unquote(url.path)).is_dir() else Artifacts(uri).sizes()
    if not found:
        raise Terminal("no_inputs", f"There is nothing below {uri}")
    return found


def runners(job: Job, trainers: list[dict[str, Any]]) -> Iterator[tuple[Literal["ok", "failed"], str, str, str]]:
    """Whether the registered gpu_trainers may run commands, and in containers: status, message, hint, code."""
    without = [w["name"] for w in trainers if not w["capabilities"].get("jobs")]
    if not trainers:
        yield "failed", "no gpu_trainer was ever there", "Start a gpu_trainer with REFLUX_JOBS=1.", "gpu_missing"
    elif without:
        hint = "Set REFLUX_JOBS=1 for all of them, if whoever may start runs may run commands there too."
        yield "failed", f"{', '.join(without)} may not run commands", hint, "jobs_not_allowed"
    elif job.container and (bare := [w["name"] for w in trainers if not w["capabilities"].get("container_engine")]):
        hint = "Install Docker or Podman there, or leave job.container out."
        yield "failed", f"{', '.join(bare)} can't run containers", hint, "no_container_engine"
    else:
        yield "ok", f"{len(trainers)} may run commands", "", ""
