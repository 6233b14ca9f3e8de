"""The command Provision: make the run's machine, and wait until its worker has spoken."""

import shlex
import time

import httpx

from reflux.commands import Provision
from reflux.errors import Retriable
from reflux.events import MachineProvisioned
from reflux.machines import Machine
from reflux.spec import Compute
from reflux.task import Task
from services.teacher_worker.cloud import ec2, machines, providers, sagemaker

LOOK_SECONDS = 2.0

# Nothing of it is logged: it holds the machine's key. A shutdown from within ends the instance.
USER_DATA = """#!/bin/bash
umask 077
cat > /run/reflux.env <<'REFLUX_END'
{variables}
REFLUX_END
gpus=$(command -v nvidia-smi > /dev/null && echo "--gpus all")
docker run --rm $gpus --network host --env-file /run/reflux.env {image} python -m services.gpu_trainer
shutdown -h now
"""


def provision(task: Task) -> MachineProvisioned:
    """May be done again: the machine of this intent is made once. Lost or silent, the run decides on another."""
    command = task.command
    assert isinstance(command, Provision)
    machine = command.machine
    assert machine is not None
    compute = machines.placed(machines.settled(task.spec.compute), command.number)
    task.progress(0, 3, "asking for the machine")
    name = _made(task, machine, compute)
    task.log(f"{name}: {compute.instance_type} in {machine.region}{', spot' if compute.spot else ''}")
    task.progress(1, 3, "the machine starts")
    _wait(task, machine.model_copy(update={"id": name}), compute.start_seconds)
    task.progress(3, 3, "the machine works")
    return MachineProvisioned(key=command.key, resource_id=name)


def _made(task: Task, machine: Machine, compute: Compute) -> str:
    """The provider's name for the machine of this intent."""
    told, image = variables(task, machine), machines.settings().worker_image
    if machine.kind == "sagemaker_job":
        sagemaker.check(compute, told["REFLUX_ARTIFACTS_URL"])
        return sagemaker.make(machine, sagemaker.request(machine, compute, task.spec, told, compute.image or image))
    if compute.spot:
        told["REFLUX_SPOT"] = "1"
    return str(ec2.make(machine, compute, user_data(told, image))["InstanceId"])


def variables(task: Task, machine: Machine) -> dict[str, str]:
    """What the machine's worker needs to know, and no more."""
    place = machines.settings()
    return {
        "REFLUX_POLL": "1",
        "REFLUX_JOBS": "1",  # it exists for this run alone
        "REFLUX_API_URL": place.api_url,
        "REFLUX_ARTIFACTS_URL": place.artifacts_url or task.artifacts.url,
        "REFLUX_WORKER_NAME": machine.token,
        "REFLUX_WORKER_KEY": task.machine_key or "",
        "AWS_REGION": machine.region,
    }


def user_data(told: dict[str, str], image: str) -> str:
    """What an instance runs when it boots."""
    lines = "\n".join(f"{name}={value}" for name, value in told.items())
    return USER_DATA.format(variables=lines, image=shlex.quote(image))


def _wait(task: Task, machine: Machine, seconds: float) -> None:
    """Until the machine's worker has registered."""
    until = time.monotonic() + seconds
    told = ""
    while not _has_spoken(task, machine):
        task.check()
        state, over = providers.seen(machine)
        if over:
            raise over
        if state != told:
            told = state
            task.log(f"{machine.id} is {state}")
            task.progress(2 if state in ("running", "Training") else 1, 3, f"the machine is {state}")
        if time.monotonic() > until:
            raise Retriable("machine_silent", f"{machine.id} is {state}, but its worker said nothing within {seconds:g} s")
        _rest(task, LOOK_SECONDS)


def _has_spoken(task: Task, machine: Machine) -> bool:
    try:
        return any(worker["name"] == machine.token for worker in task.workers())
    except httpx.HTTPError as error:
        raise Retriable("internal", f"The workers' registrations could not be read: {error}") from error


def _rest(task: Task, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        task.check()
        time.sleep(min(0.2, seconds))
