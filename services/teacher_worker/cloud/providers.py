"""Which module knows a machine, by its kind."""

import time

from reflux.errors import RefluxError
from reflux.machines import Ended, Machine, Place
from services.teacher_worker.cloud import ec2, sagemaker


def end(machine: Machine, *, rest: ec2.Rest = time.sleep, wait_seconds: float = ec2.END_SECONDS) -> Ended:
    of_its_kind = sagemaker.end if machine.kind == "sagemaker_job" else ec2.end
    return of_its_kind(machine, rest=rest, wait_seconds=wait_seconds)


def seen(machine: Machine) -> tuple[str, RefluxError | None]:
    """Its state in the provider's word, and why it will never work, where that is so."""
    return sagemaker.seen(machine) if machine.kind == "sagemaker_job" else ec2.seen(machine)


def standing(machine: Machine) -> list[Ended]:
    return sagemaker.standing(machine) if machine.kind == "sagemaker_job" else ec2.standing(machine)


def living(place: Place) -> list[Machine]:
    return sagemaker.strays(place) if place.kind == "sagemaker_job" else ec2.strays(place)
