"""A run on a machine of its own: whatever becomes of it in each stage, nothing is left at the provider, and it says so."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reflux.artifacts import Artifacts
from reflux.client import Client
from reflux.errors import POLICIES
from reflux.views import RunView
from tests.e2e.tiny import EXAMPLES, tiny_spec
from tests.faults.machines import FAULTS, STAGES, Fault
from tests.faults.samples import Samples
from tests.faults.table import Cell
from tests.faults.test_matrix import claimed, fill, forget_calls
from tests.integration.by_hand import eventually
from tests.machines import COMPUTE, Machines, machines

CASES = [pytest.param(fault, stage, id=f"machines: {fault.name}, {stage}") for fault in FAULTS for stage in fault.stages]
pytestmark = pytest.mark.long


@pytest.fixture(scope="session")
def ours(ground: Path) -> Iterator[Machines]:
    workers = {"teacher_worker": 1, "evaluator": 1}
    with machines(ground / "faulty-machines", workers, EXAMPLES / "teacher.jsonl") as there:
        yield there


@pytest.fixture(scope="session")
def calm_on_a_machine(ours: Machines, student: Path) -> RunView:
    with Client(ours.stack.api_url, ours.stack.keys["operator"]) as client:
        return over(client, ours, client.create(spec(student)).id)


def spec(student: Path) -> dict[str, Any]:
    return tiny_spec(student, refining={"max_epochs": 1}) | {"compute": COMPUTE | {"spot": True}}


@pytest.mark.parametrize(("fault", "stage"), CASES)
def test_nothing_is_left_at_the_provider(
    ours: Machines, calm_on_a_machine: RunView, student: Path, cells: list[Cell], fault: Fault, stage: str
) -> None:
    assert calm_on_a_machine.outcome == "succeeded", calm_on_a_machine.error
    cell = Cell(f"machines: {fault.name}", stage, whole=fault.whole)
    cells.append(cell)
    with Client(ours.stack.api_url, ours.stack.keys["operator"]) as client:
        forget_calls(ours.stack)
        run_id = client.create(spec(student)).id
        eventually(lambda: STAGES[stage] in claimed(client, run_id), 600, f"{stage} never began")
        fault.harm(ours, client, run_id)
        run = over(client, ours, run_id)
        ended_well(client, ours, run)
        twin = Samples.of(Artifacts(ours.stack.artifacts_url), calm_on_a_machine)
        events = {event.type: event.body for event in client.events(run_id, limit=1000).data}
        assert not fault.leaves or fault.leaves in events, f"{fault.name} has left no {fault.leaves}"
        assert "machine_lost" not in events or POLICIES[events["machine_lost"]["failure"]["code"]].of_machine
        fill(cell, ours.stack, client, run, twin, calm_on_a_machine)
    assert cell.survived, (cell, run.error)


def over(client: Client, ours: Machines, run_id: str) -> RunView:
    """The run at its end; the next machine is made without its wait."""

    def look() -> RunView | None:
        ours.hurry()
        run = client.run(run_id)
        return run if run.terminal else None

    return eventually(look, 900, f"{run_id} never ended")


def ended_well(client: Client, ours: Machines, run: RunView) -> None:
    """At the provider, in cleanup_status.json, by GET /v1/resources and by `reflux verify-cleanup`."""
    status = json.loads(Artifacts(ours.stack.artifacts_url).get(f"runs/{run.id}/cleanup_status.json"))
    assert (status["manual_action_required"], status["estimated_orphaned_cost_per_hour"]) == (False, 0.0)
    told = [machine for machine in (status["resources"]["ec2_instance"], *status["resources"]["earlier_machines"]) if machine]
    assert {machine["status"] for machine in told} <= {"terminated", "not_found"}, status
    instances = ours.instances(run.id)
    assert {machine["id"] for machine in told if machine["status"] == "terminated"} == set(instances)
    assert set(instances.values()) <= {"terminated"}
    later = f"where id = '{run.id}'"
    ours.sql(f"update runs set ended_at = ended_at - interval '20 minutes' {later}")
    ours.sql(f"update resources set look_at = now() where run_id = '{run.id}'")
    eventually(lambda: not [left for left in client.resources() if left.run_id == run.id], 30, "something is left on record")
    verify = [sys.executable, "-c", "from reflux.cli import main; main()", "verify-cleanup", run.id]
    env = ours.stack.environment() | {"REFLUX_URL": ours.stack.api_url, "REFLUX_KEY": ours.stack.keys["operator"]}
    verified = subprocess.run(verify, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert verified.returncode == 0, verified.stdout
    ours.sql(f"update runs set ended_at = ended_at + interval '20 minutes' {later}")
