"""Training jobs made, watched and stopped over SageMaker's wire protocol, by a service that lives through their states."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reflux.artifacts import Artifacts
from reflux.commands import CleanUp
from reflux.errors import POLICIES, ErrorClass, RefluxError
from reflux.machines import Machine, Place
from reflux.spec import Compute, RunSpec
from reflux.stages import Stage
from services.teacher_worker.clean_up import clean_up
from services.teacher_worker.cloud import costs, providers, sagemaker
from tests.integration.by_hand import eventually
from tests.s3 import BUCKET, s3_server
from tests.sagemaker_service import REGION, ROLE, Service, sagemaker_service
from tests.teacher_tasks import spec, task
from tests.unit.test_clean_up import summary

STORE = f"s3://{BUCKET}"
ENV = {"REFLUX_ARTIFACTS_URL": STORE, "REFLUX_WORKER_KEY": "rfx_of-this-run"}
SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"]
WORKS = [sys.executable, "-c", "import os; open(os.environ['REFLUX_SAGEMAKER_ROOT'] + '/model/weights', 'w').write('w')"]
BREAKS = [
    sys.executable,
    "-c",
    "import os; open(os.environ['REFLUX_SAGEMAKER_ROOT'] + '/output/failure', 'w').write('no key'); 1 / 0",
]


@pytest.fixture(scope="module")
def there(ground: Path) -> Iterator[Service]:
    with (
        s3_server(ground / "sagemaker-s3") as s3,
        sagemaker_service(ground / "sagemaker") as service,
        pytest.MonkeyPatch.context() as env,
    ):
        for name, value in (s3.environment | {"AWS_ENDPOINT_URL_SAGEMAKER": service.url}).items():
            env.setenv(name, value)
        env.setattr(sagemaker, "LOOK_SECONDS", 0.02)
        env.setattr(sagemaker, "FINISH_SECONDS", 1.0)
        yield service


@pytest.fixture
def provider(there: Service) -> Iterator[Service]:
    there.command = SLEEPS
    yield there
    there.behave()
    there.stop_all()


numbers = iter(range(1, 1000))


@pytest.fixture
def machine() -> Machine:
    number = next(numbers)
    return Machine(token=f"reflux-r{number}-1", run_id=f"r{number}", kind="sagemaker_job", region=REGION, deployment="d1")


def order(machine: Machine, a_spec: RunSpec | None = None, **compute: Any) -> dict[str, Any]:
    fields = {"kind": "sagemaker", "instance_type": "ml.g5.2xlarge", "role_arn": ROLE} | compute
    return sagemaker.request(machine, Compute.model_validate(fields), a_spec or spec(), ENV, "registry/reflux-gpu:1")


def make(machine: Machine, **compute: Any) -> str:
    return sagemaker.make(machine, order(machine, **compute))


def end(machine: Machine, wait_seconds: float = 10.0, **how: Any) -> Any:
    return sagemaker.end(machine, wait_seconds=wait_seconds, **how)


def until(provider: Service, machine: Machine, state: str) -> None:
    eventually(lambda: provider.jobs[machine.token].secondary == state, 15, f"the job is not {state}")


class Waits(list[float]):
    """What was waited for, in short."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)
        time.sleep(0.01)


# Making


