"""Which module knows a machine, by its kind."""

import time

from reflux.errors import RefluxError, Terminal
from reflux.machines import Ended, Machine, Place
from services.teacher_worker.cloud import ec2


def check(kind: str) -> None:
    """Terminal for a kind of machine that this version can't make."""
    if kind != "ec2":
        raise Terminal("not_supported", f"This version makes no machines of compute {kind}", "Use ec2, or local.")


def end(machine: Machine, *, rest: ec2.Rest = time.sleep, wait_seconds: float = ec2.END_SECONDS) -> Ended:
    if machine.kind == "ec2_instance":
        return ec2.end(machine, rest=rest, wait_seconds=wait_seconds)
    why = f"this version can't end a {machine.kind}"
    return Ended(token=machine.token, id=machine.id, status="failed", error=why, cost_per_hour=None, timestamp=ec2.now())


def seen(machine: Machine) -> tuple[str, RefluxError | None]:
    """Its state in the provider's word, and why it will never work, where that is so."""
    if machine.kind == "ec2_instance":
        return ec2.seen(machine)
    return "unknown", None


def standing(machine: Machine) -> list[Ended]:
    return ec2.standing(machine) if machine.kind == "ec2_instance" else []


def living(place: Place) -> list[Machine]:
    return ec2.strays(place) if place.kind == "ec2_instance" else []
