"""SageMaker: one training job for one run, whose container is the gpu_trainer.

Pending ─► Starting ─► Downloading ─► Training ─► Uploading ─► Completed | Failed | Stopped
             ▲                            │
             └──────── Interrupted ◄──────┘      a spot machine was taken back; the job starts again by itself

A job is found by its name, which is its intent's token. A name is used up for ever: where a job failed before it could work,
the next attempt at the same intent makes token-2.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import boto3
from botocore.exceptions import ClientError

from reflux import machine_types
from reflux.artifacts import run_folder
from reflux.errors import POLICIES, RefluxError, Retriable, Terminal
from reflux.machines import TAG_DEPLOYMENT, TAG_RUN, TAG_TOKEN, Ended, Machine, Place
from reflux.spec import Compute, RunSpec
from services.teacher_worker.cloud.ec2 import CONFIG, END_SECONDS, THROTTLED, Rest, now
from services.teacher_worker.cloud.errors import code_of, problem, reason_of, speaking, translated

LOOK_SECONDS = 5.0
FINISH_SECONDS = 30.0  # a job that has nothing left to do ends by itself, and keeps its model.tar.gz
AT_WORK = ("Training", "Uploading")
OVER = ("Completed", "Failed", "Stopped")
LONGEST_SECONDS = 28 * 24 * 3600  # that SageMaker lets a job run
SPARE_SECONDS = 3600.0  # beyond the run's own limits, so that those are reached first
COMMAND = ["python", "-m", "services.gpu_trainer"]
CHANNEL = "training"
SHOWN = 100  # hyperparameters that a job can have
SHOWN_LENGTH = 2500  # of one

Job = dict[str, Any]  # as DescribeTrainingJob tells it


def client(region: str) -> Any:
    return boto3.client("sagemaker", region_name=region, config=CONFIG)


def check(compute: Compute, store: str) -> None:
    """Terminal for what SageMaker would refuse, or could not do."""
    if not store.startswith("s3://"):
        hint = "Let REFLUX_ARTIFACTS_URL, or artifacts_url of the file that REFLUX_MACHINES names, be an s3:// address."
        raise Terminal("invalid_spec", f"A SageMaker job can't reach the artifact store at {store}", hint)
    if bool(compute.subnet_id) != bool(compute.security_group_ids):
        raise Terminal("invalid_spec", "compute.subnet_id and compute.security_group_ids go together, or neither is set")


def make(machine: Machine, order: dict[str, Any]) -> str:
    """The name of the intent's job, made now or before. It can be made once, whoever asks how often."""
    with speaking(f"A job on {order['ResourceConfig']['InstanceType']} in {machine.region}"):
        sagemaker = client(machine.region)
        before = _known(sagemaker, machine)
        if before and before[-1]["TrainingJobStatus"] == "InProgress":
            return str(before[-1]["TrainingJobName"])
        name = _name(machine, len(before) + 1)
        try:
            sagemaker.create_training_job(**order, TrainingJobName=name)
        except ClientError as error:
            found = _described(sagemaker, name) if code_of(error) == "ResourceInUse" else None
            if found is None or not _is_ours(sagemaker, machine, found):
                raise
        return name


def request(machine: Machine, compute: Compute, spec: RunSpec, environment: dict[str, str], image: str) -> dict[str, Any]:
    """The call without its job's name. Nothing of it is logged: it holds the machine's key."""
    folder = f"{environment['REFLUX_ARTIFACTS_URL'].rstrip('/')}/{run_folder(machine.run_id)}/sagemaker"
    limits = spec.limits
    seconds = min(limits.max_runtime.total_seconds() + limits.cleanup_seconds + SPARE_SECONDS, LONGEST_SECONDS)
    longest = min(seconds, compute.max_wait.total_seconds()) if compute.spot else seconds
    order: dict[str, Any] = {
        "AlgorithmSpecification": {"TrainingImage": image, "TrainingInputMode": "File", "ContainerEntrypoint": COMMAND},
        "RoleArn": compute.role_arn,
        "HyperParameters": hyperparameters(spec),
        "Environment": environment,
        "OutputDataConfig": {"S3OutputPath": folder},
        "ResourceConfig": {"InstanceType": compute.instance_type, "InstanceCount": 1, "VolumeSizeInGB": compute.volume_gb},
        "StoppingCondition": {"MaxRuntimeInSeconds": int(longest)},
        "Tags": [{"Key": key, "Value": value} for key, value in {**compute.tags, **machine.tags}.items()],
    }
    if spec.recipe == "job" and (spec.job.inputs_uri or "").startswith("s3://"):
        source = {"S3DataType": "S3Prefix", "S3Uri": f"{str(spec.job.inputs_uri).rstrip('/')}/"}
        source["S3DataDistributionType"] = "FullyReplicated"
        order["InputDataConfig"] = [{"ChannelName": CHANNEL, "DataSource": {"S3DataSource": source}}]
    if compute.subnet_id:
        order["VpcConfig"] = {"Subnets": [compute.subnet_id], "SecurityGroupIds": list(compute.security_group_ids)}
    if compute.spot:
        order["EnableManagedSpotTraining"] = True
        order["StoppingCondition"]["MaxWaitTimeInSeconds"] = int(compute.max_wait.total_seconds())
        order["CheckpointConfig"] = {"S3Uri": f"{folder}/checkpoints"}
    return order


