"""Runs on machines of their own: EC2's wire protocol by moto, and the worker "on the instance" a real process of this machine."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reflux.client import Client
from reflux.local.stack import Stack
from reflux.views import RunView
from tests.cloud import Cloud
from tests.integration.by_hand import eventually
from tests.machines import COMPUTE, Machines, machines
from tests.metadata import NOTICE


@pytest.fixture(scope="module")
def ours(ground: Path) -> Iterator[Machines]:
    with machines(ground / "machines", {"teacher_worker": 1}) as there:
        yield there


@pytest.fixture(scope="module")
def stack(ours: Machines) -> Stack:
    return ours.stack


@pytest.fixture(scope="module")
def provider(ours: Machines) -> Cloud:
    return ours.provider


def spec(code: Path, **job: Any) -> dict[str, Any]:
    return {
        "name": "on a machine of its own",
        "recipe": "job",
        "compute": COMPUTE,
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
    client: Client, stack: Stack, provider: Cloud, ours: Machines, code: Path, tmp_path: Path
) -> None:
    seen: list[str] = []

    def watching(user_data: str) -> "subprocess.Popen[bytes]":
        seen.append(user_data)
        return ours.boot(user_data)

    (code / "train.py").write_text(f"import time\nopen('{tmp_path}/began', 'w')\ntime.sleep(120)\n")
    other = client.create({"data": {"sources": [{"uri": f"file://{code}"}]}})
    provider.boots = watching
    run = client.create(spec(code))
    eventually((tmp_path / "began").exists, 120, "the command did not start")
    provider.boots = ours.boot
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


STEPS = """
import os, time
state = os.environ["REFLUX_CHECKPOINTS"] + "/step"
before = int(open(state).read()) if os.path.exists(state) else 0
step = before
while before == 0:  # until it is stopped
    step += 1
    open(state, "w").write(str(step))
    open(os.environ["REFLUX_OUTPUTS"] + "/began", "w").close()
    print("step", step, flush=True)
    time.sleep(0.1)
open(os.environ["REFLUX_OUTPUTS"] + "/model", "w").write(f"on from step {before}")
"""


@pytest.mark.long
def test_a_run_goes_on_by_itself_when_its_machines_are_lost(
    client: Client, stack: Stack, ours: Machines, provider: Cloud, code: Path
) -> None:
    """The first is ended before its worker can speak; the second is taken back in the middle of its work."""
    (code / "train.py").write_text(STEPS)
    provider.boots = lambda _: subprocess.Popen(["sleep", "1000"])
    run = client.create(spec(code, checkpoint_seconds=300) | {"compute": COMPUTE | {"spot": True}})
    [first] = eventually(lambda: ours.living(run.id), 60, "no instance was made")
    provider.boots = ours.boot
    provider.terminate(first)
    eventually(lambda: shown(client, run, "machine_lost"), 60, "nobody has noticed")
    ours.hurry()
    eventually(lambda: [line for line in client.logs(run.id).data if line.line.startswith("step")], 90, "it did not begin")
    assert client.run(run.id).health in ("ok", "recovering")
    [second] = ours.living(run.id)
    ours.metadata[f"reflux-{run.id}-2"].notice = NOTICE
    told = eventually(lambda: shown(client, run, "spot_interruption"), 60, "the run was not told")
    assert told == [{"machine": second, **NOTICE}]
    assert client.run(run.id).health == "recovering"
    eventually(lambda: shown(client, run, "task_handed_back"), 60, "the work was not given back")
    ours.hurry()
    run = client.wait(run.id, 120)
    assert run.outcome == "succeeded", run.error
    assert re.fullmatch(r"on from step [1-9]\d*", (artifacts(stack, run) / "outputs" / "model").read_text())
    lost = [(body["number"], body["resource_id"], body["failure"]["code"]) for body in shown(client, run, "machine_lost")]
    assert lost == [(1, None, "instance_lost"), (2, second, "spot_interrupted")]
    status = json.loads((artifacts(stack, run) / "cleanup_status.json").read_text())["resources"]
    machines_of_it = [status["ec2_instance"], *status["earlier_machines"]]
    assert {machine["id"]: machine["status"] for machine in machines_of_it} == dict.fromkeys(ours.instances(run.id), "terminated")
    assert len(machines_of_it) == 3
    assert ours.living(run.id) == []
    assert client.resources() == []


def shown(client: Client, run: RunView, kind: str) -> list[dict[str, Any]]:
    return [event.body for event in client.events(run.id, limit=1000).data if event.type == kind]


def test_an_abort_while_the_machine_starts_leaves_none(client: Client, provider: Cloud, ours: Machines, code: Path) -> None:
    provider.boots = lambda _: subprocess.Popen(["sleep", "1000"])
    run = client.create(spec(code))
    eventually(lambda: "running" in provider.states().values(), 60, "no instance was made")
    client.abort(run.id)
    assert client.wait(run.id, 90).status == "aborted"
    provider.boots = ours.boot
    assert set(provider.states().values()) == {"terminated"}
