"""`reflux doctor --compute sagemaker`: everything that a job needs is looked at, and nothing is made."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.stub import Stubber

from reflux.artifacts import Artifacts
from reflux.spec import Compute
from services.teacher_worker import preflight
from services.teacher_worker.cloud import machines, rights
from tests.cloud import KEYS, REGION, Cloud, cloud
from tests.environment import ROOT
from tests.teacher_tasks import spec

ACCOUNT = "123456789012"  # moto's
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/reflux-gpu:0.2"


@pytest.fixture(scope="module")
def provider() -> Iterator[Cloud]:
    with cloud() as there, pytest.MonkeyPatch.context() as env:
        for name, value in KEYS.items():
            env.setenv(name.upper(), value)
        iam = boto3.client("iam", region_name=REGION, endpoint_url=there.moto)
        for role, file in (("reflux-job", "trust-sagemaker"), ("reflux-machine", "trust-ec2")):
            trust = (ROOT / "deploy" / "iam" / f"{file}.json").read_text()
            iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust)
        ecr = boto3.client("ecr", region_name=REGION, endpoint_url=there.moto)
        ecr.create_repository(repositoryName="reflux-gpu")
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}
        ecr.put_image(repositoryName="reflux-gpu", imageTag="0.2", imageManifest=json.dumps(manifest))
        yield there


@pytest.fixture
def place(provider: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the operator's file."""
    for service in ("STS", "IAM"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", provider.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", provider.moto)
    provider.refuse("SimulatePrincipalPolicy", "AccessDenied", times=9, status=403)  # moto has none

    def write(image: str = IMAGE, role: str = "reflux-job", **defaults: Any) -> None:
        jobs = {"instance_type": "ml.g5.xlarge", "role_arn": f"arn:aws:iam::{ACCOUNT}:role/{role}"} | defaults
        (tmp_path / "m.yaml").write_text(yaml.safe_dump({"api_url": "https://r.test", "worker_image": image, "sagemaker": jobs}))
        monkeypatch.setenv("REFLUX_MACHINES", str(tmp_path / "m.yaml"))
        machines._read.cache_clear()

    return write


def found() -> dict[str, tuple[str, str]]:
    return {name: (status, told) for name, status, told, _ in rights.checks(REGION, "sagemaker")}


def test_the_doctor_looks_at_everything_that_a_job_needs(place: Any) -> None:
    place()
    assert found() == {
        "REFLUX_MACHINES": ("ok", "machines reach the API at https://r.test"),
        "price": ("ok", "ml.g5.xlarge: about $1.2685 an hour"),
        "credentials": ("ok", f"arn:aws:sts::{ACCOUNT}:user/moto"),
        "rights": ("warning", "could not be simulated: AccessDenied"),
        "role": ("ok", f"arn:aws:iam::{ACCOUNT}:role/reflux-job"),
        "image": ("ok", IMAGE),
    }


def test_the_doctor_finds_what_is_missing(place: Any) -> None:
    place(image=IMAGE.replace("0.2", "0.3"), role="nobody")
    told = found()
    assert (told["role"][0], "NoSuchEntity" in told["role"][1]) == ("failed", True)
    assert (told["image"][0], "ImageNotFound" in told["image"][1]) == ("failed", True)
    place(image=IMAGE.replace("reflux-gpu", "other"), role="reflux-machine")
    told = found()
    assert told["role"] == ("failed", f"arn:aws:iam::{ACCOUNT}:role/reflux-machine can't be taken on by sagemaker.amazonaws.com")
    assert (told["image"][0], "RepositoryNotFound" in told["image"][1]) == ("failed", True)
    place(image="registry/reflux-gpu:1")
    assert found()["image"][0] == "warning"
    place(role_arn=None)
    assert found() == {"REFLUX_MACHINES": ("failed", "compute sagemaker needs compute.role_arn")}


@pytest.mark.parametrize(("decision", "status"), [("allowed", "ok"), ("implicitDeny", "failed")])
def test_the_doctor_simulates_each_right(place: Any, monkeypatch: pytest.MonkeyPatch, decision: str, status: str) -> None:
    place()
    client, compute = boto3.client("iam", region_name=REGION), machines.settled(Compute(kind="sagemaker", region=REGION))
    who = f"arn:aws:sts::{ACCOUNT}:assumed-role/teacher/session"
    groups = list(rights._asked(REGION, who, compute))
    assert groups[0]["ResourceArns"] == [f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/reflux-doctor"]
    with Stubber(client) as stubber:
        for asked in groups:
            results = [{"EvalActionName": name, "EvalDecision": decision} for name in asked["ActionNames"]]
            principal = {"PolicySourceArn": f"arn:aws:iam::{ACCOUNT}:role/teacher"}
            stubber.add_response("simulate_principal_policy", {"EvaluationResults": results}, principal | asked)
        with monkeypatch.context() as patched:
            patched.setattr(boto3, "client", lambda *_, **__: client)
            told = list(rights._rights(REGION, who, compute))
    assert {name: how for name, how, *_ in told} == dict.fromkeys(
        [*rights.JOB_RIGHTS, "sagemaker:ListTrainingJobs", "iam:PassRole"], status
    )
    assert all(("teacher-worker-sagemaker.json" in hint) == (status == "failed") for *_, hint in told)


@pytest.mark.parametrize(
    ("store", "compute", "status", "told"),
    [
        ("s3://reflux", {}, "ok", "ml.g5.xlarge in us-east-1, about $1.2685 an hour"),
        ("s3://reflux", {"role_arn": None, "instance_type": "ml.new"}, "ok", "ml.new in us-east-1, price not known"),
        ("file:///somewhere", {}, "failed", "A SageMaker job can't reach the artifact store at file:///somewhere"),
        ("s3://reflux", {"subnet_id": "subnet-1"}, "failed", "compute.subnet_id and compute.security_group_ids go together"),
    ],
)
def test_preflight_says_what_a_job_costs_or_lacks(
    place: Any, monkeypatch: pytest.MonkeyPatch, store: str, compute: dict[str, Any], status: str, told: str
) -> None:
    place()
    monkeypatch.setenv("AWS_REGION", REGION)
    check = preflight._machine(spec(compute={"kind": "sagemaker"} | compute), Artifacts(store))
    assert (check.status, check.message.startswith(told)) == (status, True), check.message
