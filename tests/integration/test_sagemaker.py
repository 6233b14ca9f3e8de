"""Training jobs made and watched over SageMaker's wire protocol, by a service that lives through their states."""

import re
from typing import Any

import pytest

from reflux.artifacts import Artifacts
from reflux.errors import POLICIES, ErrorClass, RefluxError
from reflux.machines import Machine
from reflux.spec import Compute, RunSpec
from services.teacher_worker.cloud import sagemaker
from tests.integration.by_hand import eventually
from tests.integration.sagemaker_jobs import BREAKS, SLEEPS, STORE, WORKS, make, order, until
from tests.sagemaker_service import Service
from tests.teacher_tasks import spec


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


def test_a_job_is_made_once(job_service: Service, machine: Machine) -> None:
    assert make(machine) == make(machine) == machine.token
    assert job_service.calls["CreateTrainingJob"] == 1


def test_a_crash_between_the_call_and_its_answer_makes_no_second_one(job_service: Service, machine: Machine) -> None:
    job_service.refuse("CreateTrainingJob", "InternalFailure", status=500, after=True)
    with pytest.raises(RefluxError) as broken:
        make(machine)
    assert broken.value.code == "provider_not_ready"
    assert make(machine) == machine.token
    assert [name for name in job_service.jobs if name.startswith(machine.token)] == [machine.token]


def test_a_name_in_use_is_ours_if_its_tag_says_so(job_service: Service, machine: Machine) -> None:
    """Two attempts at once: neither saw the other's job."""
    asked = order(machine)
    job_service.client().create_training_job(TrainingJobName=machine.token, **asked)
    job_service.refuse("DescribeTrainingJob", "ValidationException", message="Requested resource not found.")
    assert sagemaker.make(machine, asked) == machine.token


def test_a_name_in_somebody_else_s_use_is_refused_and_their_job_left_alone(job_service: Service, machine: Machine) -> None:
    other = machine.model_copy(update={"token": "somebody-else"})
    job_service.client().create_training_job(TrainingJobName=machine.token, **order(other))
    job_service.refuse("DescribeTrainingJob", "ValidationException", message="Requested resource not found.")
    with pytest.raises(RefluxError) as refused:
        make(machine)
    assert (refused.value.code, "ResourceInUse" in refused.value.message) == ("provider_refused", True)
    assert sagemaker.end(machine, wait_seconds=10).status == "not_found"
    assert job_service.calls["StopTrainingJob"] == 0


def test_after_a_job_that_failed_the_same_intent_makes_another(job_service: Service, machine: Machine) -> None:
    job_service.fails["Starting"] = ("InternalServerError: We encountered an internal error. Please try again.", 1)
    make(machine)
    until(job_service, machine, "Failed")
    state, over = sagemaker.seen(machine)
    assert over
    assert (state, over.code) == ("Failed", "provider_not_ready")
    assert make(machine) == f"{machine.token}-2"
    assert sagemaker.seen(machine)[1] is None
    assert sagemaker.end(machine, wait_seconds=10).id == f"{machine.token}-2"
    assert {job_service.jobs[name].status for name in (machine.token, f"{machine.token}-2")} == {"Failed", "Stopped"}


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
def test_what_a_refusal_means(job_service: Service, machine: Machine, code: str, message: str, means: str) -> None:
    job_service.refuse("CreateTrainingJob", code, message=message or "no")
    with pytest.raises(RefluxError) as refused:
        make(machine)
    assert refused.value.code == means
    assert code in refused.value.message
    assert refused.value.hint
    assert job_service.calls["CreateTrainingJob"] == 1, "the policy table says when it is tried again, not the library"


def test_what_the_library_itself_refuses_is_a_mistake_of_the_spec(job_service: Service, machine: Machine) -> None:
    with pytest.raises(RefluxError, match="RoleArn") as refused:
        make(machine, role_arn="short")
    assert refused.value.code == "invalid_spec"
    assert job_service.calls["CreateTrainingJob"] == 0


