"""Runs on SageMaker jobs: its wire protocol by a service of the tests, a real process in the container, and a real S3 server."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reflux.artifacts import Artifacts
from reflux.client import Client
from reflux.local.stack import Stack
from tests.e2e.tiny import tiny_spec
from tests.integration.by_hand import eventually
from tests.s3 import BUCKET, s3_server
from tests.sagemaker_service import REGION, ROLE, Service, sagemaker_service

# PEFT 0.21 asks transformers 5.23 by an old name.
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")]

STORE = f"s3://{BUCKET}"
SCRIPT = """
import os, pathlib, time
rows = (pathlib.Path(os.environ["SM_CHANNEL_TRAINING"]) / "rows.txt").read_text()
step = pathlib.Path(os.environ["SM_CHECKPOINT_DIR"]) / "step"
if not step.exists():
    step.write_text("7")
    print("step 7 is saved", flush=True)
    time.sleep(600)
(pathlib.Path(os.environ["SM_MODEL_DIR"]) / "model").write_text(f"{rows}, from step {step.read_text()}, {os.environ['SM_HP_LR']}")
"""


@pytest.fixture(scope="module")
def provider(ground: Path) -> Iterator[Service]:
    with s3_server(ground / "sagemaker-e2e-s3") as s3, pytest.MonkeyPatch.context() as env:
        for name, value in s3.environment.items():
            env.setenv(name, value)
        with sagemaker_service(ground / "sagemaker-e2e") as service:
            yield service


@pytest.fixture(scope="module")
def stack(ground: Path, provider: Service) -> Iterator[Stack]:
    """Without a gpu_trainer: whoever trains here is a run's own job."""
    folder = ground / "on-sagemaker"
    folder.mkdir()
    env = {
        "REFLUX_MACHINES": str(folder / "machines.yaml"),
        "REFLUX_ARTIFACTS_URL": STORE,
        "AWS_ENDPOINT_URL_SAGEMAKER": provider.url,
        "REFLUX_BEAT": "PT0.5S",
        "REFLUX_LEASE": "PT4S",
        "REFLUX_SWEEP_SECONDS": "0.5",
    }
    with Stack(folder / "stack", workers={"teacher_worker": 1, "evaluator": 1}, durable=False, env=env) as stack:
        defaults = {"instance_type": "ml.g4dn.xlarge", "role_arn": ROLE}
        place = {"api_url": stack.api_url, "worker_image": "registry/reflux-gpu:1", "sagemaker": defaults}
        (folder / "machines.yaml").write_text(yaml.safe_dump(place))
        yield stack


def compute(**more: Any) -> dict[str, Any]:
    return {"kind": "sagemaker", "region": REGION, "start_seconds": 120} | more


def lines(client: Client, run_id: str) -> list[str]:
    return [line.line for line in client.logs(run_id, limit=1000).data]


