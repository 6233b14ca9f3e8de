"""Instances made and ended over the EC2 wire protocol (moto, behind a door that keeps client tokens and refuses on demand)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.stub import Stubber

from reflux import machine_types
from reflux.commands import CleanUp
from reflux.errors import POLICIES, ErrorClass, RefluxError
from reflux.machines import Machine, Place
from reflux.spec import Compute
from reflux.stages import Stage
from services.teacher_worker.clean_up import clean_up
from services.teacher_worker.cloud import ec2, machines, rights
from tests.cloud import IMAGE, KEYS, REGION, Cloud, cloud
from tests.environment import ROOT
from tests.teacher_tasks import spec, task
from tests.unit.test_clean_up import summary


@pytest.fixture(scope="module")
def provider() -> Iterator[Cloud]:
    with cloud() as there:
        yield there


@pytest.fixture(autouse=True)
def credentials(provider: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", provider.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["aws_secret_access_key"])
    yield
    provider.refusals.clear()
    provider.calls.clear()
    living = [name for name, state in provider.states().items() if state != "terminated"]
    if living:
        provider.ec2().terminate_instances(InstanceIds=living)


@pytest.fixture
def compute() -> Compute:
    return Compute(kind="ec2", region=REGION, instance_type="g4dn.2xlarge", image=IMAGE, tags={"team": "tsn"})


numbers = iter(range(1, 1000))


@pytest.fixture
def machine() -> Machine:
    number = next(numbers)
    return Machine(token=f"reflux-r{number}-1", run_id=f"r{number}", kind="ec2_instance", region=REGION, deployment="d1")


class Waits(list[float]):
    """What would have been waited for."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def end(machine: Machine, **how: Any) -> Any:
    return ec2.end(machine, rest=how.pop("rest", Waits()), wait_seconds=0, **how)


# Making


def test_an_instance_carries_what_its_intent_says(provider: Cloud, machine: Machine, compute: Compute) -> None:
    made = ec2.make(machine, compute, "#!/bin/sh\n")
    [instance] = ec2.living(ec2.client(REGION), machine)
    assert instance["InstanceId"] == made["InstanceId"]
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    wanted = {"reflux:run": machine.run_id, "reflux:token": machine.token, "reflux:deployment": "d1", "team": "tsn"}
    assert tags.items() >= wanted.items()
    [mapping] = instance["BlockDeviceMappings"]
    assert mapping["Ebs"]["DeleteOnTermination"]
    [volume] = provider.ec2().describe_volumes(VolumeIds=[mapping["Ebs"]["VolumeId"]])["Volumes"]
    assert (volume["Size"], volume["Encrypted"]) == (100, True)


