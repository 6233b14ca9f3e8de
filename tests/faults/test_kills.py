"""Whoever is killed, whatever Redis forgets: the run ends well, with the samples of its undisturbed twin."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from reflux.client import Client
from reflux.local.stack import Stack
from tests.e2e.tiny import tiny_spec
from tests.faults.samples import Samples
from tests.integration.by_hand import eventually

Fault = Callable[[Stack], None]


def kill(name: str) -> Fault:
    return lambda stack: stack.kill(name)


def kill_trainers_child(stack: Stack) -> None:
    children = psutil.Process(stack.pid("gpu_trainer-1")).children(recursive=True)
    python = [child for child in children if "services.gpu_trainer.child" in " ".join(child.cmdline())]
    assert python, "the trainer has no child"
    os.kill(python[0].pid, signal.SIGKILL)


def flush(stack: Stack) -> None:
    with redis.Redis(port=stack.ports["valkey"]) as valkey:
        valkey.flushall()


# What every test run shows; `make faults` shows the rest too.
ALWAYS = ("gpu_trainer killed in training", "teacher_worker killed in teaching", "control killed in training", "valkey flushed")
FAULTS: list[tuple[str, Fault, str]] = [
    ("gpu_trainer killed in training", kill("gpu_trainer-1"), "train-001"),
    ("its child killed in training", kill_trainers_child, "train-002"),
    ("gpu_trainer killed in generation", kill("gpu_trainer-1"), "generate-001-student"),
    ("teacher_worker killed in teaching", kill("teacher_worker-1"), "teach-0000"),
    ("teacher_worker killed in refining", kill("teacher_worker-1"), "correct-001-0000-1"),
    ("evaluator killed in scoring", kill("evaluator-1"), "score-001-student-practice-0000"),
    ("control killed in training", kill("control"), "train-001"),
    ("api killed in training", kill("api"), "train-001"),
    ("valkey flushed", flush, "train-001"),
    ("valkey killed in generation", kill("valkey"), "generate-001-student"),
    ("postgres killed in training", kill("postgres"), "train-001"),
]
CASES = [pytest.param(*case, id=name, marks=() if name in ALWAYS else pytest.mark.long) for name, *case in FAULTS]


@pytest.mark.parametrize(("fault", "moment"), CASES)
def test_the_run_ends_well(stack: Stack, client: Client, student: Path, twin: Samples, fault: Fault, moment: str) -> None:
    calls_before = _calls(stack)
    run = client.create(tiny_spec(student))
    eventually(lambda: moment in _claimed(client, run.id), 240, f"{moment} was never claimed")
    fault(stack)
    run = client.wait(run.id, 400)
    assert run.outcome == "succeeded", run.error
    assert Samples.of(stack, run) == twin
    events = client.events(run.id, limit=1000).data
    assert [e.seq for e in events] == list(range(1, len(events) + 1))
    assert len([e for e in events if e.type == "adapter_trained"]) == 2
    assert len(run.epochs) == 2
    bought = _calls(stack) - calls_before
    assert bought <= _calls_of_an_undisturbed_run(twin) + _calls_at_risk(moment)


def _calls_at_risk(moment: str) -> int:
    """Calls in flight when a teacher_worker is killed are paid for, and not recorded; at most `concurrency`."""
    return 10 if moment.startswith(("teach", "correct")) else 0


def _claimed(client: Client, run_id: str) -> set[str]:
    return {e.body["key"] for e in client.events(run_id, limit=1000).data if e.type == "task_claimed"}


def _calls(stack: Stack) -> int:
    log = httpx.get(f"http://127.0.0.1:{stack.ports['teacher']}/_log").json()
    return len(log["calls"])


def _calls_of_an_undisturbed_run(twin: Samples) -> int:
    """The connectivity test, one call a taught prompt, one a correction."""
    return 1 + len(twin.taught) + len(twin.corrections)
