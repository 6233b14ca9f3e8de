"""Machines on record: intended before they are made, ended and looked at again until they are gone, told of to people."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from reflux.client import Client
from reflux.commands import CleanUp, Provision
from reflux.events import CleanedUp, MachineProvisioned
from reflux.local.stack import Stack
from reflux.machines import Ended, Machine
from reflux.protocol import Assignment
from reflux.spec import Compute
from services.teacher_worker.cloud import ec2
from services.teacher_worker.cloud.sweep import sweep
from tests.cloud import IMAGE, KEYS, REGION, Cloud, cloud
from tests.integration.by_hand import SPEC, HandWorker

AT = "2026-01-01T00:00:00Z"
ON_EC2: dict[str, Any] = SPEC | {"compute": {"kind": "ec2", "region": REGION}}


@pytest.fixture(scope="module")
def provider() -> Iterator[Cloud]:
    with cloud() as there:
        yield there


@pytest.fixture
def aws(provider: Cloud, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    env = {"AWS_ENDPOINT_URL_EC2": provider.url, "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"]}
    env["AWS_SECRET_ACCESS_KEY"] = KEYS["aws_secret_access_key"]
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    provider.refusals.clear()
    return env


@pytest.fixture
def api(control_plane: Stack) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {control_plane.keys['worker']}"}
    with httpx.Client(base_url=control_plane.api_url, headers=headers, timeout=15) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_left(control_plane: Stack) -> Iterator[None]:
    yield
    database(control_plane, "delete from resources")


def database(stack: Stack, statement: str) -> list[tuple[Any, ...]]:
    url = f"postgresql://postgres@127.0.0.1:{stack.ports['postgres']}/reflux"
    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute(statement)
        return done.fetchall() if done.description else []


def provisioning(client: Client, worker: HandWorker) -> Assignment:
    """The Provision of a new run, in the worker's hands."""
    run = client.create(ON_EC2)
    worker.complete(worker.take(run.id))
    return worker.take(run.id)


def aborted(client: Client, worker: HandWorker, a: Assignment) -> Assignment:
    """Its CleanUp."""
    client.abort(a.run_id)
    worker.api.post(f"/v1/tasks/{a.task_id}/stopped", {"attempt": a.attempt})
    return worker.take(a.run_id)


def over(worker: HandWorker, cleanup: Assignment, *machines: Ended) -> None:
    worker.complete(cleanup, CleanedUp(key="clean_up", path="p", machines=machines))


def record(stack: Stack, run_id: str) -> tuple[Any, ...]:
    [row] = database(stack, f"select status, external_id, looks from resources where run_id = '{run_id}'")
    return row


def long_ago(stack: Stack, run_id: str) -> None:
    database(stack, f"update runs set ended_at = now() - interval '20 minutes' where id = '{run_id}'")
    database(stack, f"update resources set look_at = now() where run_id = '{run_id}'")


def test_the_intent_is_on_record_before_anybody_can_act_on_it(client: Client, worker: HandWorker, control_plane: Stack) -> None:
    run = client.create(ON_EC2)
    worker.complete(worker.take(run.id))
    assert record(control_plane, run.id) == ("intended", None, 0), "no worker has heard of it yet"
    a = worker.take(run.id)
    assert isinstance(a.command, Provision)
    assert a.command.machine is not None
    assert (a.command.machine.token, a.command.machine.region) == (f"reflux-{run.id}-1", REGION)
    assert a.command.machine.deployment


def test_a_machine_that_was_made_and_ended_is_gone(client: Client, worker: HandWorker, control_plane: Stack) -> None:
    a = provisioning(client, worker)
    worker.complete(a, MachineProvisioned(key="provision", resource_id="i-1"))
    assert record(control_plane, a.run_id) == ("made", "i-1", 0)
    [view] = client.resources()
    assert (view.id, view.status, view.run_id) == ("i-1", "made", a.run_id)
    prepare = worker.take(a.run_id)
    cleanup = aborted(client, worker, prepare)
    assert isinstance(cleanup.command, CleanUp)
    [machine] = cleanup.command.machines
    assert machine.id == "i-1"
    over(worker, cleanup, Ended(token=machine.token, id="i-1", status="terminated", timestamp=AT))
    assert record(control_plane, a.run_id) == ("gone", "i-1", 1)
    assert client.resources() == []


