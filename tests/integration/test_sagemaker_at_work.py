"""SageMaker jobs of live runs: looked after by the sweep, which tells the run how they are, and that they are lost."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from reflux.client import Client
from reflux.commands import Provision
from reflux.events import CleanedUp, MachineProvisioned
from reflux.local.stack import Stack
from reflux.machines import Machine
from reflux.views import EventView
from services.teacher_worker.cloud import sagemaker
from services.teacher_worker.cloud.sweep import sweep
from tests.cloud import KEYS
from tests.integration.by_hand import SPEC, HandWorker, eventually
from tests.integration.test_sagemaker import BREAKS, SLEEPS, order
from tests.sagemaker_service import REGION, Service, sagemaker_service

ON_SAGEMAKER: dict[str, Any] = SPEC | {"compute": {"kind": "sagemaker", "region": REGION, "spot": True}}


@pytest.fixture(scope="module")
def there(ground: Path) -> Iterator[Service]:
    with sagemaker_service(ground / "sagemaker-at-work") as service:
        service.keeps = False
        yield service


@pytest.fixture
def aws(there: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    env = {"AWS_ENDPOINT_URL_SAGEMAKER": there.url} | {name.upper(): value for name, value in KEYS.items()}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    there.command = SLEEPS
    yield env
    there.behave()
    there.stop_all()


@pytest.fixture
def api(control_plane: Stack) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {control_plane.keys['worker']}"}
    with httpx.Client(base_url=control_plane.api_url, headers=headers, timeout=15) as client:
        yield client
    database(control_plane, "delete from resources")


def database(stack: Stack, statement: str) -> list[tuple[Any, ...]]:
    url = f"postgresql://postgres@127.0.0.1:{stack.ports['postgres']}/reflux"
    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute(statement)
        return done.fetchall() if done.description else []


def at_work(client: Client, worker: HandWorker, there: Service) -> Machine:
    """The job of a run, in state Training."""
    run = client.create(ON_SAGEMAKER)
    worker.complete(worker.take(run.id))
    a = worker.take(run.id)
    assert isinstance(a.command, Provision)
    assert a.command.machine
    name = sagemaker.make(a.command.machine, order(a.command.machine, spot=True))
    worker.complete(a, MachineProvisioned(key="provision", resource_id=name))
    in_state(there, name, "Training")
    return a.command.machine


def in_state(there: Service, name: str, state: str) -> None:
    eventually(lambda: there.jobs[name].secondary == state, 20, f"the job is not {state}")


def look(stack: Stack, api: httpx.Client) -> int:
    database(stack, "update resources set look_at = now()")
    return sweep(api)


def told(client: Client, run_id: str, kind: str) -> list[EventView]:
    return [event for event in client.events(run_id, limit=1000).data if event.type == kind]


def test_a_job_that_is_interrupted_is_waited_for_and_the_run_says_so(
    client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client, there: Service, aws: dict[str, str]
) -> None:
    machine = at_work(client, worker, there)
    assert look(control_plane, api) == 0
    assert told(client, machine.run_id, "machine_state") == [], "that it works goes without saying"
    there.held_at = "Interrupted"
    there.interrupt(machine.token)
    in_state(there, machine.token, "Interrupted")
    database(control_plane, f"update resources set made_at = now() - interval '1 hour' where run_id = '{machine.run_id}'")
    for _ in range(2):
        assert look(control_plane, api) == 0, "it is not lost"
    since = f"select now() - made_at < interval '10 seconds' from resources where run_id = '{machine.run_id}'"
    assert database(control_plane, since) == [(True,)], "its silence counts from here"
    there.held_at = None
    in_state(there, machine.token, "Training")
    look(control_plane, api)
    states = [(event.body["machine"], event.body["state"]) for event in told(client, machine.run_id, "machine_state")]
    assert states == [(machine.token, "Interrupted"), (machine.token, "Training")], "each once"
    client.abort(machine.run_id)


@pytest.mark.parametrize("how", ["MaxRuntimeExceeded", "AlgorithmError", "Stopped"])
def test_a_job_that_is_lost_at_work_is_followed_by_another(
    client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client, there: Service, aws: dict[str, str], how: str
) -> None:
    """Whatever ended it: the run's checkpoints are in the store, and the next job goes on from them."""
    if how == "AlgorithmError":
        there.command = BREAKS
        there.steps, steps = 0.3, there.steps
    machine = at_work(client, worker, there)
    if how == "AlgorithmError":
        there.steps = steps
    elif how == "MaxRuntimeExceeded":
        there.jobs[machine.token].longest = 0.0
    else:
        there.StopTrainingJob({"TrainingJobName": machine.token})
    eventually(lambda: there.jobs[machine.token].status in ("Failed", "Stopped"), 20, "the job lives")
    assert look(control_plane, api) == 1
    [lost] = told(client, machine.run_id, "machine_lost")
    assert (lost.body["failure"]["code"], how in lost.body["failure"]["message"]) == ("instance_lost", True)
    [[number, status]] = database(
        control_plane, f"select token, status from resources where run_id = '{machine.run_id}' and status = 'intended'"
    )
    assert (number, status) == (f"reflux-{machine.run_id}-2", "intended"), "the next one is on record"
    assert client.run(machine.run_id).status != "failed"
    client.abort(machine.run_id)


def test_verify_cleanup_says_how_a_job_is_stopped(
    client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client, there: Service, aws: dict[str, str]
) -> None:
    machine = at_work(client, worker, there)
    client.abort(machine.run_id)
    worker.complete(worker.take(machine.run_id), CleanedUp(key="clean_up", path="p"))
    env = os.environ | aws | {"REFLUX_URL": control_plane.api_url, "REFLUX_KEY": control_plane.keys["operator"], "COLUMNS": "200"}
    command = [sys.executable, "-c", "from reflux.cli import main; main()", "verify-cleanup", machine.run_id]
    left = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert left.returncode == 1, left.stderr
    name = machine.token
    assert f"End {name} (ml.g5.2xlarge, {REGION}): it is Training, at about $1.526 an hour." in left.stdout
    assert f"aws sagemaker stop-training-job --region {REGION} --training-job-name {name}" in left.stdout
