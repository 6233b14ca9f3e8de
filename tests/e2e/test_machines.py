"""Runs on machines of their own: EC2's wire protocol by moto, and the worker "on the instance" a real process of this machine.

It knows what its user data tells it and nothing else: no broker, and a key that is good for its run alone.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from reflux.client import Client
from reflux.local.stack import Stack
from reflux.views import RunView
from tests.cloud import IMAGE, KEYS, REGION, Cloud, cloud
from tests.environment import ROOT
from tests.integration.by_hand import eventually


@pytest.fixture(scope="module")
def provider() -> Iterator[Cloud]:
    with cloud() as there:
        yield there


@pytest.fixture(scope="module")
def stack(ground: Path, provider: Cloud) -> Iterator[Stack]:
    """Without a gpu_trainer: whoever trains here is a run's own machine."""
    folder = ground / "machines"
    folder.mkdir()
    env = {
        "REFLUX_MACHINES": str(folder / "machines.yaml"),
        "AWS_ENDPOINT_URL_EC2": provider.url,
        "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
        "REFLUX_BEAT": "PT0.5S",
        "REFLUX_LEASE": "PT6S",
    }
    with Stack(folder / "stack", workers={"teacher_worker": 1}, durable=False, env=env) as stack:
        place = {"api_url": stack.api_url, "worker_image": "registry/reflux-gpu:1", "ec2": {"image": IMAGE}}
        (folder / "machines.yaml").write_text(yaml.safe_dump(place))
        provider.boots = boot
        yield stack


def boot(user_data: str) -> "subprocess.Popen[bytes]":
    """What the instance would do: the worker, with the variables of its user data."""
    lines = re.search(r"<<'REFLUX_END'\n(.*?)\nREFLUX_END", user_data, re.DOTALL)
    assert lines
    told = dict(line.split("=", 1) for line in lines[1].splitlines())
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "services.gpu_trainer"], env=bare | told, stderr=subprocess.DEVNULL)


def spec(code: Path, **job: Any) -> dict[str, Any]:
    return {
        "name": "on a machine of its own",
        "recipe": "job",
        "compute": {"kind": "ec2", "region": REGION, "instance_type": "g4dn.2xlarge", "start_seconds": 120},
        "job": {"code_uri": f"file://{code}", "command": ["python", "train.py"]} | job,
        "limits": {"min_disk_gb": 0.1},
    }


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    script = "import os, sys; print(sorted(os.environ)); open(os.environ['REFLUX_OUTPUTS'] + '/model', 'w').write('weights')\n"
    (tmp_path / "code" / "train.py").write_text(script)
    return tmp_path / "code"


def artifacts(stack: Stack, run: RunView) -> Path:
    return stack.folder / "artifacts" / "runs" / run.id


def test_a_run_gets_a_machine_works_on_it_and_gives_it_back(client: Client, stack: Stack, provider: Cloud, code: Path) -> None:
    run = client.wait(client.create(spec(code)).id, 200)
    assert run.outcome == "succeeded", run.error
    events = client.events(run.id, limit=1000).data
    stages = list(dict.fromkeys(event.status for event in events))
    assert stages == ["queued", "validating", "provisioning", "preparing", "training", "exporting", "cleaning_up", "succeeded"]
    claimed = {event.body["key"]: event.body["worker"] for event in events if event.type == "task_claimed"}
    assert claimed["run_job"] == f"reflux-{run.id}-1"
    assert (artifacts(stack, run) / "outputs" / "model").read_text() == "weights"
    status = json.loads((artifacts(stack, run) / "cleanup_status.json").read_text())
    made = status["instance_id"]
    assert status["resources"]["ec2_instance"]["status"] == "terminated"
    assert (status["manual_action_required"], status["estimated_orphaned_cost_per_hour"]) == (False, 0.0)
    assert provider.states()[made] == "terminated"
    assert provider.processes == {}, "its worker is over too"
    assert client.resources() == []
    told = json.dumps([event.model_dump(mode="json") for event in events])
    assert "rfx_" not in told, "its key is in no event"


