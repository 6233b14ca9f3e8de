"""Whether the credentials at hand may do what machines need: by IAM's own simulation, so that nothing is made."""

from collections.abc import Iterator
from typing import Any, Literal

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from reflux.errors import RefluxError
from reflux.spec import Compute
from services.teacher_worker.cloud import costs, ec2, machines
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
POLICY = "Give the teacher workers deploy/iam/teacher-worker.json, with your account and bucket in it."


def checks(region: str) -> Iterator[Told]:
    """Each check as it is made. Nothing is made, and nothing is paid for."""
    try:
        compute = machines.settled(Compute(kind="ec2", region=region))
        yield "REFLUX_MACHINES", "ok", f"machines reach the API at {machines.settings().api_url}", ""
    except RefluxError as error:
        yield "REFLUX_MACHINES", "failed", error.message, error.hint
        return
    price = costs.per_hour(compute.instance_type or "", compute.volume_gb)
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
    yield from _things(region, compute)


def _rights(region: str, who: str, compute: Compute) -> Iterator[Told]:
    iam = boto3.client("iam", region_name=region, config=ec2.CONFIG)
    try:
        results = iam.simulate_principal_policy(PolicySourceArn=_principal(who), ActionNames=list(RIGHTS))["EvaluationResults"]
    except ClientError as error:
        hint = "Allow iam:SimulatePrincipalPolicy to whoever runs this, or look at the policy yourself."
        yield "rights", "warning", f"could not be simulated: {code_of(error)}", hint
        return
    except BotoCoreError as error:
        yield "rights", "warning", f"could not be simulated: {error}", ""
        return
    for result in results:
        allowed = result["EvalDecision"] == "allowed" or bool(result.get("MissingContextValues"))
        yield result["EvalActionName"], "ok" if allowed else "failed", result["EvalDecision"], "" if allowed else POLICY
    if compute.instance_profile:
        try:
            with speaking(f"The instance profile {compute.instance_profile}"):
                iam.get_instance_profile(InstanceProfileName=compute.instance_profile)
            yield "instance profile", "ok", compute.instance_profile, ""
        except RefluxError as error:
            yield "instance profile", "failed", error.message, error.hint


def _things(region: str, compute: Compute) -> Iterator[Told]:
    client = ec2.client(region)
    looks: list[tuple[str, str, dict[str, Any]]] = [("image", "describe_images", {"ImageIds": [compute.image]})]
    if compute.subnet_id:
        looks.append(("subnet", "describe_subnets", {"SubnetIds": [compute.subnet_id]}))
    if compute.security_group_ids:
        looks.append(("security groups", "describe_security_groups", {"GroupIds": list(compute.security_group_ids)}))
    for name, call, query in looks:
        what = ", ".join(next(iter(query.values())))
        try:
            with speaking(f"{name} {what}"):
                getattr(client, call)(**query)
            yield name, "ok", what, ""
        except RefluxError as error:
            denied = error.code == "access_denied"
            yield name, "warning" if denied else "failed", error.message, "" if denied else error.hint


def _principal(arn: str) -> str:
    """The role behind an assumed one: what can be simulated."""
    service, _, rest = arn.partition(":assumed-role/")
    return f"{service.replace(':sts:', ':iam:')}:role/{rest.split('/')[0]}" if rest else arn