def test_a_provider_that_is_not_there_is_not_ready(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", "http://127.0.0.1:9")
    with pytest.raises(RefluxError) as away:
        make(machine)
    assert away.value.code == "provider_not_ready"


# Living


def test_a_job_lives_through_every_state(job_service: Service, machine: Machine) -> None:
    job_service.command = WORKS
    for state in ("Pending", "Starting", "Downloading", "Uploading"):
        job_service.held_at = state
        make(machine)
        until(job_service, machine, state)
        assert sagemaker.seen(machine) == (state, None)
    job_service.held_at = None
    until(job_service, machine, "Completed")
    state, over = sagemaker.seen(machine)
    assert over
    assert (state, over.code) == ("Completed", "container_failed")
    kept = f"{STORE}/runs/{machine.run_id}/sagemaker/{machine.token}/output/model.tar.gz"
    told, states, billed, where = sagemaker.end(machine).note.split("; ")
    assert (told, billed.startswith("billed for "), where) == ("Completed", True, kept)
    assert re.sub(r" \d+ s", "", states) == "Pending, Starting, Downloading, Training, Uploading"
    assert Artifacts(STORE).exists(kept.removeprefix(f"{STORE}/"))


def test_a_spot_job_that_is_interrupted_starts_again_by_itself(job_service: Service, machine: Machine) -> None:
    job_service.command = SLEEPS
    make(machine, spot=True)
    until(job_service, machine, "Training")
    first = job_service.jobs[machine.token].process
    job_service.interrupt(machine.token)
    eventually(lambda: job_service.jobs[machine.token].process is not first, 15, "no second container")
    assert sagemaker.seen(machine)[1] is None
    assert re.search(r"Interrupted \d+ s, Pending \d+ s", sagemaker.end(machine, wait_seconds=10).note)


FAILED = [
    ("CapacityError: Unable to provision requested ML compute capacity. Please retry.", "no_capacity"),
    ("InternalServerError: We encountered an internal error. Please try again.", "provider_not_ready"),
    ("ResourceLimitExceeded: the account-level service limit is 0", "quota_exceeded"),
    ("ClientError: Failed to assume the role arn:aws:iam::1:role/x", "role_not_found"),
    ("ClientError: Cannot pull the image from ECR: manifest unknown", "image_missing"),
    ("ClientError: Data download failed:Access denied for s3://x", "access_denied"),
    ('ClientError: Data download failed:No S3 objects found under S3 URL "s3://x/"', "no_inputs"),
    ("ClientError: Please use an instance type with more memory", "provider_refused"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "code"), FAILED, ids=[c for _, c in FAILED])
def test_why_a_job_failed_is_told_in_words(reason: str, code: str) -> None:
    job = {"TrainingJobName": "j", "TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", "FailureReason": reason}
    over = sagemaker.why_over(job)
    assert (over.code, reason in over.message) == (code, True)
    assert "/aws/sagemaker/TrainingJobs" in over.hint
    assert POLICIES[code].error_class in (ErrorClass.RETRIABLE, ErrorClass.TERMINAL)


def test_a_job_that_waited_for_spot_machines_as_long_as_it_may_ends_the_run() -> None:
    job = {"TrainingJobName": "j", "TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxWaitTimeExceeded"}
    over = sagemaker.why_over(job)
    assert (over.code, "compute.max_wait" in over.hint) == ("provider_refused", True)


def test_a_container_that_breaks_says_why(job_service: Service, machine: Machine) -> None:
    job_service.command = BREAKS
    make(machine)
    until(job_service, machine, "Failed")
    over = sagemaker.seen(machine)[1]
    assert over
    assert (over.code, "AlgorithmError: no key, exit code: 1" in over.message) == ("container_failed", True)
    assert "Check the image and its tag" in over.hint


def test_a_job_that_ran_as_long_as_it_may_keeps_what_it_has(job_service: Service, machine: Machine) -> None:
    job_service.command = SLEEPS
    asked = order(machine) | {"StoppingCondition": {"MaxRuntimeInSeconds": 1}}
    sagemaker.make(machine, asked)
    until(job_service, machine, "MaxRuntimeExceeded")
    over = sagemaker.seen(machine)[1]
    assert over
    assert (over.code, "MaxRuntimeExceeded" in over.message) == ("instance_lost", True)
    assert sagemaker.standing(machine) == [], "the sweep finds it lost"
    ended = sagemaker.end(machine, wait_seconds=10)
    assert ended.status == "terminated"
    assert ended.note.startswith("MaxRuntimeExceeded; ")
    assert ended.note.endswith("/output/model.tar.gz")
