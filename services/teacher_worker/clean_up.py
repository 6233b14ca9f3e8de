"""The last task of every run: delete what nothing accepted, say what is left, write the summary and the report."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel

from reflux.artifacts import Artifacts, run_folder
from reflux.commands import CleanUp
from reflux.errors import RefluxError
from reflux.events import CleanedUp
from reflux.task import Task
from services.teacher_worker.report import write_report

DELETERS = 16
NAMED = 50  # failed deletes that the status names; all are counted


class Resource(BaseModel):
    """What became of one thing that costs money while it exists."""

    id: str
    status: Literal["terminated", "terminating", "failed"]
    error: str | None = None
    timestamp: str


class StateFile(BaseModel):
    """system-state.json stays: the control process writes the run's last state into it."""

    status: Literal["kept"] = "kept"
    error: str | None = None
    timestamp: str


class CleanedArtifacts(BaseModel):
    status: Literal["deleted", "failed", "kept"]
    deleted: int = 0
    kept: int = 0
    failed: int = 0
    errors: dict[str, str] = {}
    note: str | None = None
    timestamp: str


class Resources(BaseModel):
    ec2_instance: Resource | None = None
    ebs_volumes: list[Resource] = []
    state_file: StateFile
    artifacts: CleanedArtifacts


class CleanupStatus(BaseModel):
    """cleanup_status.json. Times are UTC, ISO 8601."""

    timestamp_start: str
    timestamp_end: str
    run_id: str
    instance_id: str | None
    resources: Resources
    manual_action_required: bool
    estimated_orphaned_cost_per_hour: float = 0.0


def clean_up(task: Task) -> CleanedUp:
    """May be done again at any time. A delete that fails is written down, and fails nothing."""
    command = task.command
    assert isinstance(command, CleanUp)
    began, started = time.monotonic(), now()
    folder = run_folder(task.run_id)
    warnings = []

    kept, unwanted, note = sort_out(task.artifacts.paths(folder), folder, command)
    errors = dict(_delete(task, unwanted))
    instance = _instance(command.resource_ids)
    manual = bool(errors) or instance is not None
    try:
        write_report(task.artifacts, task.run_id, command.summary, command.prompts_path)
    except (RefluxError, OSError) as error:
        warnings.append(f"The report was not written: {error}")
    task.artifacts.put_json(f"{folder}/training_summary.json", command.summary)
    status = CleanupStatus(
        timestamp_start=started,
        timestamp_end=now(),
        run_id=task.run_id,
        instance_id=instance.id if instance else None,
        resources=Resources(
            ec2_instance=instance,
            state_file=StateFile(timestamp=now()),
            artifacts=CleanedArtifacts(
                status="failed" if errors else "deleted" if unwanted else "kept",
                deleted=len(unwanted) - len(errors),
                kept=len(kept),
                failed=len(errors),
                errors=dict(list(errors.items())[:NAMED]),
                note=note,
                timestamp=now(),
            ),
        ),
        manual_action_required=manual,
    )
    path = f"{folder}/cleanup_status.json"
    task.artifacts.put_json(path, status)
    return CleanedUp(
        key=command.key,
        seconds=time.monotonic() - began,
        warnings=tuple(warnings),
        path=path,
        manual_action_required=manual,
    )


def sort_out(paths: Iterable[str], folder: str, command: CleanUp) -> tuple[list[str], list[str], str | None]:
    """What stays and what goes, of the paths below the run's folder, and a remark for people.

    Discarding leaves only the JSONs that tell of the run. Else there go the attempts that nothing accepted, and the
    checkpoints of trainings that were finished.
    """
    all_paths = list(paths)
    if command.discard:
        unwanted = {path for path in all_paths if not (path.count("/") == folder.count("/") + 1 and path.endswith(".json"))}
        return [p for p in all_paths if p not in unwanted], sorted(unwanted), "discarded at its user's wish"
    if not command.keep_prefixes and (command.summary.epochs or command.summary.counts):
        return all_paths, [], "nothing was deleted: the run has results, but it was not said which attempts they are of"
    keep = tuple(prefix.rstrip("/") for prefix in command.keep_prefixes)
    passing = [f"{folder}/tasks/"] + [f"{folder}/pieces/train-{epoch.epoch:03d}/" for epoch in command.summary.epochs]
    if command.summary.recipe == "job" and command.summary.outcome == "succeeded":
        passing.append(f"{folder}/pieces/run_job/")
    unwanted = {
        path
        for path in all_paths
        if path.startswith(tuple(passing)) and not any(path == prefix or path.startswith(prefix + "/") for prefix in keep)
    }
    return [p for p in all_paths if p not in unwanted], sorted(unwanted), None


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _delete(task: Task, paths: list[str]) -> Iterator[tuple[str, str]]:
    """Delete; the path and the error of each that could not be."""
    with ThreadPoolExecutor(DELETERS) as pool:
        for done, (path, error) in enumerate(pool.map(lambda path: _deleted(task.artifacts, path), paths), 1):
            if done % 100 == 0 or done == len(paths):
                task.progress(done, len(paths), "objects")
            if error:
                task.log(f"{path} was not deleted: {error}", "warning")
                yield path, error


def _deleted(artifacts: Artifacts, path: str) -> tuple[str, str | None]:
    try:
        artifacts.delete(path)
    except RefluxError as error:
        return path, str(error)
    return path, None


def _instance(resource_ids: tuple[str, ...]) -> Resource | None:
    """Machines that were made for the run. This worker can't end any, and says so."""
    if not resource_ids:
        return None
    error = "this deployment has no provider that could end it; end it by hand"
    return Resource(id=", ".join(resource_ids), status="failed", error=error, timestamp=now())
