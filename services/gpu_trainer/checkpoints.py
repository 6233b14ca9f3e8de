"""Where a training's checkpoints lie: a folder each in the store that all attempts share, and what the attempts have finished.

A checkpoint counts once its manifest is there; the manifest is written last and deleted first.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from reflux.artifacts import run_folder
from reflux.task import Task

KEEP = 2

Plan = dict[str, int]


def save(task: Task, folder: Path, plan: Plan) -> None:
    """Move the folder `checkpoint-{step}` to the store, then drop all but the newest two. `plan`: what it is a checkpoint of."""
    prefix = f"{task.pieces}/{folder.name}"
    task.artifacts.delete(f"{prefix}/manifest.json")
    task.artifacts.upload(folder, prefix)
    task.artifacts.put_json(f"{prefix}/manifest.json", plan)
    shutil.rmtree(folder)
    task.log(f"checkpoint at step {step(prefix)}")
    _drop(task, _complete(task)[:-KEEP])


def make_room(task: Task, folder: Path) -> None:
    """Where less than limits.min_disk_gb is free on the disk of `folder`: drop all of the run's checkpoints but the newest."""
    free = shutil.disk_usage(folder).free / 1e9
    if free >= task.spec.limits.min_disk_gb:
        return
    pieces = task.artifacts.paths(f"{run_folder(task.run_id)}/pieces")
    # Those of earlier epochs, whose adapters are finished
    past = {path.rsplit("/", 1)[0] for path in pieces if "/checkpoint-" in path and not path.startswith(f"{task.pieces}/")}
    old = sorted(past) + _complete(task)[:-1]
    _drop(task, old)
    wanted = task.spec.limits.min_disk_gb
    task.log(f"{free:.1f} GB of disk are free, {wanted:g} are wanted: {len(old)} old checkpoints dropped", level="warning")


def newest(task: Task, plan: Plan, folder: Path) -> Path | None:
    """The newest checkpoint of this plan, downloaded into `folder`, or None."""
    for prefix in reversed(_complete(task)):
        if task.artifacts.get_json(f"{prefix}/manifest.json") == plan:
            task.log(f"going on from the checkpoint at step {step(prefix)}")
            return task.artifacts.download(prefix, folder / prefix.rsplit("/", 1)[1])
        task.log(f"the checkpoint at step {step(prefix)} is of another plan: passed over", level="warning")
    return None


def finished(task: Task) -> dict[str, Any] | None:
    """What metrics.json says of an adapter that any attempt at this command has finished, or None."""
    attempts = task.folder.rsplit("/", 1)[0]
    for path in task.artifacts.paths(attempts):
        if path.endswith("/metrics.json"):
            manifest: dict[str, Any] = json.loads(task.artifacts.get(path))
            return manifest
    return None


def step(name: str) -> int:
    """Of a checkpoint's folder."""
    return int(name.rsplit("-", 1)[1])


def _drop(task: Task, folders: list[str]) -> None:
    for folder in folders:
        task.artifacts.delete(f"{folder}/manifest.json")
        for path in task.artifacts.paths(folder):
            task.artifacts.delete(path)


def _complete(task: Task) -> list[str]:
    """The folders of the finished checkpoints, the oldest first."""
    ends = "/manifest.json"
    return sorted((path.removesuffix(ends) for path in task.artifacts.paths(task.pieces) if path.endswith(ends)), key=step)
