"""The recipe `job`: any training command, between data sync and results sync.

    initialization ─► data_sync ─► training ─► results_sync ─► cleanup

The command finds its folders by REFLUX_INPUTS, REFLUX_OUTPUTS, REFLUX_CHECKPOINTS and REFLUX_PARAMETERS, and by the names that
scripts written for SageMaker use. It inherits nothing else of the worker's environment, so no key of ours.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from reflux.artifacts import Artifacts, run_folder
from reflux.commands import RunJob
from reflux.errors import RefluxError, Retriable, Stopped, Terminal
from reflux.events import JobFinished
from reflux.task import Task
from services.gpu_trainer import sagemaker
from services.gpu_trainer.command import Lines, Running, hint, manner
from services.gpu_trainer.surroundings import (
    INSIDE,
    Place,
    allowed,
    engine_here,
    engines_own,
    in_container,
    installed,
    variables,
)
from services.gpu_trainer.sync import Copied, Mirror, Sync, files_below

LOOK_SECONDS = 0.2
SPARE_BYTES = 200_000_000  # that must stay free beside the inputs
PERCENT = {"initialization": (0, 1), "data_sync": (1, 10), "training": (10, 95), "results_sync": (95, 100), "cleanup": (100, 100)}
GOING_ON = ("pause", "shutdown")  # stops after which there will be another attempt


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Story:
    """What became of each phase; told to the run as it happens, and stored at the end."""

    task: Task
    phases: dict[str, dict[str, Any]] = field(default_factory=dict)
    name: str = "initialization"
    started: str = field(default_factory=now)

    @contextmanager
    def phase(self, name: str) -> Iterator[dict[str, Any]]:
        """Facts put into the dict are told with the end of the phase."""
        facts: dict[str, Any] = {}
        began = time.monotonic()
        self.task.phase(name, "begun")
        self.name = name
        self.tell(0, 1, "")
        try:
            yield facts
        except BaseException as error:
            facts["error"] = str(error) if isinstance(error, RefluxError) else None
            self._over(name, "stopped" if isinstance(error, Stopped) else "fail", began, facts)
            raise
        self._over(name, "pass", began, facts)

    def tell(self, done: float, total: float, unit: str) -> None:
        """How far the phase at hand is, as percent of the whole."""
        first, last = PERCENT[self.name]
        share = min(1.0, max(0.0, done / total)) if total > 0 else 1.0
        detail = f": {done:g} of {total:g} {unit}" if unit else ""
        self.task.progress(round(first + share * (last - first), 1), 100, f"percent, {self.name}{detail}")

    def _over(self, name: str, status: str, began: float, facts: dict[str, Any]) -> None:
        facts["duration_seconds"] = round(time.monotonic() - began, 3)
        self.phases[name] = {"status": status, **facts}
        self.task.phase(name, status, **facts)


def run_job(task: Task) -> JobFinished:
    """Terminal job_failed, with the exit code or the signal in words, unless the command ends with 0."""
    assert isinstance(task.command, RunJob)
    if found := _finished_before(task):
        return JobFinished(key=task.command.key, outputs_path=found)
    if not allowed():
        raise Terminal("jobs_not_allowed", "This gpu_trainer may not run commands of users' own")
    story = Story(task)
    place = Place(Path(tempfile.mkdtemp(prefix="reflux-job-")), sagemaker.folders())
    kept = False
    try:
        with (place.root / "job.log").open("w", encoding="utf-8") as log:
            try:
                return _phases(task, story, place, Lines(task, log, story.tell))
            finally:
                log.flush()
                _store_story(task, story, place)
    except Terminal as error:
        kept = error.code == "results_not_stored"
        raise
    finally:
        with story.phase("cleanup") as facts:
            facts["kept"] = str(place.root) if kept else None
            if not kept:
                shutil.rmtree(place.root, ignore_errors=True)


def _phases(task: Task, story: Story, place: Place, lines: Lines) -> JobFinished:
    job = task.spec.job
    sync = Sync(task.check, lambda done, total: story.tell(done / 1e6, total / 1e6, "MB"), lambda line: task.log(line, "warning"))
    with story.phase("initialization") as facts:
        place.make()
        place.parameters.write_text(json.dumps(job.parameters, indent=2), encoding="utf-8")
        engine = engine_here() if job.container else None
        facts |= {"cuda_available": shutil.which("nvidia-smi") is not None, "venv_hash": installed()}
    with story.phase("data_sync") as facts:
        copied = Copied()
        for uri, name in ((job.code_uri, "code"), (job.inputs_uri, "inputs")):
            if uri and name in place.given:
                found = [file.stat().st_size for file in files_below(place[name]).values()]
                task.log(f"{name}: {len(found)} files, {sum(found)} bytes, in {place[name]} already")
                copied += Copied(len(found), sum(found))
            elif uri:
                copied += _fetched(task, sync, uri, place[name])
        _make_scripts_executable(place["code"])
        unhurried = Sync(lambda: _unless_killed(task), lambda *_: None, sync.log)
        mirror, restored = Mirror.restored(unhurried, place["checkpoints"], task.artifacts, f"{task.pieces}/checkpoints")
        facts |= {"files_synced": copied.files, "bytes_synced": copied.bytes, "retry_count": task.attempt - 1}
        facts["checkpoint_files"] = restored.files
    with story.phase("training") as facts:
        try:
            _run(task, place, lines, mirror, engine, facts)
        except (Terminal, Stopped, Retriable):
            _save_what_there_is(task, place, mirror)
            raise
    with story.phase("results_sync") as facts:
        outputs = files_below(place["outputs"])
        if not outputs:
            raise Terminal("job_failed", "The command ended well, but left nothing in REFLUX_OUTPUTS")
        path = f"{task.folder}/outputs"
        sync.check = lambda: _unless_killed(task)  # what took hours is not left for a limit of time
        copied = _results_stored(sync, outputs, task.artifacts, path, place)
        facts |= {"files_uploaded": copied.files, "bytes_uploaded": copied.bytes, "retry_count": copied.retries}
        sync.again(lambda: task.artifacts.put_json(f"{task.folder}/outputs.json", {"path": path, "files": copied.files}), copied)
    return JobFinished(key=task.command.key, outputs_path=path)


def _finished_before(task: Task) -> str | None:
    """The outputs of an earlier attempt that stored all of them, and could not say so."""
    for attempt in range(task.attempt - 1, 0, -1):
        manifest = f"{task.folder.rpartition('/')[0]}/attempt-{attempt}/outputs.json"
        if task.artifacts.exists(manifest):
            return str(task.artifacts.get_json(manifest)["path"])
    return None


def _fetched(task: Task, sync: Sync, uri: str, folder: Path) -> Copied:
    """Terminal if there is nothing, or no room for it."""
    url = urlsplit(uri)
    if url.scheme == "file" and not Path(unquote(url.path)).is_dir():
        raise Terminal("no_inputs", f"There is no folder {uri} on this worker")
    store = Artifacts(uri)
    sizes = store.sizes()
    if not sizes:
        raise Terminal("no_inputs", f"There is nothing below {uri}")
    free = shutil.disk_usage(folder).free
    if sum(sizes.values()) + SPARE_BYTES > free:
        raise Retriable("disk_low", f"{uri} has {sum(sizes.values()) / 1e9:.1f} GB; {free / 1e9:.1f} GB are free at {folder}")
    task.log(f"data sync: {len(sizes)} files, {sum(sizes.values())} bytes from {uri}")
    return sync.down(store, sizes, folder)


def _make_scripts_executable(folder: Path) -> None:
    """An object store does not know which files are."""
    for file in files_below(folder).values():
        with file.open("rb") as opened:
            if opened.read(2) == b"#!":
                file.chmod(0o755)


def _run(task: Task, place: Place, lines: Lines, mirror: Mirror, engine: str | None, facts: dict[str, Any]) -> None:
    """Until the command is over, or was made to be."""
    job, limits = task.spec.job, task.spec.limits
    with Running(*_start(task, place, engine), lines) as running, ThreadPoolExecutor(1) as saver:
        asked_at, saved_at, stalled = None, time.monotonic(), 0.0
        while running.look(LOOK_SECONDS):
            now_at = time.monotonic()
            if task.stop and asked_at is None:
                asked_at = now_at
                task.log(f"asked to stop ({task.stop}): SIGTERM, then SIGKILL after {job.stop_seconds:g} s", "warning")
                running.terminate()
            elif asked_at is not None and (task.kill or now_at - asked_at > job.stop_seconds):
                running.kill()
            elif engine is None and asked_at is None and running.silent_seconds() > limits.stall_seconds:
                stalled = stalled or running.silent_seconds()
                running.kill()
            elif now_at - saved_at > job.checkpoint_seconds:
                saved_at = now_at
                saver.submit(_save_checkpoints, task, mirror)
        end = running.end()
    facts |= {**lines.facts, "exit_code": end.get("returncode"), "log": log_path(task)}
    if stalled:
        raise Retriable("stalled", f"The command said nothing and did nothing for {stalled:.0f} s; it was killed.")
    if task.stop and asked_at is not None:
        raise Stopped(task.stop)
    if end.get("returncode") != 0:
        raise Terminal("job_failed", f"{manner(end)}. Its log: {log_path(task)}", hint(end))


def _start(task: Task, place: Place, engine: str | None) -> tuple[list[str], Path, dict[str, str], list[str]]:
    """The command, where it runs, its environment, and what is to be run after it."""
    job = task.spec.job
    environment = variables(task, Place(INSIDE) if engine else place) | job.environment
    if engine is None:
        command = [sys.executable, *job.command[1:]] if job.command[0] in ("python", "python3") else list(job.command)
        return command, place["code"], environment, []
    assert job.container
    name = f"reflux-{task.run_id}-{task.attempt}"
    command = in_container(engine, name, job.container, place, environment, job.command)
    return command, place["code"], engines_own(place), [engine, "rm", "-f", name]


def _save_checkpoints(task: Task, mirror: Mirror) -> None:
    """What can't be saved now is saved the next time."""
    try:
        mirror.save()
    except (RefluxError, OSError) as error:
        task.log(f"checkpoints were not stored: {error}", "warning")