def test_its_key_is_good_for_its_run_alone_and_until_it_is_over(
    client: Client, stack: Stack, provider: Cloud, code: Path, tmp_path: Path
) -> None:
    seen: list[str] = []

    def watching(user_data: str) -> "subprocess.Popen[bytes]":
        seen.append(user_data)
        return boot(user_data)

    (code / "train.py").write_text(f"import time\nopen('{tmp_path}/began', 'w')\ntime.sleep(120)\n")
    other = client.create({"data": {"sources": [{"uri": f"file://{code}"}]}})
    provider.boots = watching
    run = client.create(spec(code))
    eventually((tmp_path / "began").exists, 120, "the command did not start")
    provider.boots = boot
    keys = {re.search(r"WORKER_NAME=reflux-(\S+)-1\n", text)[1]: re.search(r"rfx_[\w-]+", text)[0] for text in seen}  # type: ignore[index]
    key = keys[run.id]
    for secret in ("REFLUX_BROKER_URL", "REFLUX_DATABASE_URL", "AWS_SECRET", stack.keys["worker"], stack.keys["operator"]):
        assert secret not in "".join(seen)
    with httpx.Client(base_url=stack.api_url, headers={"Authorization": f"Bearer {key}"}) as api:
        claim = {"worker": f"reflux-{run.id}-1", "incarnation": "x", "token": "t", "seconds": 0}
        assert api.post("/v1/tasks/claim", json=claim).status_code in (200, 204)
        assert api.get("/v1/runs").status_code == 403
        assert api.get("/v1/workers").status_code == 403
        assert api.post("/v1/resources/duties").status_code == 403
        register = {"name": "teacher_worker-1", "service": "teacher_worker", "incarnation": "x"}
        assert api.post("/v1/workers", json=register).status_code == 403, "it can't take another worker's place"
        foreign = eventually(lambda: tasks_of(stack, other.id), 60, "the other run has no task")
        for what, body in (("claim", claim), ("beat", {"attempt": 1}), ("stopped", {"attempt": 1})):
            assert api.post(f"/v1/tasks/{foreign}/{what}", json=body).status_code == 403
        own = tasks_of(stack, run.id)
        for service in ("teacher_worker", "evaluator", "gpu_trainer"):
            turn = api.post(f"/v1/tasks/{own}/claim", json=claim | {"service": service, "token": service})
            assert turn.status_code == 204, "it has no turn at the tasks of others"
        client.abort(run.id)
        assert client.wait(run.id, 120).status == "aborted"
        eventually(lambda: api.post("/v1/tasks/claim", json=claim).status_code == 401, 10, "the key outlived its run")
    assert set(provider.states().values()) == {"terminated"}


def tasks_of(stack: Stack, run_id: str) -> int | None:
    import psycopg

    url = f"postgresql://postgres@127.0.0.1:{stack.ports['postgres']}/reflux"
    with psycopg.connect(url) as connection:
        row = connection.execute("select max(id) from tasks where run_id = %s", (run_id,)).fetchone()
        return row[0] if row else None


@pytest.mark.parametrize(
    ("refusal", "code_told"),
    [
        ("VcpuLimitExceeded", "quota_exceeded"),
        ("UnauthorizedOperation", "access_denied"),
        ("InvalidAMIID.NotFound", "image_missing"),
    ],
)
def test_a_machine_that_is_refused_ends_the_run_with_words_and_nothing_is_left(
    client: Client, stack: Stack, provider: Cloud, code: Path, refusal: str, code_told: str
) -> None:
    provider.refuse("RunInstances", refusal, times=9)
    run = client.wait(client.create(spec(code)).id, 100)
    provider.refusals.clear()
    assert run.outcome == "failed"
    assert run.error
    assert (run.error.code, refusal in run.error.message, bool(run.error.hint)) == (code_told, True, True)
    status = json.loads((artifacts(stack, run) / "cleanup_status.json").read_text())
    assert status["resources"]["ec2_instance"]["status"] == "not_found"
    assert status["manual_action_required"] is False


def test_a_machine_that_is_lost_before_it_works_ends_the_run(client: Client, provider: Cloud, code: Path) -> None:
    provider.boots = lambda _: subprocess.Popen(["sleep", "1000"])
    run = client.create(spec(code))

    def pending() -> list[str]:
        return [name for name, state in provider.states().items() if state == "running"]

    [made] = eventually(pending, 60, "no instance was made")
    provider.ec2().terminate_instances(InstanceIds=[made])
    run = client.wait(run.id, 60)
    provider.boots = boot
    assert run.error
    assert run.error.code == "instance_lost"


def test_an_abort_while_the_machine_starts_leaves_none(client: Client, provider: Cloud, code: Path) -> None:
    provider.boots = lambda _: subprocess.Popen(["sleep", "1000"])
    run = client.create(spec(code))
    eventually(lambda: "running" in provider.states().values(), 60, "no instance was made")
    client.abort(run.id)
    assert client.wait(run.id, 90).status == "aborted"
    provider.boots = boot
    assert set(provider.states().values()) == {"terminated"}
