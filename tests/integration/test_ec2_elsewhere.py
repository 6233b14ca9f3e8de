"""Where the next machine is asked for, under which token; and what is still ending when it is looked at."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import yaml

from reflux.commands import Provision
from reflux.errors import RefluxError
from reflux.machines import Machine
from reflux.spec import Compute
from reflux.stages import Stage
from services.teacher_worker.cloud import ec2, machines
from services.teacher_worker.cloud.provision import provision
from tests.cloud import IMAGE, REGION, Cloud
from tests.teacher_tasks import spec, task

pytestmark = pytest.mark.usefixtures("aws")

COMPUTE = Compute(kind="ec2", region=REGION, instance_type="g5.xlarge", image=IMAGE)
numbers = count(1)


@pytest.fixture
def machine(provider: Cloud) -> Iterator[Machine]:
    run_id = f"elsewhere{next(numbers)}"
    yield Machine(token=f"reflux-{run_id}-1", run_id=run_id, kind="ec2_instance", region=REGION, deployment="d1")
    provider.slow = False


def test_each_further_machine_is_asked_for_elsewhere_and_then_from_the_first_place_again() -> None:
    more = {"subnet_id": "subnet-a", "other_subnet_ids": ("subnet-b",), "other_instance_types": ("g6.xlarge",)}
    compute = COMPUTE.model_copy(update=more)
    places = [machines.placed(compute, number) for number in range(1, 6)]
    assert [(place.instance_type, place.subnet_id) for place in places] == [
        ("g5.xlarge", "subnet-a"),
        ("g5.xlarge", "subnet-b"),
        ("g6.xlarge", "subnet-a"),
        ("g6.xlarge", "subnet-b"),
        ("g5.xlarge", "subnet-a"),
    ]
    assert machines.placed(COMPUTE, 7) == COMPUTE, "where the spec names one place, it is tried again"


def test_the_second_machine_is_of_the_second_type(
    provider: Cloud, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Provision as it comes after `no_capacity`; the machine says nothing, so that it ends with a word about it."""
    place = {"api_url": "http://127.0.0.1:9", "worker_image": "w", "ec2": {"image": IMAGE}}
    (tmp_path / "machines.yaml").write_text(yaml.safe_dump(place))
    monkeypatch.setenv("REFLUX_MACHINES", str(tmp_path / "machines.yaml"))
    compute = {"kind": "ec2", "region": REGION, "instance_type": "g5.xlarge", "other_instance_types": ["t3.micro"]}
    order = Provision(stage=Stage.PROVISIONING, number=2, machine=machine)
    ours = task(tmp_path, order, spec(compute=compute | {"start_seconds": 0.1, "spot": True}))
    with pytest.raises(RefluxError) as silent:
        provision(ours)
    assert silent.value.code == "machine_silent"
    [instance] = ec2.living(ec2.client(REGION), machine)
    assert (instance["InstanceType"], instance["InstanceLifecycle"]) == ("t3.micro", "spot")


def test_a_machine_of_an_earlier_attempt_that_was_ended_meanwhile_is_lost(provider: Cloud, machine: Machine) -> None:
    """Its client token is used up: only another intent makes another machine."""
    made = ec2.make(machine, COMPUTE, "")["InstanceId"]
    provider.terminate(made)
    with pytest.raises(RefluxError) as lost:
        ec2.make(machine, COMPUTE, "")
    assert lost.value.code == "instance_lost"


def test_what_is_still_ending_after_the_wait_is_told_as_such_and_looked_at_again(provider: Cloud, machine: Machine) -> None:
    made = ec2.make(machine, COMPUTE, "")["InstanceId"]
    provider.slow = True
    waits: list[float] = []
    first = ec2.end(machine, rest=waits.append, wait_seconds=0)
    assert (first.status, first.error, first.cost_per_hour) == ("terminating", None, 0.0)
    again = ec2.end(machine, rest=waits.append, wait_seconds=0)
    assert (again.status, again.note, provider.calls["TerminateInstances"]) == ("terminating", "was ended before", 1)
    provider.slow = False
    assert (ec2.end(machine, wait_seconds=0).status, provider.states()[made]) == ("terminated", "terminated")