def hyperparameters(spec: RunSpec) -> dict[str, str]:
    """What SageMaker shows of a run, and gives a job's command as its own: each value a string, or JSON."""
    if spec.recipe == "job":
        values: dict[str, Any] = dict(spec.job.parameters)
    else:
        values = {"student": spec.student.model} | spec.training.model_dump(mode="json")
    told = {name[:256]: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return {name: value for name, value in list(told.items())[:SHOWN] if len(value) <= SHOWN_LENGTH}


def seen(machine: Machine) -> tuple[str, RefluxError | None]:
    """The state of the intent's latest job, and why it will never work, where that is so."""
    with speaking(f"Looking at {machine.id or machine.token}"):
        found = _known(client(machine.region), machine)
    if not found:
        return "Pending", None
    job = found[-1]
    return str(job["SecondaryStatus"]), None if job["TrainingJobStatus"] == "InProgress" else why_over(job)


def why_over(job: Job) -> RefluxError:
    """What a job's end means for a run that still needs it."""
    name, state = job["TrainingJobName"], job["SecondaryStatus"]
    log = f"Its log is in CloudWatch: /aws/sagemaker/TrainingJobs, {name}."
    if job["TrainingJobStatus"] == "Failed":
        reason = str(job.get("FailureReason", "no reason was given"))
        code = reason_of(reason)
        return problem(code, f"{name} failed: {reason}", f"{POLICIES[code].hint} {log}")
    if state == "MaxWaitTimeExceeded":
        hint = "Raise compute.max_wait, or set compute.spot: false."
        return problem("provider_refused", f"{name} waited for spot machines as long as it may", hint)
    if job["TrainingJobStatus"] == "Completed":
        return problem("container_failed", f"{name} ended before its worker had said a word", f"Look at its image. {log}")
    return problem("instance_lost", f"{name} was over before its work was done: {state}", f"Look who has stopped it. {log}")


def standing(machine: Machine) -> list[Ended]:
    """What of the intent still lives, as it is: nothing is touched."""
    with speaking(f"Jobs of {machine.run_id} in {machine.region}"):
        found = [job for job in _known(client(machine.region), machine) if job["TrainingJobStatus"] == "InProgress"]
    return [
        Ended(
            token=machine.token,
            id=job["TrainingJobName"],
            status="failed",
            error=f"it is {job['SecondaryStatus']}",
            note=job["ResourceConfig"]["InstanceType"],
            cost_per_hour=_cost([job]),
            timestamp=now(),
        )
        for job in found
    ]


def strays(place: Place) -> list[Machine]:
    """Every job there that carries this deployment's tag and lives."""
    machines = []
    with speaking(f"Jobs in {place.region}"):
        sagemaker = client(place.region)
        pages = sagemaker.get_paginator("list_training_jobs").paginate(NameContains="reflux-", StatusEquals="InProgress")
        for job in (job for page in pages for job in page["TrainingJobSummaries"]):
            tags = _tags(sagemaker, job["TrainingJobArn"])
            if tags.get(TAG_DEPLOYMENT) == place.deployment and TAG_RUN in tags and TAG_TOKEN in tags:
                machines.append(
                    Machine(
                        token=tags[TAG_TOKEN], run_id=tags[TAG_RUN], kind="sagemaker_job", region=place.region,
                        deployment=place.deployment, id=job["TrainingJobName"],
                    )
                )  # fmt: skip
    return machines


def end(machine: Machine, *, rest: Rest = time.sleep, wait_seconds: float = END_SECONDS) -> Ended:
    """Check, let finish what is finishing, stop, wait. Never raises: what went wrong is part of the answer. May be done again."""
    try:
        with speaking(f"Stopping {machine.id or machine.token}"):
            return _end(machine, rest, wait_seconds)
    except RefluxError as error:
        return Ended(token=machine.token, id=machine.id, status="failed", error=str(error), cost_per_hour=None, timestamp=now())


def _end(machine: Machine, rest: Rest, wait_seconds: float) -> Ended:
    sagemaker = client(machine.region)
    jobs = [job for job in _known(sagemaker, machine) if _is_ours(sagemaker, machine, job)]
    if not jobs:
        note = "the provider knows no such job"
        return Ended(token=machine.token, id=machine.id, status="not_found", note=note, timestamp=now())
    jobs = _wait(sagemaker, jobs, rest, min(FINISH_SECONDS, wait_seconds), _has_finished)
    name, error, notes = str(jobs[-1]["TrainingJobName"]), None, []
    try:
        notes = [_stop(sagemaker, job, rest) for job in jobs if job["TrainingJobStatus"] == "InProgress"]
        jobs = _wait(sagemaker, _again(sagemaker, jobs), rest, wait_seconds, _is_over)
    except ClientError as refused:
        error = str(translated(refused, f"Stopping {name}"))
    stubborn = [job for job in jobs if job["TrainingJobStatus"] == "InProgress"]
    if stubborn and not error:
        error = f"it is still {stubborn[-1]['SecondaryStatus']}"
    over = all(map(_is_over, jobs))
    return Ended(
        token=machine.token,
        id=name,
        status="failed" if error else "terminated" if over else "terminating",
        error=error,
        note="; ".join([*filter(None, notes), *_told(jobs[-1])]) or None,
        cost_per_hour=_cost(stubborn),
        timestamp=now(),
    )


def _stop(sagemaker: Any, job: Job, rest: Rest) -> str | None:
    """A note where there is something to say. Throttled stops are tried again; what is over or stopping is fine."""
    for wait in (*THROTTLED, None):
        try:
            sagemaker.stop_training_job(TrainingJobName=job["TrainingJobName"])
            return None
        except ClientError as error:
            if _is_not_found(error):
                return "was gone before"
            if code_of(error) == "ValidationException":  # "The request was rejected because the training job is in status …"
                state = (_described(sagemaker, job["TrainingJobName"]) or job)["TrainingJobStatus"]
                if state != "InProgress":
                    return "was stopping already" if state == "Stopping" else "was over already"
            if wait is None or not isinstance(translated(error, ""), Retriable):
                raise
            rest(wait)
    return None


def _wait(sagemaker: Any, jobs: list[Job], rest: Rest, seconds: float, settled: Callable[[Job], bool]) -> list[Job]:
    """The jobs as they are once all are `settled`, or the time is over."""
    until = time.monotonic() + seconds
    while not all(settled(job) for job in jobs) and time.monotonic() < until:
        rest(LOOK_SECONDS)
        jobs = _again(sagemaker, jobs)
    return jobs


def _is_over(job: Job) -> bool:
    return job["TrainingJobStatus"] in OVER


def _has_finished(job: Job) -> bool:
    """Its worker is gone, and its model is stored; or it never came so far."""
    return _is_over(job) or job["SecondaryStatus"] not in AT_WORK


def _again(sagemaker: Any, jobs: list[Job]) -> list[Job]:
    return [_described(sagemaker, job["TrainingJobName"]) or job for job in jobs]


def _told(job: Job) -> list[str]:
    """How a job ended, what it was billed for, and what SageMaker has kept of it."""
    if not _is_over(job):
        return []
    reason = f": {job['FailureReason']}" if job.get("FailureReason") else ""
    told = [f"{job['SecondaryStatus']}{reason}"[:500]]
    if phases := [step for step in job.get("SecondaryStatusTransitions", []) if step.get("EndTime")]:
        lasted = ((step["Status"], (step["EndTime"] - step["StartTime"]).total_seconds()) for step in phases)
        told.append(", ".join(f"{status} {seconds:.0f} s" for status, seconds in lasted if status not in OVER))
    if billed := job.get("BillableTimeInSeconds"):
        told.append(f"billed for {billed} s")
    if kept := job.get("ModelArtifacts", {}).get("S3ModelArtifacts"):
        told.append(f"{kept}")
    return told


def _cost(jobs: list[Job]) -> float | None:
    """Of jobs that go on; None: a price is not known."""
    resources = [job["ResourceConfig"] for job in jobs]
    prices = [machine_types.per_hour(resource["InstanceType"], resource["VolumeSizeInGB"]) for resource in resources]
    return None if None in prices else round(sum(price or 0.0 for price in prices), 4)


def _name(machine: Machine, number: int) -> str:
    return machine.token if number == 1 else f"{machine.token}-{number}"


def _known(sagemaker: Any, machine: Machine) -> list[Job]:
    """Every job that has one of the intent's names, oldest first."""
    jobs: list[Job] = []
    while found := _described(sagemaker, _name(machine, len(jobs) + 1)):
        jobs.append(found)
    return jobs


def _described(sagemaker: Any, name: str) -> Job | None:
    try:
        return Job(sagemaker.describe_training_job(TrainingJobName=name))
    except ClientError as error:
        if _is_not_found(error):
            return None
        raise


def _is_not_found(error: ClientError) -> bool:
    message = str(error.response.get("Error", {}).get("Message", "")).lower()
    return code_of(error) == "ResourceNotFound" or (code_of(error) == "ValidationException" and "not found" in message)


def _is_ours(sagemaker: Any, machine: Machine, job: Job) -> bool:
    return _tags(sagemaker, job["TrainingJobArn"]).get(TAG_TOKEN) == machine.token


def _tags(sagemaker: Any, arn: str) -> dict[str, str]:
    pages = sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn)
    return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}