def test_a_machine_made_after_the_cleanup_looked_is_found_by_the_sweep(
    client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client, provider: Cloud, aws: dict[str, str]
) -> None:
    """The provisioner was thought dead: it asks the provider once its run is over."""
    a = provisioning(client, worker)
    assert isinstance(a.command, Provision)
    cleanup = aborted(client, worker, a)
    assert isinstance(cleanup.command, CleanUp)
    over(worker, cleanup, *(ec2.end(machine, wait_seconds=0) for machine in cleanup.command.machines))
    assert record(control_plane, a.run_id)[0] == "intended", "not found is not gone, so soon after"
    assert a.command.machine
    made = ec2.make(a.command.machine, Compute(instance_type="m5.large", image=IMAGE), "")["InstanceId"]
    database(control_plane, "update resources set look_at = now()")
    assert sweep(api) == 1
    assert provider.states()[made] == "terminated"
    assert record(control_plane, a.run_id)[:2] == ("gone", made)


def test_what_is_never_found_is_settled_after_a_while(
    client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client, aws: dict[str, str]
) -> None:
    a = provisioning(client, worker)
    cleanup = aborted(client, worker, a)
    over(worker, cleanup)
    long_ago(control_plane, a.run_id)
    assert sweep(api) == 1
    assert record(control_plane, a.run_id)[0] == "gone"
    assert sweep(api) == 0


def test_a_machine_that_can_not_be_ended_is_tried_again_ever_more_rarely(
    client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client, provider: Cloud, aws: dict[str, str]
) -> None:
    a = provisioning(client, worker)
    assert isinstance(a.command, Provision)
    assert a.command.machine
    made = ec2.make(a.command.machine, Compute(instance_type="m5.large", image=IMAGE), "")["InstanceId"]
    over(worker, aborted(client, worker, a))
    provider.refuse("TerminateInstances", "UnauthorizedOperation", times=99)
    waits = []
    for _ in range(3):
        database(control_plane, "update resources set look_at = now()")
        assert sweep(api) == 1
        waits += database(control_plane, "select round(extract(epoch from look_at - now()) / 60) from resources")[0]
    assert waits == [1, 2, 4]
    assert sweep(api) == 0, "not due"
    [view] = client.resources()
    assert view.last
    assert (view.last.status, view.last.cost_per_hour) == ("failed", 0.107)
    provider.refusals.clear()
    database(control_plane, "update resources set look_at = now()")
    sweep(api)
    assert provider.states()[made] == "terminated"
    assert client.resources() == []


def test_the_machines_of_live_runs_are_left_alone(
    client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client, provider: Cloud, aws: dict[str, str]
) -> None:
    a = provisioning(client, worker)
    assert isinstance(a.command, Provision)
    assert a.command.machine
    made = ec2.make(a.command.machine, Compute(instance_type="m5.large", image=IMAGE), "")["InstanceId"]
    database(control_plane, "update resources set look_at = now()")
    database(control_plane, "update places set look_at = now()")
    assert sweep(api) == 0
    assert provider.states()[made] == "running"
    provider.ec2().terminate_instances(InstanceIds=[made])


