"""Whether the credentials at hand may do what machines need: by IAM's own simulation, so that nothing is made."""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from reflux import machine_types
from reflux.errors import RefluxError
from reflux.spec import Compute
from services.teacher_worker.cloud import ec2, machines
from services.teacher_worker.cloud.errors import code_of, speaking

Told = tuple[str, Literal["ok", "warning", "failed"], str, str]  # what, how it is, what was found, what to do

RIGHTS = (
    "ec2:RunInstances",
    "ec2:CreateTags",
    "ec2:DescribeInstances",
    "ec2:DescribeInstanceStatus",
    "ec2:DescribeVolumes",
    "ec2:TerminateInstances",
    "ec2:DeleteVolume",
)
JOB_RIGHTS = (
    "sagemaker:CreateTrainingJob",
    "sagemaker:AddTags",
    "sagemaker:DescribeTrainingJob",
    "sagemaker:StopTrainingJob",
    "sagemaker:ListTags",
)
SAGEMAKER = "sagemaker.amazonaws.com"  # who takes on a job's role
IN_ECR = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com/([^:@]+):([\w.-]+)")
POLICY = "Give the teacher workers {}, with your account and bucket in it."


def checks(region: str, kind: Literal["ec2", "sagemaker"] = "ec2") -> Iterator[Told]:
    """Each check as it is made. Nothing is made, and nothing is paid for."""
    try:
        compute = machines.settled(Compute(kind=kind, region=region))
        yield "REFLUX_MACHINES", "ok", f"machines reach the API at {machines.settings().api_url}", ""
    except RefluxError as error:
        yield "REFLUX_MACHINES", "failed", error.message, error.hint
        return
    price = machine_types.per_hour(compute.instance_type or "", compute.volume_gb)
    yield (
        "price",
        "ok" if price else "warning",
        f"{compute.instance_type}: " + (f"about ${price:g} an hour" if price else "not known"),
        "",
    )
    try:
        with speaking("Who am I"):
            who = boto3.client("sts", region_name=region, config=ec2.CONFIG).get_caller_identity()["Arn"]
        yield "credentials", "ok", who, ""
    except RefluxError as error:
        yield "credentials", "failed", error.message, error.hint
        return
    yield from _rights(region, who, compute)
    yield from _things(region, compute) if kind == "ec2" else _of_jobs(region, compute)


def _rights(region: str, who: str, compute: Compute) -> Iterator[Told]:
    iam = boto3.client("iam", region_name=region, config=ec2.CONFIG)
    results = []
    try:
        for asked in _asked(region, who, compute):
            results += iam.simulate_principal_policy(PolicySourceArn=_principal(who), **asked)["EvaluationResults"]
    except ClientError as error:
        hint = "Allow iam:SimulatePrincipalPolicy to whoever runs this, or look at the policy yourself."
        yield "rights", "warning", f"could not be simulated: {code_of(error)}", hint
        return
    except BotoCoreError as error:
        yield "rights", "warning", f"could not be simulated: {error}", ""
        return
    policy = POLICY.format(f"deploy/iam/teacher-worker{'-sagemaker' if compute.kind == 'sagemaker' else ''}.json")
    for result in results:
        allowed = result["EvalDecision"] == "allowed" or bool(result.get("MissingContextValues"))
        yield result["EvalActionName"], "ok" if allowed else "failed", result["EvalDecision"], "" if allowed else policy
    if compute.instance_profile and compute.kind == "ec2":
        try:
            with speaking(f"The instance profile {compute.instance_profile}"):
                iam.get_instance_profile(InstanceProfileName=compute.instance_profile)
            yield "instance profile", "ok", compute.instance_profile, ""
        except RefluxError as error:
            yield "instance profile", "failed", error.message, error.hint


def _asked(region: str, who: str, compute: Compute) -> Iterator[dict[str, Any]]:
    """What IAM is asked: actions, and on what, where it matters."""
    if compute.kind == "ec2":
        yield {"ActionNames": list(RIGHTS)}
        return
    job = f"arn:aws:sagemaker:{region}:{who.split(':')[4]}:training-job/reflux-doctor"
    yield {"ActionNames": list(JOB_RIGHTS), "ResourceArns": [job]}
    yield {"ActionNames": ["sagemaker:ListTrainingJobs"]}
    passed = {"ContextKeyName": "iam:PassedToService", "ContextKeyValues": [SAGEMAKER], "ContextKeyType": "string"}
    yield {"ActionNames": ["iam:PassRole"], "ResourceArns": [compute.role_arn], "ContextEntries": [passed]}


def _of_jobs(region: str, compute: Compute) -> Iterator[Told]:
    """The role that a job takes on, and its image, where that is in ECR."""
    role, image = str(compute.role_arn), compute.image or machines.settings().worker_image
    iam = boto3.client("iam", region_name=region, config=ec2.CONFIG)
    trust: dict[str, Any] = {}
    found = _looked("role", role, lambda: trust.update(iam.get_role(RoleName=role.rpartition("/")[2])["Role"]))
    if trust and SAGEMAKER not in json.dumps(trust["AssumeRolePolicyDocument"]):
        found = "role", "failed", f"{role} can't be taken on by {SAGEMAKER}", "Let deploy/iam/trust-sagemaker.json say who may."
    yield found
    if where := IN_ECR.fullmatch(image):
        account, there, repository, tag = where.groups()
        ecr = boto3.client("ecr", region_name=there, config=ec2.CONFIG)
        query = {"registryId": account, "repositoryName": repository, "imageIds": [{"imageTag": tag}]}
        yield _looked("image", image, lambda: ecr.describe_images(**query))
    else:
        yield "image", "warning", f"{image} has no tag in ECR: it was not looked for", "SageMaker pulls images from ECR."


def _things(region: str, compute: Compute) -> Iterator[Told]:
    client = ec2.client(region)
    looks: list[tuple[str, str, dict[str, Any]]] = [("image", "describe_images", {"ImageIds": [compute.image]})]
    if subnets := [subnet for subnet in (compute.subnet_id, *compute.other_subnet_ids) if subnet]:
        looks.append(("subnet", "describe_subnets", {"SubnetIds": subnets}))
    if compute.security_group_ids:
        looks.append(("security groups", "describe_security_groups", {"GroupIds": list(compute.security_group_ids)}))
    for name, call, query in looks:
        yield _looked(name, ", ".join(next(iter(query.values()))), partial(getattr(client, call), **query))


def _looked(name: str, what: str, look: Callable[[], object]) -> Told:
    """Whether it is there. Who may not look is warned."""
    try:
        with speaking(f"{name} {what}"):
            look()
    except RefluxError as error:
        denied = error.code == "access_denied"
        return name, "warning" if denied else "failed", error.message, "" if denied else error.hint
    return name, "ok", what, ""


def _principal(arn: str) -> str:
    """The role behind an assumed one: what can be simulated."""
    service, _, rest = arn.partition(":assumed-role/")
    return f"{service.replace(':sts:', ':iam:')}:role/{rest.split('/')[0]}" if rest else arn
