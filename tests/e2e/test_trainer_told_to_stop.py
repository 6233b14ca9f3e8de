"""SIGTERM of the GPU worker in the midst of a training: it saves, hands back, ends; another goes on along the same losses."""

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from reflux.artifacts import Artifacts
from reflux.client import Client
from reflux.commands import Train
from reflux.local.stack import Stack
from reflux.spec import RunSpec
from reflux.stages import Stage
from reflux.task import Task
from services.gpu_trainer.models import Bench
from services.gpu_trainer.train import train
from tests.e2e.tiny import tiny_spec
from tests.integration.by_hand import eventually

# PEFT 0.21 asks transformers 5.23 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def test_a_training_told_to_stop_is_handed_back_and_goes_on(
    stack: Stack, client: Client, student: Path, tmp_path: Path, bench: Bench
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Return {n}.", "completion": f"return {n}U;"}) + "\n" for n in range(12)))
    training = {"max_steps": 200, "checkpoint_steps": 20, "eval_steps": 1000, "log_steps": 100}
    given = tiny_spec(student, training=training, data={"train": f"file://{file}", "sources": []})
    run = client.create(given | {"recipe": "finetune"})
    store = Artifacts(f"{stack.artifacts_url}/runs/{run.id}")
    eventually(lambda: any("manifest" in path for path in store.paths("pieces/train-001")), 120, "no checkpoint")

    told = psutil.Process(stack.pid("gpu_trainer-1"))
    processes = [told, *told.children(recursive=True)]
    os.killpg(told.pid, signal.SIGTERM)  # the child too, as where a whole container is told
    _, alive = psutil.wait_procs(processes, 60)
    assert not alive
    run = client.wait(run.id, 400)
    assert run.outcome == "succeeded", run.error

    lines = [line.line for line in client.logs(run.id, limit=1000).data]
    saved = next(line for line in lines if line.startswith("going on from the checkpoint at step"))
    step = int(saved.rsplit(" ", 1)[1])
    assert 20 <= step < 200
    assert f"checkpoint at step {step}" in lines, "written when it was told, and not before"
    done = store.get_json("tasks/train-001/attempt-2/metrics.json")
    twin = Artifacts(f"file://{tmp_path}/twin")
    for name in ("train", "val"):
        twin.put(f"{name}.jsonl", store.get(f"tasks/prepare/attempt-1/{name}.jsonl"))
    command = Train(stage=Stage.TRAINING, epoch=1, train_path="train.jsonl", val_path="val.jsonl")
    task = Task(run.id, command, RunSpec.model_validate(run.spec), twin)
    train(task, bench)
    assert done["losses"] == twin.get_json(f"{task.folder}/metrics.json")["losses"]
