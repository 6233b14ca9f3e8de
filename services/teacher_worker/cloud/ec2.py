"""EC2: one instance for one run. Everything is found again by the tags that its recorded intent gave it."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from reflux import machine_types
from reflux.errors import RefluxError, Retriable
from reflux.machines import TAG_DEPLOYMENT, TAG_RUN, TAG_TOKEN, Ended, Machine, Place, Volume
from reflux.spec import Compute
from services.teacher_worker.cloud.errors import GONE, STILL, code_of, speaking, translated

LOOK_SECONDS = 5.0
END_SECONDS = 120.0  # from the order to end to the state that says so
THROTTLED = (1.0, 3.0, 9.0)  # seconds before a delete that was throttled is tried again
TAKEN_BACK = ("Server.SpotInstanceTermination", "Server.SpotInstanceShutdown")  # reasons of a state
UNSEEN = "not to be seen"
OVER = ("shutting-down", "terminated", "stopping", "stopped")
LIVING = ["pending", "running", "stopping", "stopped", "shutting-down"]
CONFIG = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 1})

Rest = Callable[[float], None]


def client(region: str) -> Any:
    return boto3.client("ec2", region_name=region, config=CONFIG)


def make(machine: Machine, compute: Compute, user_data: str) -> dict[str, Any]:
    """The instance of this intent, made now or before. Its client token lets it be made once, whoever asks how often."""
    with speaking(f"An instance {compute.instance_type} in {machine.region}"):
        ec2 = client(machine.region)
        if found := living(ec2, machine):
            return found[0]
        order = request(machine, compute, user_data)
        instance: dict[str, Any] = ec2.run_instances(**order)["Instances"][0]
        return instance


def request(machine: Machine, compute: Compute, user_data: str) -> dict[str, Any]:
    """The call. IMDSv2 alone, encrypted volume that goes with the instance, and a shutdown from within ends it too."""
    tags = [{"Key": key, "Value": value} for key, value in {**compute.tags, **machine.tags}.items()]
    order: dict[str, Any] = {
        "ClientToken": machine.token,
        "ImageId": compute.image,
        "InstanceType": compute.instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        "UserData": user_data,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        "BlockDeviceMappings": [
            {
                "DeviceName": "/dev/sda1",
                "Ebs": {"VolumeSize": compute.volume_gb, "VolumeType": "gp3", "DeleteOnTermination": True, "Encrypted": True},
            }
        ],
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
    }
    if compute.subnet_id:
        order["SubnetId"] = compute.subnet_id
    if compute.security_group_ids:
        order["SecurityGroupIds"] = list(compute.security_group_ids)
    if compute.instance_profile:
        order["IamInstanceProfile"] = {"Name": compute.instance_profile}
    if compute.spot:
        order["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time"}}
    return order


def living(ec2: Any, machine: Machine) -> list[dict[str, Any]]:
    """The instances of this intent that are not terminated."""
    filters = [{"Name": f"tag:{TAG_TOKEN}", "Values": [machine.token]}, {"Name": "instance-state-name", "Values": LIVING}]
    return _instances(ec2, Filters=filters)


def standing(machine: Machine) -> list[Ended]:
    """What of the intent still lives, as it is: nothing is touched."""
    with speaking(f"Instances of {machine.run_id} in {machine.region}"):
        ec2 = client(machine.region)
        found = [i for i in _known(ec2, machine) if i["State"]["Name"] not in ("terminated", "shutting-down")]
    return [
        Ended(
            token=machine.token,
            id=instance["InstanceId"],
            status="failed",
            error=f"it is {instance['State']['Name']}",
            note=instance["InstanceType"],
            cost_per_hour=_cost([instance]),
            timestamp=now(),
        )
        for instance in found
    ]


def seen(machine: Machine) -> tuple[str, RefluxError | None]:
    """The state of the intent's instance, and why it will never work again, where that is so."""
    with speaking(f"Looking at {machine.id}"):
        found = _known(client(machine.region), machine)
    state = str(found[0]["State"]["Name"]) if found else UNSEEN
    if state not in OVER:
        return state, None
    reason = found[0].get("StateReason", {})
    code = "spot_interrupted" if str(reason.get("Code")).startswith(TAKEN_BACK) else "instance_lost"
    why = f"{reason.get('Code', 'no reason was given')} {reason.get('Message', '')}".strip()
    return state, Retriable(code, f"{machine.id} is {state}: {why}")