def test_a_machine_that_is_on_no_record_is_found_by_its_tags_and_ended(
    client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client, provider: Cloud, aws: dict[str, str]
) -> None:
    [[ours]] = database(control_plane, "select id from deployment")
    compute = Compute(instance_type="m5.large", image=IMAGE)

    def make(token: str, deployment: str) -> str:
        machine = Machine(token=token, run_id="a-run-that-was-deleted", kind="ec2_instance", region=REGION, deployment=deployment)
        return str(ec2.make(machine, compute, "")["InstanceId"])

    stray, somebody_elses = make("reflux-stray-1", ours), make("reflux-stray-2", "another-deployment")
    database(control_plane, "update places set look_at = now()")
    assert sweep(api) == 1
    assert (provider.states()[stray], provider.states()[somebody_elses]) == ("terminated", "running")
    provider.ec2().terminate_instances(InstanceIds=[somebody_elses])
    assert database(control_plane, "select status from resources where token = 'reflux-stray-1'") == [("gone",)]


def test_a_machine_that_is_lost_at_work_ends_its_run_with_words(
    client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client, provider: Cloud, aws: dict[str, str]
) -> None:
    job = {"name": "j", "recipe": "job", "job": {"command": ["x"]}, "compute": {"kind": "ec2", "region": REGION}}
    run = client.create(job)
    worker.complete(worker.take(run.id))
    a = worker.take(run.id)
    assert isinstance(a.command, Provision)
    assert a.command.machine
    made = ec2.make(a.command.machine, Compute(instance_type="m5.large", image=IMAGE), "")["InstanceId"]
    worker.complete(a, MachineProvisioned(key="provision", resource_id=made))
    prepare = worker.take(run.id)
    provider.ec2().terminate_instances(InstanceIds=[made])
    look = "update resources set look_at = now()"
    database(control_plane, look)
    assert sweep(api) == 1
    assert client.run(run.id).status == "preparing", "no GPU task is in hand yet"
    worker.complete(prepare)
    provider.refuse("DescribeInstances", "Unavailable")
    database(control_plane, look)
    assert sweep(api) == 0
    assert client.run(run.id).status == "training", "not to be seen is not lost"
    database(control_plane, look)
    assert sweep(api) == 1
    over(worker, worker.take(run.id))
    ended = client.run(run.id)
    assert ended.error
    assert (ended.outcome, ended.error.code, made in ended.error.message) == ("failed", "instance_lost", True)


def test_two_workers_do_not_look_at_once(client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client) -> None:
    a = provisioning(client, worker)
    over(worker, aborted(client, worker, a))
    database(control_plane, "update resources set look_at = now()")
    told = [api.post("/v1/resources/duties").json()["machines"] for _ in range(2)]
    assert [len(machines) for machines in told] == [1, 0]


# What people are told


def verify(stack: Stack, aws: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | aws | {"REFLUX_URL": stack.api_url, "REFLUX_KEY": stack.keys["operator"], "COLUMNS": "200"}
    command = [sys.executable, "-c", "from reflux.cli import main; main()", "verify-cleanup", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_verify_cleanup_asks_the_provider(
    client: Client, worker: HandWorker, control_plane: Stack, provider: Cloud, aws: dict[str, str]
) -> None:
    a = provisioning(client, worker)
    assert isinstance(a.command, Provision)
    assert a.command.machine
    made = ec2.make(a.command.machine, Compute(instance_type="m5.large", image=IMAGE), "")["InstanceId"]
    over(worker, aborted(client, worker, a))
    left = verify(control_plane, aws, a.run_id)
    assert left.returncode == 1, left.stderr
    assert f"End {made} (m5.large, {REGION}): it is running, at about $0.107 an hour." in left.stdout
    assert f"aws ec2 terminate-instances --region {REGION} --instance-ids {made}" in left.stdout
    unasked = verify(control_plane, aws, a.run_id, "--no-provider")
    assert unasked.returncode == 1
    assert "nobody has looked whether it is gone" in unasked.stdout
    provider.ec2().terminate_instances(InstanceIds=[made])
    assert verify(control_plane, aws, a.run_id).returncode == 0
    refused = verify(control_plane, aws | {"AWS_ENDPOINT_URL_EC2": "http://127.0.0.1:9"}, a.run_id)
    assert refused.returncode == 1
    assert "The provider could not be asked" in refused.stdout
    assert "Traceback" not in refused.stderr