def _save_what_there_is(task: Task, place: Place, mirror: Mirror) -> None:
    """Checkpoints for another attempt, and unfinished outputs for people. Only what can be done at once."""
    _save_checkpoints(task, mirror)
    outputs = files_below(place["outputs"])
    if not outputs or task.stop in GOING_ON:
        return
    try:
        mirror.sync.up(outputs, task.artifacts, f"{run_folder(task.run_id)}/partial/attempt-{task.attempt}", patient=False)
        task.log(f"{len(outputs)} unfinished outputs are below partial/attempt-{task.attempt}")
    except (RefluxError, OSError) as error:
        task.log(f"unfinished outputs were not stored: {error}", "warning")


def _unless_killed(task: Task) -> None:
    if task.kill:
        raise Stopped(task.stop or "killed")


def _results_stored(sync: Sync, outputs: dict[str, Path], store: Artifacts, path: str, place: Place) -> Copied:
    try:
        return sync.up(outputs, store, path, patient=True)
    except Terminal as error:
        raise Terminal(
            "results_not_stored", f"{error.message}. The results are still on {os.uname().nodename}, in {place['outputs']}"
        ) from error


def _store_story(task: Task, story: Story, place: Place) -> None:
    folder = f"{run_folder(task.run_id)}/logs"
    told = {"run_id": task.run_id, "attempt": task.attempt, "phases": story.phases}
    told |= {"timestamp_start": story.started, "timestamp_end": now()}
    try:
        task.artifacts.put_file(log_path(task), place.root / "job.log")
        task.artifacts.put_json(f"{folder}/run_job-{task.attempt}.json", told)
    except RefluxError as error:
        task.log(f"the log was not stored: {error}", "warning")


def log_path(task: Task) -> str:
    return f"{run_folder(task.run_id)}/logs/run_job-{task.attempt}.log"
