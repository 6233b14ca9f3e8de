"""The last task of every run: delete what nothing accepted, say what is left, write the summary and the report."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel

from reflux.artifacts import Artifacts, run_folder
from reflux.commands import CleanUp
from reflux.errors import RefluxError
from reflux.events import CleanedUp
from reflux.machines import Ended, Machine, Volume
from reflux.task import Task
from services.teacher_worker.cloud import providers
from services.teacher_worker.report import write_report

DELETERS = 16
NAMED = 50  # failed deletes that the status names; all are counted


class Resource(BaseModel):
    """What became of one thing that costs money while it exists. `id` is the provider's, or our name where that is not known."""

    id: str
    status: Literal["terminated", "terminating", "failed", "not_found"]
    error: str | None = None
    note: str | None = None
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
    ebs_volumes: list[Volume] = []
    sagemaker_job: Resource | None = None
    earlier_machines: list[Resource] = []
    state_file: StateFile
    artifacts: CleanedArtifacts


class CleanupStatus(BaseModel):
    """cleanup_status.json. Times are UTC, ISO 8601; the cost is in USD, null where a price is not known."""

    timestamp_start: str
    timestamp_end: str
    run_id: str
    instance_id: str | None
    resources: Resources
    manual_action_required: bool
    estimated_orphaned_cost_per_hour: float | None = 0.0


def clean_up(task: Task) -> CleanedUp:
    """May be done again at any time. A delete that fails is written down, and fails nothing."""
    command = task.command
    assert isinstance(command, CleanUp)
    began, started = time.monotonic(), now()
    folder = run_folder(task.run_id)
    warnings = []

    ended = tuple(_ended(task, machine) for machine in command.machines)  # first, as they cost money
    kept, unwanted, note = sort_out(task.artifacts.paths(folder), folder, command)
    errors = dict(_delete(task, unwanted))
    volumes = [volume for outcome in ended for volume in outcome.volumes]
    manual = bool(errors) or "failed" in {*(outcome.status for outcome in ended), *(volume.status for volume in volumes)}
    try:
        write_report(task.artifacts, task.run_id, command.summary, command.prompts_path)
    except (RefluxError, OSError) as error:
        warnings.append(f"The report was not written: {error}")
    task.artifacts.put_json(f"{folder}/training_summary.json", command.summary)
    status = CleanupStatus(
        timestamp_start=started,
        timestamp_end=now(),
        run_id=task.run_id,
        instance_id=ended[-1].id if ended else None,
        resources=Resources(
            **_by_kind(command.machines, ended),
            ebs_volumes=volumes,
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
        estimated_orphaned_cost_per_hour=_cost(ended),
    )
    path = f"{folder}/cleanup_status.json"
    task.artifacts.put_json(path, status)
    return CleanedUp(
        key=command.key,
        seconds=time.monotonic() - began,
        warnings=tuple(warnings),
        path=path,
        machines=ended,
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


def _ended(task: Task, machine: Machine) -> Ended:
    task.log(f"ending {machine.kind} {machine.id or machine.token} in {machine.region}")
    outcome = providers.end(machine)
    told = f"{outcome.id or outcome.token}: {outcome.status}" + (f", {outcome.error}" if outcome.error else "")
    task.log(told, "warning" if outcome.status == "failed" else "info")
    return outcome


def _by_kind(machines: tuple[Machine, ...], ended: tuple[Ended, ...]) -> dict[str, Any]:
    """The last of each kind under the name of its kind, the others together."""
    found: dict[str, Any] = {"earlier_machines": []}
    for machine, outcome in zip(machines, ended, strict=True):
        if machine.kind in found:
            found["earlier_machines"].append(found[machine.kind])
        told = outcome.model_dump(include={"status", "error", "note", "timestamp"})
        found[machine.kind] = Resource(id=outcome.id or outcome.token, **told)
    return found


def _cost(ended: tuple[Ended, ...]) -> float | None:
    costs = [outcome.cost_per_hour for outcome in ended]
    return None if None in costs else round(sum(cost or 0.0 for cost in costs), 4)