def test_the_order_asks_for_what_the_spec_says(machine: Machine) -> None:
    job = RunSpec.model_validate({
        "name": "j", "recipe": "job", "limits": {"max_runtime": "1h"},
        "job": {"command": ["x"], "inputs_uri": f"{STORE}/data", "parameters": {"lr": 0.1, "name": "a", "long": "x" * 3000}},
    })  # fmt: skip
    asked = order(
        machine, job, spot=True, max_wait="12h", subnet_id="subnet-1", security_group_ids=["sg-1"], volume_gb=50,
        tags={"team": "tsn", "reflux:run": "somebody else's"},
    )  # fmt: skip
    assert asked["AlgorithmSpecification"]["TrainingImage"] == "registry/reflux-gpu:1"
    assert asked["ResourceConfig"] == {"InstanceType": "ml.g5.2xlarge", "InstanceCount": 1, "VolumeSizeInGB": 50}
    assert asked["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600 + 900 + 3600, "MaxWaitTimeInSeconds": 12 * 3600}
    assert asked["EnableManagedSpotTraining"]
    assert asked["CheckpointConfig"] == {"S3Uri": f"{STORE}/runs/{machine.run_id}/sagemaker/checkpoints"}
    assert asked["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert asked["HyperParameters"] == {"lr": "0.1", "name": "a"}, "strings alone, and none that SageMaker would refuse"
    [channel] = asked["InputDataConfig"]
    assert (channel["ChannelName"], channel["DataSource"]["S3DataSource"]["S3Uri"]) == ("training", f"{STORE}/data/")
    tags = {tag["Key"]: tag["Value"] for tag in asked["Tags"]}
    assert (tags["reflux:run"], tags["team"]) == (machine.run_id, "tsn"), "ours go before a user's"


def test_a_spot_job_runs_no_longer_than_it_may_wait(machine: Machine) -> None:
    condition = order(machine, spec(limits={"max_runtime": "100d"}), spot=True, max_wait="1h")["StoppingCondition"]
    assert condition == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 3600}
    assert order(machine, spec(limits={"max_runtime": "100d"}))["StoppingCondition"] == {"MaxRuntimeInSeconds": 28 * 24 * 3600}


@pytest.mark.parametrize(
    ("store", "fields", "told"),
    [("file:///data", {}, "artifact store"), (STORE, {"subnet_id": "subnet-1"}, "security_group_ids")],
)
def test_what_a_job_could_not_do_is_told_before(store: str, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(RefluxError, match=told) as wrong:
        sagemaker.check(Compute(kind="sagemaker", **fields), store)
    assert (wrong.value.code, bool(wrong.value.hint)) == ("invalid_spec", True)


def test_a_job_is_made_once(provider: Service, machine: Machine) -> None:
    assert make(machine) == make(machine) == machine.token
    assert provider.calls["CreateTrainingJob"] == 1


def test_a_crash_between_the_call_and_its_answer_makes_no_second_one(provider: Service, machine: Machine) -> None:
    provider.refuse("CreateTrainingJob", "InternalFailure", status=500, after=True)
    with pytest.raises(RefluxError) as broken:
        make(machine)
    assert broken.value.code == "provider_not_ready"
    assert make(machine) == machine.token
    assert [name for name in provider.jobs if name.startswith(machine.token)] == [machine.token]


def test_a_name_in_use_is_ours_if_its_tag_says_so(provider: Service, machine: Machine) -> None:
    """Two attempts at once: neither saw the other's job."""
    asked = order(machine)
    provider.client().create_training_job(TrainingJobName=machine.token, **asked)
    provider.refuse("DescribeTrainingJob", "ValidationException", message="Requested resource not found.")
    assert sagemaker.make(machine, asked) == machine.token


def test_a_name_in_somebody_else_s_use_is_refused_and_their_job_left_alone(provider: Service, machine: Machine) -> None:
    other = machine.model_copy(update={"token": "somebody-else"})
    provider.client().create_training_job(TrainingJobName=machine.token, **order(other))
    provider.refuse("DescribeTrainingJob", "ValidationException", message="Requested resource not found.")
    with pytest.raises(RefluxError) as refused:
        make(machine)
    assert (refused.value.code, "ResourceInUse" in refused.value.message) == ("provider_refused", True)
    assert end(machine).status == "not_found"
    assert provider.calls["StopTrainingJob"] == 0


def test_after_a_job_that_failed_the_same_intent_makes_another(provider: Service, machine: Machine) -> None:
    provider.fails["Starting"] = ("InternalServerError: We encountered an internal error. Please try again.", 1)
    make(machine)
    until(provider, machine, "Failed")
    state, over = sagemaker.seen(machine)
    assert over
    assert (state, over.code) == ("Failed", "provider_not_ready")
    assert make(machine) == f"{machine.token}-2"
    assert sagemaker.seen(machine)[1] is None
    assert end(machine).id == f"{machine.token}-2"
    assert {provider.jobs[name].status for name in (machine.token, f"{machine.token}-2")} == {"Failed", "Stopped"}


REFUSED = [
    ("ThrottlingException", "Rate exceeded", "provider_throttled"),
    (
        "ResourceLimitExceeded",
        "The account-level service limit 'ml.g5.2xlarge for training job usage' is 0 Instances",
        "quota_exceeded",
    ),
    ("CapacityError", "", "no_capacity"),
    ("AccessDeniedException", "is not authorized to perform: sagemaker:CreateTrainingJob", "access_denied"),
    ("AccessDeniedException", "is not authorized to perform: iam:PassRole on resource", "access_denied"),
    ("ExpiredTokenException", "", "no_credentials"),
    ("UnrecognizedClientException", "", "no_credentials"),
    ("ValidationException", "Could not assume role arn:aws:iam::1:role/x. Please ensure that the role exists", "role_not_found"),
    ("ValidationException", "Cannot find repository: reflux-gpu in registry ID: 123456789012. Invalid image", "image_missing"),
    ("ValidationException", "1 validation error detected: Value 'ml.g9.huge' at 'resourceConfig.instanceType'", "invalid_spec"),
    ("InternalFailure", "", "provider_not_ready"),
    ("SomethingNew", "", "provider_refused"),
]


@pytest.mark.parametrize(("code", "message", "means"), REFUSED, ids=[f"{c}-{m}" for c, _, m in REFUSED])
def test_what_a_refusal_means(provider: Service, machine: Machine, code: str, message: str, means: str) -> None:
    provider.refuse("CreateTrainingJob", code, message=message or "no")
    with pytest.raises(RefluxError) as refused:
        make(machine)
    assert refused.value.code == means
    assert code in refused.value.message
    assert refused.value.hint
    assert provider.calls["CreateTrainingJob"] == 1, "the policy table says when it is tried again, not the library"


def test_what_the_library_itself_refuses_is_a_mistake_of_the_spec(provider: Service, machine: Machine) -> None:
    with pytest.raises(RefluxError, match="RoleArn") as refused:
        make(machine, role_arn="short")
    assert refused.value.code == "invalid_spec"
    assert provider.calls["CreateTrainingJob"] == 0


def test_a_provider_that_is_not_there_is_not_ready(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", "http://127.0.0.1:9")
    with pytest.raises(RefluxError) as away:
        make(machine)
    assert away.value.code == "provider_not_ready"


# Living


def test_a_job_lives_through_every_state(provider: Service, machine: Machine) -> None:
    provider.command = WORKS
    make(machine)
    seen = []
    while "Completed" not in seen and len(seen) < 9:
        state, over = sagemaker.seen(machine)
        seen += [] if state in seen else [state]
        time.sleep(0.01)
    assert over
    assert over.code == "container_failed"
    assert seen == ["Pending", "Starting", "Downloading", "Training", "Uploading", "Completed"]
    kept = f"{STORE}/runs/{machine.run_id}/sagemaker/{machine.token}/output/model.tar.gz"
    note = end(machine).note
    assert note.startswith("Completed; Pending 0 s, Starting 0 s, Downloading 0 s, Training ")
    assert note.endswith(f"billed for 1 s; {kept}")
    assert Artifacts(STORE).exists(kept.removeprefix(f"{STORE}/"))


def test_a_spot_job_that_is_interrupted_starts_again_by_itself(provider: Service, machine: Machine) -> None:
    provider.command = SLEEPS
    make(machine, spot=True)
    until(provider, machine, "Training")
    first = provider.jobs[machine.token].process
    provider.interrupt(machine.token)
    eventually(lambda: provider.jobs[machine.token].process is not first, 15, "no second container")
    assert sagemaker.seen(machine)[1] is None
    assert "Interrupted 0 s, Pending" in end(machine).note


FAILED = [
    ("Starting", "CapacityError: Unable to provision requested ML compute capacity. Please retry.", "no_capacity"),
    ("Starting", "InternalServerError: We encountered an internal error. Please try again.", "provider_not_ready"),
    ("Starting", "ResourceLimitExceeded: the account-level service limit is 0", "quota_exceeded"),
    ("Starting", "ClientError: Failed to assume the role arn:aws:iam::1:role/x", "role_not_found"),
    ("Downloading", "ClientError: Cannot pull the image from ECR: manifest unknown", "image_missing"),
    ("Downloading", "ClientError: Data download failed:Access denied for s3://x", "access_denied"),
    ("Downloading", 'ClientError: Data download failed:No S3 objects found under S3 URL "s3://x/"', "no_inputs"),
    ("Training", "ClientError: Please use an instance type with more memory", "provider_refused"),
]  # fmt: skip


@pytest.mark.parametrize(("state", "reason", "code"), FAILED, ids=[f"{s}-{c}" for s, _, c in FAILED])
def test_why_a_job_failed_is_told_in_our_words(provider: Service, machine: Machine, state: str, reason: str, code: str) -> None:
    provider.fails[state] = (reason, 1)
    make(machine)
    until(provider, machine, "Failed")
    over = sagemaker.seen(machine)[1]
    assert over
    assert (over.code, reason in over.message) == (code, True)
    assert "/aws/sagemaker/TrainingJobs" in over.hint
    assert POLICIES[code].error_class in (ErrorClass.RETRIABLE, ErrorClass.TERMINAL)


def test_a_container_that_breaks_says_why(provider: Service, machine: Machine) -> None:
    provider.command = BREAKS
    make(machine)
    until(provider, machine, "Failed")
    over = sagemaker.seen(machine)[1]
    assert over
    assert (over.code, "AlgorithmError: no key, exit code: 1" in over.message) == ("container_failed", True)
    assert "Check the image and its tag" in over.hint


def test_a_job_that_ran_as_long_as_it_may_keeps_what_it_has(provider: Service, machine: Machine) -> None:
    provider.command = SLEEPS
    asked = order(machine) | {"StoppingCondition": {"MaxRuntimeInSeconds": 1}}
    sagemaker.make(machine, asked)
    until(provider, machine, "MaxRuntimeExceeded")
    over = sagemaker.seen(machine)[1]
    assert over
    assert (over.code, "MaxRuntimeExceeded" in over.message) == ("instance_lost", True)
    assert sagemaker.standing(machine) == [], "the sweep finds it lost"
    ended = end(machine)
    assert ended.status == "terminated"
    assert ended.note.startswith("MaxRuntimeExceeded; ")
    assert ended.note.endswith("/output/model.tar.gz")


# Ending


def test_a_job_is_stopped_whatever_it_does(provider: Service, machine: Machine) -> None:
    for state in ("Pending", "Starting", "Downloading"):
        this = machine.model_copy(update={"token": f"{machine.token}-{state}"})
        provider.held_at = state
        make(this)
        until(provider, this, state)
        outcome = end(this)
        assert (outcome.status, outcome.id, outcome.error, outcome.cost_per_hour) == ("terminated", this.token, None, 0.0), state
        assert outcome.note.startswith("Stopped; ")
    assert provider.calls["StopTrainingJob"] == 3


def test_a_worker_at_work_is_told_to_stop(provider: Service, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sagemaker, "FINISH_SECONDS", 0.0)
    provider.command = SLEEPS
    make(machine)
    until(provider, machine, "Training")
    assert [found.error for found in sagemaker.standing(machine)] == ["it is Training"]
    outcome = end(machine)
    assert outcome.status == "terminated"
    process = provider.jobs[machine.token].process
    assert process
    assert process.returncode == -15, "SIGTERM was enough"
    again = end(machine)
    assert (again.status, provider.calls["StopTrainingJob"]) == ("terminated", 1), "it looked first"


def test_a_job_that_finishes_by_itself_is_let(provider: Service, machine: Machine) -> None:
    provider.command = [sys.executable, "-c", "import time; time.sleep(0.5)"]
    make(machine)
    until(provider, machine, "Training")
    outcome = end(machine)
    assert (outcome.status, outcome.note.split(";")[0]) == ("terminated", "Completed")
    assert provider.calls["StopTrainingJob"] == 0


def test_what_is_still_stopping_is_looked_at_again(provider: Service, machine: Machine) -> None:
    provider.command = STUBBORN
    make(machine)
    until(provider, machine, "Training")
    time.sleep(0.2)  # until it ignores SIGTERM
    outcome = end(machine, wait_seconds=0)
    assert (outcome.status, outcome.error, outcome.cost_per_hour) == ("terminating", None, 0.0)
    again = end(machine, wait_seconds=0)
    assert (again.status, provider.calls["StopTrainingJob"]) == ("terminating", 1)
    provider.grace, grace = 0.1, provider.grace
    process = provider.jobs[machine.token].process
    assert process
    process.kill()
    provider.grace = grace
    assert end(machine).status == "terminated"


def test_what_was_never_made_is_not_found(provider: Service, machine: Machine) -> None:
    outcome = end(machine)
    assert (outcome.status, outcome.id, outcome.error, outcome.cost_per_hour) == ("not_found", None, None, 0.0)
    assert end(machine.model_copy(update={"id": "reflux-x"})).status == "not_found"


def test_throttled_stops_are_tried_again(provider: Service, machine: Machine) -> None:
    provider.held_at = "Starting"
    make(machine)
    provider.refuse("StopTrainingJob", "ThrottlingException", times=2)
    waits = Waits()
    assert end(machine, rest=waits).status == "terminated"
    assert waits[:2] == [1, 3]


@pytest.mark.parametrize(("status", "note"), [("Stopping", "was stopping already"), ("Stopped", "was over already")])
def test_what_stops_while_it_is_stopped_is_no_error(provider: Service, machine: Machine, status: str, note: str) -> None:
    """Somebody else was first, between our look and our call."""
    provider.held_at = "Starting"
    make(machine)
    [job] = [job for name, job in provider.jobs.items() if name == machine.token]
    told = dict(provider.DescribeTrainingJob({"TrainingJobName": job.name}))
    provider.StopTrainingJob({"TrainingJobName": job.name})
    if status == "Stopped":
        until(provider, machine, "Stopped")
    else:
        job.status = "Stopping"
    found = sagemaker.client(REGION).describe_training_job(TrainingJobName=job.name) | {
        "TrainingJobStatus": told["TrainingJobStatus"]
    }
    assert sagemaker._stop(sagemaker.client(REGION), found, Waits()) in (note, "was over already")
    assert end(machine).error is None


@pytest.mark.parametrize("code", ["AccessDeniedException", "ThrottlingException"])
def test_a_stop_that_fails_is_told_with_its_cost_and_raises_nothing(provider: Service, machine: Machine, code: str) -> None:
    provider.held_at = "Starting"
    make(machine)
    provider.refuse("StopTrainingJob", code, times=9)
    outcome = end(machine, rest=Waits(), wait_seconds=0.1)
    assert (outcome.status, outcome.id, code in (outcome.error or "")) == ("failed", machine.token, True)
    assert outcome.cost_per_hour == costs.per_hour("ml.g5.2xlarge", 100)


def test_a_provider_that_is_away_fails_no_cleanup(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", "http://127.0.0.1:9")
    outcome = end(machine)
    assert (outcome.status, outcome.cost_per_hour) == ("failed", None)


def test_strays_are_those_with_our_deployment_s_tag(provider: Service, machine: Machine) -> None:
    provider.held_at = "Starting"
    for token, deployment in (("reflux-a-1", "d1"), ("reflux-b-1", "d2"), ("reflux-c-1", "d1")):
        make(machine.model_copy(update={"token": token, "deployment": deployment, "run_id": token[7]}))
    provider.client().create_training_job(TrainingJobName="reflux-by-hand", **(order(machine) | {"Tags": []}))
    found = providers.living(Place(kind="sagemaker_job", region=REGION, deployment="d1"))
    assert [(m.id, m.token, m.run_id) for m in found] == [("reflux-a-1", "reflux-a-1", "a"), ("reflux-c-1", "reflux-c-1", "c")]


def test_cleanup_status_tells_of_the_job(provider: Service, machine: Machine, tmp_path: Path) -> None:
    provider.command = WORKS
    make(machine)
    until(provider, machine, "Completed")
    hand = task(tmp_path, CleanUp(stage=Stage.CLEANING_UP, summary=summary(), machines=(machine,)), spec())
    event = clean_up(hand)
    status = hand.artifacts.get_json(event.path)
    job = status["resources"]["sagemaker_job"]
    assert (status["instance_id"], job["id"], job["status"], job["error"]) == (machine.token, machine.token, "terminated", None)
    assert "model.tar.gz" in job["note"]
    assert (status["manual_action_required"], status["estimated_orphaned_cost_per_hour"]) == (False, 0.0)
