"""Where a training's checkpoints lie: a folder each in the store that all attempts share, and what the attempts have finished.

A checkpoint counts once its manifest is there; the manifest is written last and deleted first.
"""

import json
from pathlib import Path
from typing import Any

from reflux.task import Task

KEEP = 2

Plan = dict[str, int]


def save(task: Task, folder: Path, plan: Plan) -> None:
    """Upload the folder `checkpoint-{step}`, then drop all but the newest two. `plan` says what it is a checkpoint of."""
    prefix = f"{task.pieces}/{folder.name}"
    task.artifacts.delete(f"{prefix}/manifest.json")
    task.artifacts.upload(folder, prefix)
    task.artifacts.put_json(f"{prefix}/manifest.json", plan)
    task.log(f"checkpoint at step {_step(prefix)}")
    for old in _complete(task)[:-KEEP]:
        task.artifacts.delete(f"{old}/manifest.json")
        for path in task.artifacts.paths(old):
            task.artifacts.delete(path)


def newest(task: Task, plan: Plan, folder: Path) -> Path | None:
    """The newest checkpoint of this plan, downloaded into `folder`, or None."""
    for prefix in reversed(_complete(task)):
        if task.artifacts.get_json(f"{prefix}/manifest.json") == plan:
            task.log(f"going on from the checkpoint at step {_step(prefix)}")
            return task.artifacts.download(prefix, folder / prefix.rsplit("/", 1)[1])
        task.log(f"the checkpoint at step {_step(prefix)} is of another plan: passed over", level="warning")
    return None


def finished(task: Task) -> dict[str, Any] | None:
    """What metrics.json says of an adapter that any attempt at this command has finished, or None."""
    attempts = task.folder.rsplit("/", 1)[0]
    for path in task.artifacts.paths(attempts):
        if path.endswith("/metrics.json"):
            manifest: dict[str, Any] = json.loads(task.artifacts.get(path))
            return manifest
    return None


def _complete(task: Task) -> list[str]:
    """The folders of the finished checkpoints, the oldest first."""
    ends = "/manifest.json"
    return sorted((path.removesuffix(ends) for path in task.artifacts.paths(task.pieces) if path.endswith(ends)), key=_step)


def _step(prefix: str) -> int:
    return int(prefix.rsplit("-", 1)[1])