def unwell(machine: Machine, state: str) -> RefluxError | None:
    """Why an instance in `state` that has worked is thought lost. That it fails its checks may be over in a moment."""
    if state == UNSEEN:
        return Retriable("instance_lost", f"The provider knows no {machine.id} any more")
    with speaking(f"The checks of {machine.id}"):
        answer = client(machine.region).describe_instance_status(InstanceIds=[machine.id])
    for status in answer["InstanceStatuses"]:
        failing = [name for name in ("SystemStatus", "InstanceStatus") if status[name]["Status"] == "impaired"]
        if failing:
            return Retriable("machine_silent", f"{machine.id} is silent, and impaired by {' and '.join(failing)}")
    return None


def strays(place: Place) -> list[Machine]:
    """Every instance there that carries this deployment's tag and lives."""
    with speaking(f"Instances in {place.region}"):
        filters = [
            {"Name": f"tag:{TAG_DEPLOYMENT}", "Values": [place.deployment]},
            {"Name": "instance-state-name", "Values": LIVING},
        ]
        found = _instances(client(place.region), Filters=filters)
    machines = []
    for instance in found:
        tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
        if TAG_RUN in tags and TAG_TOKEN in tags and instance["State"]["Name"] != "shutting-down":
            machines.append(
                Machine(
                    token=tags[TAG_TOKEN], run_id=tags[TAG_RUN], kind="ec2_instance", region=place.region,
                    deployment=place.deployment, id=instance["InstanceId"],
                )
            )  # fmt: skip
    return machines


def end(machine: Machine, *, rest: Rest = time.sleep, wait_seconds: float = END_SECONDS) -> Ended:
    """Check, terminate, wait, look at the volumes. Never raises: what went wrong is part of the answer. May be done again."""
    try:
        with speaking(f"Ending {machine.id or machine.token}"):
            return _end(machine, rest, wait_seconds)
    except RefluxError as error:
        return Ended(token=machine.token, id=machine.id, status="failed", error=str(error), cost_per_hour=None, timestamp=now())


def _end(machine: Machine, rest: Rest, wait_seconds: float) -> Ended:
    ec2 = client(machine.region)
    instances = _known(ec2, machine)
    ids = [instance["InstanceId"] for instance in instances]
    named = machine.id or (ids[0] if ids else None)
    if not instances:
        left = _volumes(ec2, machine, rest)
        return Ended(token=machine.token, id=named, status="not_found", volumes=left, note="the provider knows no such instance",
                     cost_per_hour=_volumes_cost(left), timestamp=now())  # fmt: skip
    to_end = [i["InstanceId"] for i in instances if i["State"]["Name"] not in ("terminated", "shutting-down")]
    try:
        with speaking(f"Ending {', '.join(to_end)}"):
            note = _terminate(ec2, to_end, rest) if to_end else "was ended before"
    except RefluxError as error:
        price = _cost(instances)
        return Ended(token=machine.token, id=named, status="failed", error=str(error), cost_per_hour=price, timestamp=now())
    states = _wait(ec2, machine, ids, rest, wait_seconds)
    left = _volumes(ec2, machine, rest)
    over = all(state == "terminated" for state in states.values())
    stubborn = [i for i in instances if states[i["InstanceId"]] not in ("terminated", "shutting-down")]
    still = f"it is still {', '.join(sorted({states[i['InstanceId']] for i in stubborn}))}" if stubborn else None
    price = _cost(stubborn)
    return Ended(
        token=machine.token,
        id=named,
        status="terminated" if over else "failed" if stubborn else "terminating",
        error=still,
        note=note,
        volumes=left,
        cost_per_hour=None if price is None else round(price + _volumes_cost(left), 4),
        timestamp=now(),
    )