def test_a_spot_job_is_interrupted_goes_on_and_is_completed(client: Client, provider: Service) -> None:
    store = Artifacts(STORE)
    store.put("code/train.py", SCRIPT.encode())
    store.put("data/rows.txt", b"three rows")
    given = {"code_uri": f"{STORE}/code", "inputs_uri": f"{STORE}/data", "command": ["python", "train.py"]}
    given |= {"parameters": {"lr": 0.1}, "checkpoint_seconds": 0.2}
    run = client.create(
        {"name": "j", "recipe": "job", "job": given, "compute": compute(spot=True), "limits": {"min_disk_gb": 0.1}}
    )
    name = f"reflux-{run.id}-1"
    eventually(lambda: store.exists(f"runs/{run.id}/pieces/run_job/checkpoints/step"), 90, "no checkpoint")
    provider.interrupt(name)
    run = client.wait(run.id, 120)
    assert run.outcome == "succeeded", run.error
    assert store.get(f"runs/{run.id}/outputs/model") == b"three rows, from step 7, 0.1"

    events = client.events(run.id, limit=1000).data
    claimed = [event.body["worker"] for event in events if event.type == "task_claimed" and event.body["key"] == "run_job"]
    assert claimed == [name, name], "the same job, twice"
    assert not [event for event in events if event.type == "machine_lost"]
    said = lines(client, run.id)
    assert f"{name} is Training" in said

    status = store.get_json(f"runs/{run.id}/cleanup_status.json")
    job = status["resources"]["sagemaker_job"]
    assert (job["id"], job["status"], job["error"], status["manual_action_required"]) == (name, "terminated", None, False)
    told, kept = job["note"].split("; ")[0], job["note"].split("; ")[-1]
    assert (told, provider.calls["StopTrainingJob"]) == ("Completed", 0), "with nothing left to do it has ended by itself"
    for state in ("Pending", "Starting", "Downloading", "Training", "Interrupted", "Uploading"):
        assert f"{state} " in job["note"]
    with tarfile.open(fileobj=io.BytesIO(store.get(kept.removeprefix(f"{STORE}/")))) as tar:
        assert "./model" in tar.getnames()
    assert client.resources() == []
    everything = json.dumps([event.model_dump(mode="json") for event in events]) + "".join(said)
    assert provider.jobs[name].environment["REFLUX_WORKER_KEY"].startswith("rfx_")
    assert "rfx_" not in everything, "its key is told to nobody else"


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [
        ("Starting", "ResourceLimitExceeded: the account-level service limit is 0 Instances", "quota_exceeded"),
        ("Downloading", "ClientError: Cannot pull the image: manifest unknown", "image_missing"),
    ],
)
def test_a_job_that_fails_before_it_works_ends_the_run_with_words(
    client: Client, provider: Service, state: str, reason: str, code: str
) -> None:
    provider.fails[state] = (reason, 9)
    run = client.create({"name": "j", "recipe": "job", "job": {"command": ["x"]}, "compute": compute()})
    run = client.wait(run.id, 60)
    provider.behave()
    assert run.error
    assert (run.outcome, run.error.code, reason in run.error.message) == ("failed", code, True)
    status = Artifacts(STORE).get_json(f"runs/{run.id}/cleanup_status.json")
    assert status["resources"]["sagemaker_job"]["status"] == "terminated"
    assert reason in status["resources"]["sagemaker_job"]["note"]
    assert client.resources() == []


def test_an_abort_stops_the_job(client: Client, provider: Service) -> None:
    provider.held_at = "Starting"
    run = client.create({"name": "j", "recipe": "job", "job": {"command": ["x"]}, "compute": compute()})
    eventually(lambda: provider.states().get(f"reflux-{run.id}-1") == "Starting", 60, "no job was made")
    client.abort(run.id)
    assert client.wait(run.id, 60).status == "aborted"
    provider.behave()
    assert provider.states()[f"reflux-{run.id}-1"] == "Stopped"
    assert client.resources() == []


def test_a_student_is_trained_on_a_job(client: Client, provider: Service, student: Path) -> None:
    rows = "".join(json.dumps({"prompt": f"Return {n}.", "completion": f"return {n}U;"}) + "\n" for n in range(12))
    Artifacts(STORE).put("rows.jsonl", rows.encode())
    given = tiny_spec(student, data={"train": f"{STORE}/rows.jsonl", "sources": []})
    run = client.create(given | {"recipe": "finetune", "compute": compute()})
    run = client.wait(run.id, 300)
    assert run.outcome == "succeeded", run.error
    assert provider.states()[f"reflux-{run.id}-1"] == "Completed"
    assert provider.jobs[f"reflux-{run.id}-1"].request["HyperParameters"]["learning_rate"] == "0.002"
    paths = Artifacts(STORE).paths(f"runs/{run.id}")
    assert [path for path in paths if path.endswith("adapter_model.safetensors")]
