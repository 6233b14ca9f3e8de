"""Machines on record: intended before they are made, ended and looked at again until they are gone, told of to people."""

import os
import subprocess
import sys

import httpx
import pytest

from reflux.client import Client
from reflux.commands import CleanUp, Provision
from reflux.events import MachineProvisioned
from reflux.local.stack import Stack
from reflux.machines import Ended, Machine
from reflux.spec import Compute
from services.teacher_worker.cloud import ec2
from services.teacher_worker.cloud.sweep import sweep
from tests.cloud import IMAGE, REGION, Cloud
from tests.integration.by_hand import HandWorker
from tests.integration.on_record import AT, ON_EC2, aborted, database, long_ago, made, over, provisioning, record

pytestmark = pytest.mark.usefixtures("nothing_left")


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
    name = made(a)
    database(control_plane, "update resources set look_at = now()")
    assert sweep(api) == 1
    assert provider.states()[name] == "terminated"
    assert record(control_plane, a.run_id)[:2] == ("gone", name)


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
    name = made(a)
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
    assert provider.states()[name] == "terminated"
    assert client.resources() == []


def test_the_machines_of_live_runs_are_left_alone(
    client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client, provider: Cloud, aws: dict[str, str]
) -> None:
    a = provisioning(client, worker)
    name = made(a)
    database(control_plane, "update resources set look_at = now()")
    database(control_plane, "update places set look_at = now()")
    assert sweep(api) == 0
    assert provider.states()[name] == "running"
    provider.ec2().terminate_instances(InstanceIds=[name])


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
    name = made(a)
    over(worker, aborted(client, worker, a))
    left = verify(control_plane, aws, a.run_id)
    assert left.returncode == 1, left.stderr
    assert f"End {name} (m5.large, {REGION}): it is running, at about $0.107 an hour." in left.stdout
    assert f"aws ec2 terminate-instances --region {REGION} --instance-ids {name}" in left.stdout
    unasked = verify(control_plane, aws, a.run_id, "--no-provider")
    assert unasked.returncode == 1
    assert "nobody has looked whether it is gone" in unasked.stdout
    provider.ec2().terminate_instances(InstanceIds=[name])
    assert verify(control_plane, aws, a.run_id).returncode == 0
    refused = verify(control_plane, aws | {"AWS_ENDPOINT_URL_EC2": "http://127.0.0.1:9"}, a.run_id)
    assert refused.returncode == 1
    assert "The provider could not be asked" in refused.stdout
    assert "Traceback" not in refused.stderr
