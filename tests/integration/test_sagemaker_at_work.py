"""SageMaker jobs of live runs: looked after by the sweep, which tells the run how they are, and that they are lost."""

import os
import subprocess
import sys
from typing import Any

import httpx
import pytest

from reflux.client import Client
from reflux.events import CleanedUp, MachineProvisioned
from reflux.local.stack import Stack
from reflux.machines import Machine
from reflux.views import EventView
from services.teacher_worker.cloud.sweep import sweep
from tests.integration.by_hand import SPEC, HandWorker, eventually
from tests.integration.on_record import database, intended
from tests.integration.sagemaker_jobs import BREAKS, make
from tests.sagemaker_service import REGION, Service

ON_SAGEMAKER: dict[str, Any] = SPEC | {"compute": {"kind": "sagemaker", "region": REGION, "spot": True}}

pytestmark = pytest.mark.usefixtures("nothing_left")


def at_work(client: Client, worker: HandWorker, job_service: Service) -> Machine:
    """The job of a run, in state Training."""
    run = client.create(ON_SAGEMAKER)
    worker.complete(worker.take(run.id))
    a = worker.take(run.id)
    machine = intended(a)
    name = make(machine, spot=True)
    worker.complete(a, MachineProvisioned(key="provision", resource_id=name))
    in_state(job_service, name, "Training")
    return machine


def in_state(job_service: Service, name: str, state: str) -> None:
    eventually(lambda: job_service.jobs[name].secondary == state, 20, f"the job is not {state}")


def look(stack: Stack, api: httpx.Client) -> int:
    database(stack, "update resources set look_at = now()")
    return sweep(api)


def told(client: Client, run_id: str, kind: str) -> list[EventView]:
    return [event for event in client.events(run_id, limit=1000).data if event.type == kind]


def test_a_job_that_is_interrupted_is_waited_for_and_the_run_says_so(
    client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client, job_service: Service
) -> None:
    machine = at_work(client, worker, job_service)
    assert look(control_plane, api) == 0
    assert told(client, machine.run_id, "machine_state") == [], "that it works goes without saying"
    job_service.held_at = "Interrupted"
    job_service.interrupt(machine.token)
    in_state(job_service, machine.token, "Interrupted")
    database(control_plane, f"update resources set made_at = now() - interval '1 hour' where run_id = '{machine.run_id}'")
    for _ in range(2):
        assert look(control_plane, api) == 0, "it is not lost"
    since = f"select now() - made_at < interval '10 seconds' from resources where run_id = '{machine.run_id}'"
    assert database(control_plane, since) == [(True,)], "its silence counts from here"
    job_service.held_at = None
    in_state(job_service, machine.token, "Training")
    look(control_plane, api)
    states = [(event.body["machine"], event.body["state"]) for event in told(client, machine.run_id, "machine_state")]
    assert states == [(machine.token, "Interrupted"), (machine.token, "Training")], "each once"
    client.abort(machine.run_id)


@pytest.mark.parametrize(
    "how", ["MaxRuntimeExceeded", *(pytest.param(how, marks=pytest.mark.long) for how in ("AlgorithmError", "Stopped"))]
)
def test_a_job_that_is_lost_at_work_is_followed_by_another(
    client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client, job_service: Service, how: str
) -> None:
    """Whatever ended it: the run's checkpoints are in the store, and the next job goes on from them."""
    if how == "AlgorithmError":
        job_service.command = BREAKS
        job_service.steps, steps = 0.3, job_service.steps
    machine = at_work(client, worker, job_service)
    if how == "AlgorithmError":
        job_service.steps = steps
    elif how == "MaxRuntimeExceeded":
        job_service.jobs[machine.token].longest = 0.0
    else:
        job_service.StopTrainingJob({"TrainingJobName": machine.token})
    eventually(lambda: job_service.jobs[machine.token].status in ("Failed", "Stopped"), 20, "the job lives")
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
    client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client, job_service: Service
) -> None:
    machine = at_work(client, worker, job_service)
    client.abort(machine.run_id)
    worker.complete(worker.take(machine.run_id), CleanedUp(key="clean_up", path="p"))
    env = os.environ | {"REFLUX_URL": control_plane.api_url, "REFLUX_KEY": control_plane.keys["operator"], "COLUMNS": "200"}
    command = [sys.executable, "-c", "from reflux.cli import main; main()", "verify-cleanup", machine.run_id]
    left = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert left.returncode == 1, left.stderr
    name = machine.token
    assert f"End {name} (ml.g5.2xlarge, {REGION}): it is Training, at about $1.526 an hour." in left.stdout
    assert f"aws sagemaker stop-training-job --region {REGION} --training-job-name {name}" in left.stdout