def _cost(instances: list[dict[str, Any]]) -> float | None:
    """Of instances that still run, with a volume of 100 GB each; None: a price is not known."""
    prices = [machine_types.per_hour(instance["InstanceType"], 100) for instance in instances]
    return None if None in prices else round(sum(price or 0.0 for price in prices), 4)


def _known(ec2: Any, machine: Machine) -> list[dict[str, Any]]:
    """The intent's instances, terminated ones too: by tag, and by id, as tags are seen later than ids."""
    found = {i["InstanceId"]: i for i in _instances(ec2, Filters=[{"Name": f"tag:{TAG_TOKEN}", "Values": [machine.token]}])}
    if machine.id and machine.id not in found:
        try:
            found |= {i["InstanceId"]: i for i in _instances(ec2, InstanceIds=[machine.id])}
        except ClientError as error:
            if code_of(error) not in GONE:
                raise
    return list(found.values())


def _terminate(ec2: Any, ids: list[str], rest: Rest) -> str | None:
    """A note where there is something to say. Throttled deletes are tried again; what is gone or going is fine."""
    for wait in (*THROTTLED, None):
        try:
            ec2.terminate_instances(InstanceIds=ids)
            return None
        except ClientError as error:
            if code_of(error) in GONE:
                return "was gone before"
            if code_of(error) in STILL:
                return "was ending already"
            if wait is None or not isinstance(translated(error, ""), Retriable):
                raise
            rest(wait)
    return None


def _wait(ec2: Any, machine: Machine, ids: list[str], rest: Rest, seconds: float) -> dict[str, str]:
    """The states of the instances, once all are terminated or the time is over. What is not found any more is terminated."""
    until = time.monotonic() + seconds
    while True:
        states = dict.fromkeys(ids, "terminated") | {i["InstanceId"]: str(i["State"]["Name"]) for i in _known(ec2, machine)}
        if all(state == "terminated" for state in states.values()) or time.monotonic() > until:
            return states
        rest(LOOK_SECONDS)


def _volumes(ec2: Any, machine: Machine, rest: Rest) -> tuple[Volume, ...]:
    """Volumes of the intent that outlived its instance: they should not, and are deleted."""
    pages = ec2.get_paginator("describe_volumes").paginate(Filters=[{"Name": f"tag:{TAG_TOKEN}", "Values": [machine.token]}])
    return tuple(_delete_volume(ec2, volume, rest) for page in pages for volume in page["Volumes"])


def _delete_volume(ec2: Any, volume: dict[str, Any], rest: Rest) -> Volume:
    name, goes = volume["VolumeId"], "DeleteOnTermination=true, deleted with its instance"
    with_it = all(attached.get("DeleteOnTermination") for attached in volume.get("Attachments", [])) and volume.get("Attachments")
    if volume["State"] == "deleting" or with_it:
        return Volume(volume_id=name, status="deleting", note=goes if with_it else None, timestamp=now())
    for wait in (*THROTTLED, None):
        try:
            ec2.delete_volume(VolumeId=name)
            break
        except ClientError as error:
            if code_of(error) in GONE:
                break
            if wait is None or not (code_of(error) in STILL or isinstance(translated(error, ""), Retriable)):
                return Volume(volume_id=name, status="failed", error=str(translated(error, "Deleting it")), timestamp=now())
            rest(wait)
        except BotoCoreError as error:
            return Volume(volume_id=name, status="failed", error=str(error), timestamp=now())
    return Volume(volume_id=name, status="deleted", note="had outlived its instance", timestamp=now())


def _volumes_cost(volumes: tuple[Volume, ...]) -> float:
    """Of those that could not be deleted: about, as for 100 GB each."""
    return round(sum(machine_types.GB_PER_HOUR * 100 for volume in volumes if volume.status == "failed"), 4)


def _instances(ec2: Any, **query: Any) -> list[dict[str, Any]]:
    pages = ec2.get_paginator("describe_instances").paginate(**query)
    return [instance for page in pages for reservation in page["Reservations"] for instance in reservation["Instances"]]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
