"""What can be known of a student, and of the GPU worker that is to train it, before hours are spent."""

import os
import shutil
import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx

from reflux.errors import POLICIES
from reflux.secret import secret
from reflux.spec import RunSpec
from services.teacher_worker import student_memory
from services.teacher_worker.check import Check

RECOMMENDED_GPUS = ("A100", "H100", "H200", "B200")
HUB_SECONDS = 5.0


def student(spec: RunSpec, trainers: list[dict[str, Any]]) -> Check:
    model = spec.student.model
    if model.startswith("package:"):
        return _here_or_there(_package(model.removeprefix("package:")), trainers)
    folder = Path(model).expanduser()
    if model.startswith(("/", ".", "~")) or folder.is_dir():
        missing = None if (folder / "config.json").is_file() else f"{folder} has no config.json"
        return _here_or_there(missing, trainers)
    return _on_the_hub(model, spec.student.revision)


def _package(name: str) -> str | None:
    """What is missing of `DIST/path/in/it`, or None."""
    distribution, _, inside = name.partition("/")
    try:
        found = metadata.distribution(distribution).locate_file(inside)
    except metadata.PackageNotFoundError:
        return f"the package {distribution} is not installed"
    return None if Path(str(found)).is_file() else f"the package {distribution} has no file {inside}"


def _here_or_there(missing: str | None, trainers: list[dict[str, Any]]) -> Check:
    """A student on a disk can only be looked for on this machine; a trainer on another one may have it all the same."""
    if missing is None:
        return Check("student", "ok", "its files are there")
    hint = "Correct student.model, or put its files on the GPU worker."
    elsewhere = [w["name"] for w in trainers if "@" in w["name"] and not _is_here(w["name"])]
    if elsewhere:
        return Check("student", "warning", f"on this machine {missing}; {elsewhere[0]} will look for itself", hint)
    return Check("student", "failed", missing, hint, "model_not_found")


def _is_here(worker: str) -> bool:
    return worker.split("@", 1)[1].startswith(socket.gethostname())


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def _on_the_hub(model: str, revision: str | None) -> Check:
    hub = _hub()
    token = secret("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        url = f"{hub}/{model}/resolve/{revision or 'main'}/config.json"
        status = httpx.head(url, headers=headers, follow_redirects=True, timeout=HUB_SECONDS).status_code
    except httpx.HTTPError as error:
        message = f"{hub} can't be reached from here, so {model} was not looked for ({type(error).__name__})"
        return Check("student", "warning", message, "The GPU worker needs the road to the hub, or the model in its cache.")
    if status in (401, 403):
        return Check("student", "failed", f"{model} does not exist or is gated", "Set HF_TOKEN.", "model_not_found")
    if status == 404:
        at = f" at revision {revision}" if revision else ""
        return Check("student", "failed", f"the hub has no {model}{at}", "Correct student.model.", "model_not_found")
    if status >= 400:
        return Check("student", "warning", f"{hub} answered {status} for {model}", "Try again, or name a local folder.")
    return Check("student", "ok", f"{model} is on the hub")


def hub_token(spec: RunSpec) -> Check:
    if secret("HF_TOKEN"):
        return Check("HF_TOKEN", "ok", "set")
    local = spec.student.model.startswith(("package:", "/", ".", "~"))
    if spec.export.hub_repo:
        message = f"not set: nothing can be pushed to {spec.export.hub_repo}"
        return Check("HF_TOKEN", "warning", message, "Set HF_TOKEN for the teacher workers.")
    if local:
        return Check("HF_TOKEN", "ok", "not needed")
    return Check("HF_TOKEN", "warning", "not set: gated models can't be loaded", "Set HF_TOKEN for the GPU worker.")


def gpu(spec: RunSpec, trainers: list[dict[str, Any]]) -> Iterator[Check]:
    hint = POLICIES["gpu_missing"].hint
    if not trainers:
        yield Check("gpu_trainer", "failed", "no gpu_trainer was ever there", hint, "gpu_missing")
        return
    if not any(w["alive"] for w in trainers):
        yield Check("gpu_trainer", "warning", f"{trainers[0]['name']} is silent; the run will wait for it", hint)
    best = max((w["capabilities"] for w in trainers), key=lambda c: bool(c.get("cuda")))
    student = spec.student
    if not best.get("cuda"):
        if student.device == "cuda" or (student.method == "qlora" and student.device != "cpu"):
            why = "student.device is cuda" if student.device == "cuda" else "student.method is qlora"
            yield Check("GPU", "failed", f"{why}, but no gpu_trainer has CUDA", hint, "gpu_missing")
        else:
            asked = student.device == "cpu"
            yield Check("GPU", "ok" if asked else "warning", "none; training runs on the CPU, which only small students bear")
        return
    name = str(best.get("gpu"))
    if not any(known in name for known in RECOMMENDED_GPUS):
        yield Check("GPU", "warning", f"{name} is not the recommended one", f"Recommended: {' or '.join(RECOMMENDED_GPUS)}.")
    elif not (best.get("tf32") and best.get("cudnn")):
        yield Check("GPU", "warning", f"{name} has no TF32 or no cuDNN here", "Look at the torch build of the GPU worker.")
    else:
        yield Check("GPU", "ok", f"{name}, {best.get('gpu_memory_gb')} GB")


def memory(spec: RunSpec, trainers: list[dict[str, Any]]) -> Iterator[Check]:
    best: dict[str, Any] = max((w["capabilities"] for w in trainers), key=lambda c: bool(c.get("cuda")), default={})
    if found := student_memory.verdict(spec, best, _hub()):
        yield Check("memory", *found, "gpu_out_of_memory")


def disk(spec: RunSpec, trainers: list[dict[str, Any]]) -> Check:
    """The GPU worker's disk as it registered it; this machine's if none says."""
    free = {w["name"]: w["capabilities"]["disk_free_gb"] for w in trainers if w["capabilities"].get("disk_free_gb") is not None}
    free = free or {"this machine": shutil.disk_usage("/").free / 1e9}
    name, least = min(free.items(), key=lambda pair: float(pair[1]))
    if least < spec.limits.min_disk_gb:
        message = f"{least:.1f} GB are free at {name}, {spec.limits.min_disk_gb:g} GB are wanted"
        return Check("disk", "failed", message, POLICIES["disk_low"].hint, "disk_low")
    return Check("disk", "ok", f"{least:.1f} GB are free at {name}")