def test_the_order_asks_for_what_the_spec_says(machine: Machine) -> None:
    compute = Compute.model_validate({
        "kind": "ec2", "instance_type": "g5.xlarge", "image": "ami-1", "subnet_id": "subnet-1", "security_group_ids": ["sg-1"],
        "instance_profile": "reflux-machine", "spot": True, "tags": {"reflux:run": "somebody else's"},
    })  # fmt: skip
    order = ec2.request(machine, compute, "boot")
    assert order["ClientToken"] == machine.token
    assert order["InstanceMarketOptions"]["MarketType"] == "spot"
    assert order["IamInstanceProfile"] == {"Name": "reflux-machine"}
    assert (order["SubnetId"], order["SecurityGroupIds"]) == ("subnet-1", ["sg-1"])
    assert order["MetadataOptions"]["HttpTokens"] == "required"
    assert order["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert {"Key": "reflux:run", "Value": machine.run_id} in order["TagSpecifications"][0]["Tags"], "ours go before a user's"


def test_a_crash_between_the_call_and_its_answer_makes_no_second_one(provider: Cloud, machine: Machine, compute: Compute) -> None:
    provider.refuse("RunInstances", "InternalError", status=500, after=True)
    with pytest.raises(RefluxError):
        ec2.make(machine, compute, "")
    again = ec2.make(machine, compute, "")
    assert [again["InstanceId"]] == [i["InstanceId"] for i in ec2.living(ec2.client(REGION), machine)]


def test_two_calls_at_once_make_one_by_the_client_token(provider: Cloud, machine: Machine, compute: Compute) -> None:
    """Tags are seen late: here neither call sees the other's instance."""
    order = ec2.request(machine, compute, "")
    ids = {ec2.client(REGION).run_instances(**order)["Instances"][0]["InstanceId"] for _ in range(2)}
    assert len(ids) == 1
    assert list(provider.states()).count(*ids) == 1


def test_another_attempt_that_can_not_see_the_first_one_s_machine_yet_waits(
    provider: Cloud, machine: Machine, compute: Compute
) -> None:
    """Its user data hold another key, so that the provider does not take the token."""
    made = ec2.make(machine, compute, "key 1")["InstanceId"]
    provider.ec2().delete_tags(Resources=[made], Tags=[{"Key": "reflux:token"}])
    with pytest.raises(RefluxError) as refused:
        ec2.make(machine, compute, "key 2")
    assert refused.value.code == "provider_not_ready"
    provider.ec2().create_tags(Resources=[made], Tags=[{"Key": "reflux:token", "Value": machine.token}])
    assert ec2.make(machine, compute, "key 2")["InstanceId"] == made


REFUSED = [
    ("RequestLimitExceeded", "", "provider_throttled"),
    ("InsufficientInstanceCapacity", "", "no_capacity"),
    ("Unavailable", "", "provider_not_ready"),
    ("VcpuLimitExceeded", "You have requested more vCPU capacity than your current limit", "quota_exceeded"),
    ("MaxSpotInstanceCountExceeded", "", "quota_exceeded"),
    ("UnauthorizedOperation", "You are not authorized to perform this operation", "access_denied"),
    ("AuthFailure", "", "access_denied"),
    ("ExpiredToken", "", "no_credentials"),
    ("InvalidAMIID.NotFound", "", "image_missing"),
    ("InvalidAMIID.Malformed", "", "image_missing"),
    ("InvalidSubnetID.NotFound", "", "network_missing"),
    ("InvalidGroup.NotFound", "", "network_missing"),
    ("InvalidParameterValue", "Value (x) for parameter iamInstanceProfile.name is invalid", "role_not_found"),
    ("InvalidParameterValue", "Invalid value 'g9.huge' for InstanceType", "invalid_spec"),
    ("SomethingNew", "", "provider_refused"),
]


@pytest.mark.parametrize(("code", "message", "means"), REFUSED, ids=[f"{c}-{m}" for c, _, m in REFUSED])
def test_what_a_refusal_means(provider: Cloud, machine: Machine, compute: Compute, code: str, message: str, means: str) -> None:
    provider.refuse("RunInstances", code, message=message or "no")
    with pytest.raises(RefluxError) as refused:
        ec2.make(machine, compute, "")
    assert refused.value.code == means
    assert code in refused.value.message
    assert refused.value.hint
    assert provider.calls["RunInstances"] == 1, "the policy table says when it is tried again, not the library"
    assert POLICIES[means].error_class in (ErrorClass.RETRIABLE, ErrorClass.TERMINAL)


def test_a_provider_that_is_not_there_is_not_ready(machine: Machine, compute: Compute, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:9")
    with pytest.raises(RefluxError) as away:
        ec2.make(machine, compute, "")
    assert away.value.code == "provider_not_ready"


# Ending


def test_an_end_is_checked_and_may_be_done_again(provider: Cloud, machine: Machine, compute: Compute) -> None:
    name = ec2.make(machine, compute, "")["InstanceId"]
    first = end(machine)
    assert (first.status, first.id, first.error, first.cost_per_hour) == ("terminated", name, None, 0.0)
    assert provider.states()[name] == "terminated"
    assert provider.calls["TerminateInstances"] == 1
    second = end(machine.model_copy(update={"id": name}))
    assert (second.status, second.note) == ("terminated", "was ended before")
    assert provider.calls["TerminateInstances"] == 1, "it looked first"


def test_what_was_never_made_is_not_found(provider: Cloud, machine: Machine) -> None:
    outcome = end(machine)
    assert (outcome.status, outcome.id, outcome.error, outcome.cost_per_hour) == ("not_found", None, None, 0.0)
    assert end(machine.model_copy(update={"id": "i-0123456789abcdef0"})).status == "not_found"


def test_an_instance_without_its_tags_is_found_by_its_id(provider: Cloud, machine: Machine, compute: Compute) -> None:
    name = ec2.make(machine, compute, "")["InstanceId"]
    provider.ec2().delete_tags(Resources=[name], Tags=[{"Key": "reflux:token"}])
    assert end(machine.model_copy(update={"id": name})).status == "terminated"


def test_throttled_deletes_are_tried_again(provider: Cloud, machine: Machine, compute: Compute) -> None:
    ec2.make(machine, compute, "")
    provider.refuse("TerminateInstances", "RequestLimitExceeded", times=2)
    waits = Waits()
    assert end(machine, rest=waits).status == "terminated"
    assert waits == [1, 3]


@pytest.mark.parametrize(
    ("code", "status"),
    [("UnauthorizedOperation", "failed"), ("OperationNotPermitted", "failed"), ("RequestLimitExceeded", "failed")],
)
def test_an_end_that_fails_is_told_with_its_cost_and_raises_nothing(
    provider: Cloud, machine: Machine, compute: Compute, code: str, status: str
) -> None:
    name = ec2.make(machine, compute, "")["InstanceId"]
    provider.refuse("TerminateInstances", code, times=9)
    outcome = end(machine)
    assert outcome.status == status
    assert code in (outcome.error or "")
    assert outcome.id == name
    assert outcome.cost_per_hour == machine_types.per_hour("g4dn.2xlarge", 100)


@pytest.mark.parametrize("code", ["InvalidInstanceID.NotFound", "IncorrectInstanceState"])
def test_what_goes_while_it_is_ended_is_no_error(provider: Cloud, machine: Machine, compute: Compute, code: str) -> None:
    ec2.make(machine, compute, "")
    provider.refuse("TerminateInstances", code, after=True)
    outcome = end(machine)
    assert (outcome.status, outcome.error) == ("terminated", None)
    assert outcome.note in ("was gone before", "was ending already")


def test_a_volume_that_outlived_its_instance_is_deleted(provider: Cloud, machine: Machine, compute: Compute) -> None:
    ec2.make(machine, compute, "")
    tags = [{"Key": key, "Value": value} for key, value in machine.tags.items()]
    zone = f"{REGION}a"
    spare = provider.ec2().create_volume(
        AvailabilityZone=zone, Size=8, TagSpecifications=[{"ResourceType": "volume", "Tags": tags}]
    )["VolumeId"]
    outcome = end(machine)
    assert {v.volume_id: v.status for v in outcome.volumes}[spare] == "deleted"
    provider.ec2().create_volume(AvailabilityZone=zone, Size=8, TagSpecifications=[{"ResourceType": "volume", "Tags": tags}])
    provider.refuse("DeleteVolume", "UnauthorizedOperation", times=9)
    [left] = end(machine).volumes
    assert (left.status, "UnauthorizedOperation" in (left.error or "")) == ("failed", True)


def test_strays_are_those_with_our_deployment_s_tag(provider: Cloud, machine: Machine, compute: Compute) -> None:
    name = ec2.make(machine, compute, "")["InstanceId"]
    ec2.make(machine.model_copy(update={"token": "reflux-other-1", "deployment": "d2"}), compute, "")
    provider.ec2().run_instances(ImageId=compute.image, MinCount=1, MaxCount=1)
    found = ec2.strays(Place(kind="ec2_instance", region=REGION, deployment="d1"))
    assert [(m.id, m.token, m.run_id) for m in found] == [(name, machine.token, machine.run_id)]


# Cleaning up


def cleaned(folder: Path, *machines: Machine) -> tuple[Any, dict[str, Any]]:
    command = CleanUp(stage=Stage.CLEANING_UP, summary=summary(), machines=machines)
    hand = task(folder, command, spec())
    event = clean_up(hand)
    return event, hand.artifacts.get_json(event.path)


def test_cleanup_status_tells_every_outcome(
    provider: Cloud, machine: Machine, compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ec2, "END_SECONDS", 0.0)
    name = ec2.make(machine, compute, "")["InstanceId"]
    never = machine.model_copy(update={"token": "reflux-never-1"})
    event, status = cleaned(tmp_path, never, machine)
    assert status["instance_id"] == name
    assert status["resources"]["ec2_instance"] | {"timestamp": ""} == {
        "id": name, "status": "terminated", "error": None, "note": None, "timestamp": "",
    }  # fmt: skip
    assert [m["status"] for m in status["resources"]["earlier_machines"]] == ["not_found"]
    assert (status["manual_action_required"], status["estimated_orphaned_cost_per_hour"]) == (False, 0.0)
    assert [outcome.status for outcome in event.machines] == ["not_found", "terminated"]


def test_cleanup_status_says_what_is_to_be_done_by_hand_and_costs(
    provider: Cloud, machine: Machine, compute: Compute, tmp_path: Path
) -> None:
    ec2.make(machine, compute, "")
    provider.refuse("TerminateInstances", "UnauthorizedOperation", times=9)
    event, status = cleaned(tmp_path, machine)
    assert event.manual_action_required
    assert status["manual_action_required"]
    assert status["resources"]["ec2_instance"]["status"] == "failed"
    assert status["estimated_orphaned_cost_per_hour"] == machine_types.per_hour("g4dn.2xlarge", 100)


# Before money is spent


@pytest.fixture
def doctor(provider: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`reflux doctor --compute ec2`, without what it says of this machine."""
    for service in ("STS", "IAM"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", provider.url)
    provider.refuse("SimulatePrincipalPolicy", "AccessDenied", times=9, status=403)  # moto has none
    file = tmp_path / "machines.yaml"

    def look(**defaults: Any) -> dict[str, tuple[str, str]]:
        place = {"api_url": "https://reflux.test", "worker_image": "r/gpu:1", "ec2": {"instance_type": "g5.xlarge"} | defaults}
        file.write_text(yaml.safe_dump(place))
        monkeypatch.setenv("REFLUX_MACHINES", str(file))
        machines._read.cache_clear()
        return {name: (status, told) for name, status, told, _ in rights.checks(REGION)}

    return look


def test_the_doctor_looks_at_everything_that_a_machine_needs(provider: Cloud, doctor: Any) -> None:
    found = doctor(image=IMAGE)
    assert found["REFLUX_MACHINES"][0] == "ok"
    assert found["price"] == ("ok", "g5.xlarge: about $1.017 an hour")
    assert found["credentials"][0] == "ok"
    assert found["image"] == ("ok", IMAGE)
    assert found["rights"] == ("warning", "could not be simulated: AccessDenied")
    assert provider.calls["RunInstances"] == 0


def test_the_doctor_finds_what_is_missing(doctor: Any) -> None:
    found = doctor(image="ami-00000000", subnet_id="subnet-00000000", instance_profile="none")
    assert found["image"][0] == "failed"
    assert found["subnet"][0] == "failed"
    wrong = doctor()
    assert wrong == {"REFLUX_MACHINES": ("failed", "compute ec2 needs compute.image")}
    assert "region can't be set there" in doctor(image=IMAGE, region=REGION)["REFLUX_MACHINES"][1]
    assert "instance_typ: Extra inputs" in doctor(image=IMAGE, instance_typ="x")["REFLUX_MACHINES"][1]


@pytest.mark.parametrize(("decision", "status"), [("allowed", "ok"), ("implicitDeny", "failed"), ("explicitDeny", "failed")])
def test_the_doctor_simulates_each_right(monkeypatch: pytest.MonkeyPatch, decision: str, status: str) -> None:
    """moto does not simulate policies, so botocore's own stubber answers here."""
    client = boto3.client("iam", region_name=REGION)
    results = [{"EvalActionName": name, "EvalDecision": decision} for name in rights.RIGHTS]
    role = "arn:aws:iam::123456789012:role/teacher"
    with Stubber(client) as stubber:
        stubber.add_response(
            "simulate_principal_policy", {"EvaluationResults": results},
            {"PolicySourceArn": role, "ActionNames": list(rights.RIGHTS)},
        )  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(boto3, "client", lambda *_, **__: client)
            told = list(rights._rights(REGION, "arn:aws:sts::123456789012:assumed-role/teacher/session", Compute(kind="ec2")))
    assert {name: how for name, how, *_ in told} == dict.fromkeys(rights.RIGHTS, status)
    assert all(bool(hint) == (status == "failed") for *_, hint in told)


def test_the_policies_are_json_and_name_every_right() -> None:
    folder = ROOT / "deploy" / "iam"
    policies = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
    jobs = {"teacher-worker-sagemaker", "job-sagemaker", "trust-sagemaker"}
    assert set(policies) == {"teacher-worker", "instance", "control", "trust-ec2"} | jobs
    actions = [statement["Action"] for statement in policies["teacher-worker"]["Statement"]]
    granted = {name for action in actions for name in ([action] if isinstance(action, str) else action)}
    assert granted >= set(rights.RIGHTS)
    of_jobs = [statement["Action"] for statement in policies["teacher-worker-sagemaker"]["Statement"]]
    assert {name for actions in of_jobs for name in actions} >= {*rights.JOB_RIGHTS, "sagemaker:ListTrainingJobs", "iam:PassRole"}
    for name, policy in policies.items():
        assert "*" not in json.dumps([s["Action"] for s in policy["Statement"]]), name
