"""Training jobs stopped, found again and told of at the end, over SageMaker's wire protocol."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reflux import machine_types
from reflux.commands import CleanUp
from reflux.machines import Machine, Place
from reflux.stages import Stage
from services.teacher_worker.clean_up import clean_up
from services.teacher_worker.cloud import providers, sagemaker
from tests.integration.sagemaker_jobs import SLEEPS, STUBBORN, WORKS, make, order, until
from tests.sagemaker_service import REGION, Service
from tests.teacher_tasks import spec, task
from tests.unit.test_clean_up import summary


def end(machine: Machine, wait_seconds: float = 10.0, **how: Any) -> Any:
    return sagemaker.end(machine, wait_seconds=wait_seconds, **how)


class Waits(list[float]):
    """What was waited for, in short."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)
        time.sleep(0.01)


def test_a_job_is_stopped_whatever_it_does(job_service: Service, machine: Machine) -> None:
    for state in ("Pending", "Starting", "Downloading"):
        this = machine.model_copy(update={"token": f"{machine.token}-{state}"})
        job_service.held_at = state
        make(this)
        until(job_service, this, state)
        outcome = end(this)
        assert (outcome.status, outcome.id, outcome.error, outcome.cost_per_hour) == ("terminated", this.token, None, 0.0), state
        assert outcome.note.startswith("Stopped; ")
    assert job_service.calls["StopTrainingJob"] == 3


def test_a_worker_at_work_is_told_to_stop(job_service: Service, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sagemaker, "FINISH_SECONDS", 0.0)
    job_service.command = SLEEPS
    make(machine)
    until(job_service, machine, "Training")
    assert [found.error for found in sagemaker.standing(machine)] == ["it is Training"]
    outcome = end(machine)
    assert outcome.status == "terminated"
    process = job_service.jobs[machine.token].process
    assert process
    assert process.returncode == -15, "SIGTERM was enough"
    again = end(machine)
    assert (again.status, job_service.calls["StopTrainingJob"]) == ("terminated", 1), "it looked first"


def test_a_job_that_finishes_by_itself_is_let(job_service: Service, machine: Machine) -> None:
    job_service.command = [sys.executable, "-c", "import time; time.sleep(0.5)"]
    make(machine)
    until(job_service, machine, "Training")
    outcome = end(machine)
    assert (outcome.status, outcome.note.split(";")[0]) == ("terminated", "Completed")
    assert job_service.calls["StopTrainingJob"] == 0


def test_what_is_still_stopping_is_looked_at_again(job_service: Service, machine: Machine) -> None:
    job_service.command = STUBBORN
    make(machine)
    until(job_service, machine, "Training")
    time.sleep(0.2)  # until it ignores SIGTERM
    outcome = end(machine, wait_seconds=0)
    assert (outcome.status, outcome.error, outcome.cost_per_hour) == ("terminating", None, 0.0)
    again = end(machine, wait_seconds=0)
    assert (again.status, job_service.calls["StopTrainingJob"]) == ("terminating", 1)
    job_service.grace, grace = 0.1, job_service.grace
    process = job_service.jobs[machine.token].process
    assert process
    process.kill()
    job_service.grace = grace
    assert end(machine).status == "terminated"


def test_what_was_never_made_is_not_found(job_service: Service, machine: Machine) -> None:
    outcome = end(machine)
    assert (outcome.status, outcome.id, outcome.error, outcome.cost_per_hour) == ("not_found", None, None, 0.0)
    assert end(machine.model_copy(update={"id": "reflux-x"})).status == "not_found"


def test_throttled_stops_are_tried_again(job_service: Service, machine: Machine) -> None:
    job_service.held_at = "Starting"
    make(machine)
    job_service.refuse("StopTrainingJob", "ThrottlingException", times=2)
    waits = Waits()
    assert end(machine, rest=waits).status == "terminated"
    assert waits[:2] == [1, 3]


@pytest.mark.parametrize(("status", "note"), [("Stopping", "was stopping already"), ("Stopped", "was over already")])
def test_what_stops_while_it_is_stopped_is_no_error(job_service: Service, machine: Machine, status: str, note: str) -> None:
    """Somebody else was first, between our look and our call."""
    job_service.held_at = "Starting"
    make(machine)
    [job] = [job for name, job in job_service.jobs.items() if name == machine.token]
    told = dict(job_service.DescribeTrainingJob({"TrainingJobName": job.name}))
    job_service.StopTrainingJob({"TrainingJobName": job.name})
    if status == "Stopped":
        until(job_service, machine, "Stopped")
    else:
        job.status = "Stopping"
    found = sagemaker.client(REGION).describe_training_job(TrainingJobName=job.name) | {
        "TrainingJobStatus": told["TrainingJobStatus"]
    }
    assert sagemaker._stop(sagemaker.client(REGION), found, Waits()) in (note, "was over already")
    assert end(machine).error is None


@pytest.mark.parametrize("code", ["AccessDeniedException", "ThrottlingException"])
def test_a_stop_that_fails_is_told_with_its_cost_and_raises_nothing(job_service: Service, machine: Machine, code: str) -> None:
    job_service.held_at = "Starting"
    make(machine)
    job_service.refuse("StopTrainingJob", code, times=9)
    outcome = end(machine, rest=Waits(), wait_seconds=0.1)
    assert (outcome.status, outcome.id, code in (outcome.error or "")) == ("failed", machine.token, True)
    assert outcome.cost_per_hour == machine_types.per_hour("ml.g5.2xlarge", 100)


def test_a_provider_that_is_away_fails_no_cleanup(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", "http://127.0.0.1:9")
    outcome = end(machine)
    assert (outcome.status, outcome.cost_per_hour) == ("failed", None)


def test_strays_are_those_with_our_deployment_s_tag(job_service: Service, machine: Machine) -> None:
    job_service.held_at = "Starting"
    for token, deployment in (("reflux-a-1", "d1"), ("reflux-b-1", "d2"), ("reflux-c-1", "d1")):
        make(machine.model_copy(update={"token": token, "deployment": deployment, "run_id": token[7]}))
    job_service.client().create_training_job(TrainingJobName="reflux-by-hand", **(order(machine) | {"Tags": []}))
    found = providers.living(Place(kind="sagemaker_job", region=REGION, deployment="d1"))
    assert [(m.id, m.token, m.run_id) for m in found] == [("reflux-a-1", "reflux-a-1", "a"), ("reflux-c-1", "reflux-c-1", "c")]


def test_cleanup_status_tells_of_the_job(job_service: Service, machine: Machine, tmp_path: Path) -> None:
    job_service.command = WORKS
    make(machine)
    until(job_service, machine, "Completed")
    hand = task(tmp_path, CleanUp(stage=Stage.CLEANING_UP, summary=summary(), machines=(machine,)), spec())
    event = clean_up(hand)
    status = hand.artifacts.get_json(event.path)
    job = status["resources"]["sagemaker_job"]
    assert (status["instance_id"], job["id"], job["status"], job["error"]) == (machine.token, machine.token, "terminated", None)
    assert "model.tar.gz" in job["note"]
    assert (status["manual_action_required"], status["estimated_orphaned_cost_per_hour"]) == (False, 0.0)
