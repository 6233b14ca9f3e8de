"""Training that survives: everything a step depends on, as safetensors and JSON, in the folder that all attempts share.

A checkpoint counts once its manifest is there; the manifest is written last. Random numbers need no saving: each step seeds
them from its own number.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save_file

from reflux.task import Task

KEEP = 2


class State(BaseModel):
    """Where a training is. `rows` and `steps` tell whether a checkpoint belongs to this very plan."""

    rows: int
    steps: int
    batch_size: int
    step: int = 0
    losses: list[float] = []
    val_losses: dict[int, float] = {}
    best_step: int = 0
    best_val_loss: float | None = None
    worse: int = 0


Tensors = dict[str, torch.Tensor]


def save(task: Task, state: State, parameters: Tensors, optimizer: torch.optim.Optimizer, best: Tensors) -> None:
    """Upload checkpoint-{step}, then drop all but the newest two."""
    tensors = {f"weight/{name}": parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        tensors |= {f"{key}/{name}": value for key, value in optimizer.state[parameter].items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    prefix = f"{task.pieces}/checkpoint-{state.step}"
    with tempfile.TemporaryDirectory() as folder:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, Path(folder) / "tensors.safetensors")
        task.artifacts.upload(Path(folder), prefix)
    task.artifacts.put_json(f"{prefix}/manifest.json", state)
    task.log(f"checkpoint at step {state.step}")
    for old in sorted(complete(task))[:-KEEP]:
        # The manifest first: what is half deleted must not look complete.
        task.artifacts.delete(f"{task.pieces}/checkpoint-{old}/manifest.json")
        task.artifacts.delete(f"{task.pieces}/checkpoint-{old}/tensors.safetensors")


def complete(task: Task) -> list[int]:
    """The steps that have a finished checkpoint."""
    manifests = [path for path in task.artifacts.paths(task.pieces) if path.endswith("/manifest.json")]
    return [int(path.split("/")[-2].removeprefix("checkpoint-")) for path in manifests]


def resume(task: Task, state: State, parameters: Tensors, optimizer: torch.optim.Optimizer) -> tuple[State, Tensors]:
    """Put parameters and optimizer where the newest checkpoint of this plan has them; that state, and the best weights so far."""
    for step in sorted(complete(task), reverse=True):
        prefix = f"{task.pieces}/checkpoint-{step}"
        saved = State.model_validate(task.artifacts.get_json(f"{prefix}/manifest.json"))
        if (saved.rows, saved.steps) != (state.rows, state.steps):
            task.log(f"checkpoint {step} is of another plan: passed over", level="warning")
            continue
        with tempfile.TemporaryDirectory() as folder:
            tensors = load_file(task.artifacts.download(prefix, Path(folder)) / "tensors.safetensors")
        best = _fill(parameters, optimizer, tensors)
        task.log(f"going on from the checkpoint at step {step}")
        return saved, best
    return state, {}


def _fill(parameters: Tensors, optimizer: torch.optim.Optimizer, tensors: Tensors) -> Tensors:
    moments: dict[str, dict[str, Any]] = {name: {} for name in parameters}
    best: Tensors = {}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        if kind == "weight":
            parameters[name].data.copy_(tensor)
        elif kind == "best":
            best[name] = tensor
        else:
            # Adam counts its steps on the CPU, even for parameters that are not there.
            moments[name][kind] = tensor if kind == "step" else tensor.to(parameters[name].device)
    for name, parameter in parameters.items():
        if moments[name]:
            optimizer.state[parameter] = moments[name]
    return best


def finished(task: Task) -> dict[str, Any] | None:
    """What metrics.json says of an adapter that any attempt at this command has finished, or None."""
    attempts = task.folder.rsplit("/", 1)[0]
    for path in task.artifacts.paths(attempts):
        if path.endswith("/metrics.json"):
            manifest: dict[str, Any] = json.loads(task.artifacts.get(path))
            return manifest
    return None
