"""Whatever dies, hangs, forgets or lies: the run ends well, with the samples of its undisturbed twin."""

from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from reflux.artifacts import Artifacts
from reflux.client import Client
from reflux.local.stack import Stack
from reflux.views import RunView
from tests.e2e.tiny import tiny_spec
from tests.faults.cells import FAULTS, SMOKE, STAGES, Fault
from tests.faults.harm import Ground
from tests.faults.samples import Samples
from tests.faults.table import Cell
from tests.integration.by_hand import eventually

CASES = [
    pytest.param(fault, stage, id=f"{fault.name}, {stage}", marks=() if (fault.name, stage) in SMOKE else pytest.mark.long)
    for fault in FAULTS
    for stage in fault.stages
]


@pytest.mark.parametrize(("fault", "stage"), CASES)
def test_the_run_ends_well(
    request: pytest.FixtureRequest, student: Path, twin: Samples, calm_run: RunView, cells: list[Cell], fault: Fault, stage: str
) -> None:
    ground: Ground = request.getfixturevalue(fault.ground)
    cell = Cell(fault.name, stage, whole=fault.whole)
    cells.append(cell)
    with Client(ground.stack.api_url, ground.stack.keys["operator"], tries=10) as client:  # a busy machine starts an API slowly
        forget_calls(ground.stack)
        try:
            run = disturbed(client, ground, fault, stage, student)
        finally:
            ground.mend()
            for left in client.runs().data:  # by a cell that broke off: its calls would count as the next one's
                if not left.terminal:
                    client.abort(left.id)
                    client.wait(left.id, 120)
        fill(cell, ground.stack, client, run, twin, calm_run)
    assert cell.survived, (cell, run.error)


def disturbed(client: Client, ground: Ground, fault: Fault, stage: str, student: Path) -> RunView:
    if fault.from_start:
        fault.harm(ground)
    run = client.create(tiny_spec(student, **fault.spec))
    if not fault.from_start:
        eventually(lambda: STAGES[stage] in claimed(client, run.id), 240, f"{stage} never began")
        fault.harm(ground)
    run = client.wait(run.id, 500)
    assert all(trace() for trace in ground.traces), f"{fault.name} has met nothing"
    types = {event.type for event in client.events(run.id, limit=1000).data}
    assert not fault.leaves or fault.leaves in types, f"{fault.name} has left no {fault.leaves}"
    return run


def fill(cell: Cell, stack: Stack, client: Client, run: RunView, twin: Samples, calm: RunView) -> None:
    cell.outcome = run.outcome or "never ended"
    cell.seconds = seconds(run) - seconds(calm)
    made = Samples.of(Artifacts(stack.artifacts_url), run)
    cell.lost, cell.doubled = made.lost(twin), made.doubled(twin)
    cell.changed = len(set(twin.found) - set(made.found)) - cell.lost
    cell.at_risk = run.usage.at_risk
    served = Counter(call["text"] for call in calls(stack) if call["status"] == 200)
    cell.paid_twice = served.total() - len(served)
    events = client.events(run.id, limit=1000).data
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    trained = sum(event.type == "adapter_trained" for event in events)
    cell.trained_twice = max(0, trained - len(calm.epochs))


def claimed(client: Client, run_id: str) -> set[str]:
    return {event.body["key"] for event in client.events(run_id, limit=1000).data if event.type == "task_claimed"}


def seconds(run: RunView) -> float:
    assert run.ended_at
    return (run.ended_at - run.created_at).total_seconds()


def calls(stack: Stack) -> list[dict[str, Any]]:
    log: dict[str, Any] = httpx.get(f"http://127.0.0.1:{stack.ports['teacher']}/_log").json()
    return list(log["calls"])


def forget_calls(stack: Stack) -> None:
    httpx.delete(f"http://127.0.0.1:{stack.ports['teacher']}/_log").raise_for_status()
