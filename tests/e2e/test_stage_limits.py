"""A training that would go on for hours reaches its stage's limit: what it has learnt so far is a model all the same."""

import json
from pathlib import Path

import psycopg
import safetensors.numpy

from reflux.artifacts import Artifacts
from reflux.client import Client
from reflux.local.stack import Stack
from tests.e2e.tiny import tiny_spec
from tests.integration.by_hand import eventually


def test_at_the_limit_of_its_training_a_run_exports_what_was_learnt(
    stack: Stack, client: Client, student: Path, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Return {n}.", "completion": f"return {n}U;"}) + "\n" for n in range(12)))
    endless = {"max_steps": 100_000, "checkpoint_steps": 20, "eval_steps": 100_000, "log_steps": 100}
    spec = tiny_spec(
        student,
        training=endless,
        data={"train": f"file://{file}", "sources": []},
        limits={"max_stage_runtime": {"training": "1h"}},
    )
    run = client.create(spec | {"recipe": "finetune"})
    store = Artifacts(f"{stack.artifacts_url}/runs/{run.id}")
    eventually(lambda: any("manifest" in path for path in store.paths("pieces/train-001")), 120, "no checkpoint")
    with psycopg.connect(f"postgresql://postgres@127.0.0.1:{stack.ports['postgres']}/reflux") as db:
        db.execute("update runs set stage_since = stage_since - interval '1 hour' where id = %s", (run.id,))
    run = client.wait(run.id, 120)
    assert (run.outcome, run.partial, run.reason) == ("failed", True, "time limit")
    assert run.error
    assert run.error.code == "stage_timeout"
    assert "limits.max_stage_runtime.training" in run.error.message
    (epoch,) = run.epochs
    assert 20 <= epoch.steps < 100_000
    (exported,) = (p for p in store.paths("tasks/export_model") if p.endswith("adapter_model.safetensors"))
    assert safetensors.numpy.load(store.get(exported))
    told = [event.body["stage"] for event in client.events(run.id, limit=1000).data if event.type == "time_limit_reached"]
    assert told == ["training"]
