"""Whether the student's training fits into the memory of the trainer that there is, before the hours begin."""

import json
from pathlib import Path
from typing import Any, Literal

import httpx

from reflux.memory import Shape, need, what_fits
from reflux.secret import secret
from reflux.spec import RunSpec, Student

HUB_SECONDS = 5.0

Verdict = tuple[Literal["ok", "warning", "failed"], str, str]


def verdict(spec: RunSpec, trainer: dict[str, Any], hub: str) -> Verdict | None:
    """How it stands, in a sentence, and what to change. None where the student's sizes or the trainer's are not known."""
    shape = Shape.of(_config(spec.student, hub))
    on_gpu = bool(trainer.get("cuda")) and spec.student.device != "cpu"
    there = trainer.get("gpu_memory_gb" if on_gpu else "memory_gb")
    if shape is None or there is None:
        return None
    bf16 = on_gpu and bool(trainer.get("bf16"))
    processes = int(trainer.get("training_processes") or 1)
    needed = need(shape, spec, bf16=bf16, processes=processes)
    change = what_fits(shape, spec, bf16=bf16, there_gb=float(there), processes=processes)
    hopeless = needed.weights + needed.training > there
    status: Literal["ok", "warning", "failed"] = "failed" if hopeless else "warning" if change else "ok"
    return status, f"the training needs about {needed.total:.1f} of {there:g} GB", change


def _config(student: Student, hub: str) -> dict[str, Any]:
    """The contents of the student's config.json; empty where it can't be had from here."""
    try:
        file = Path(student.model).expanduser() / "config.json"
        found = json.loads(file.read_bytes() if file.is_file() else _from_the_hub(student, hub))
    except (OSError, ValueError, httpx.HTTPError):
        return {}
    return found if isinstance(found, dict) else {}


def _from_the_hub(student: Student, hub: str) -> bytes:
    if student.model.startswith(("package:", "/", ".", "~")):
        return b"{}"
    token = secret("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"{hub}/{student.model}/resolve/{student.revision or 'main'}/config.json"
    return httpx.get(url, headers=headers, follow_redirects=True, timeout=HUB_SECONDS).raise_for_status().content
