"""Many runs and few workers: whose turn it is."""

from collections import Counter
from collections.abc import Iterator
from itertools import count

import pytest
from sqlalchemy import select

from reflux.protocol import Assignment, Claim
from reflux.queues import kinds
from services.api import tasks
from services.api.tables import TaskRow
from tests.integration.desk import Desk, Work, completing, handing_back

numbers = count()


@pytest.fixture(autouse=True)
def alone(desk: Desk) -> Iterator[None]:
    """Runs of other tests would have their turns too."""
    desk.clear()
    yield
    desk.clear()


def rung(desk: Desk, service: str) -> Assignment | None:
    """What a free worker gets for a ring."""
    return desk.claim(0, service=service, token=str(next(numbers)))


def waiting(desk: Desk, name: str) -> set[str]:
    query = select(TaskRow.run_id).where(TaskRow.status == "ready", TaskRow.kind.in_(kinds(name)))
    return set(desk.do(lambda session: session.scalars(query).all()))


def test_no_run_waits_for_more_than_one_task_of_each_other(desk: Desk) -> None:
    """Six runs come one after the other to one worker of each service. Each third task for the GPU is handed back at first."""
    runs: list[str] = []
    waited: dict[str, Counter[str]] = {}
    turns = 0
    while len(runs) < 6 or waiting(desk, "gpu_trainer") or waiting(desk, "evaluator") or waiting(desk, "teacher_worker"):
        if len(runs) < 6:
            runs.append(desk.create(refining={"max_epochs": 1}))
        for name in ("teacher_worker", "evaluator", "gpu_trainer"):
            others = waiting(desk, name)
            given = rung(desk, name)
            assert (given is None) == (not others)
            if given is None:
                continue
            if name == "gpu_trainer":
                turns += 1
                waited.pop(given.run_id, None)
                for other in others - {given.run_id}:
                    waited.setdefault(other, Counter())[given.run_id] += 1
                    assert waited[other][given.run_id] == 1, f"{other} waits while {given.run_id} has two turns"
            back = name == "gpu_trainer" and given.attempt == 1 and turns % 3 == 0
            assert desk.do(handing_back(given) if back else completing(given)).accepted
    assert {desk.run(run_id).outcome for run_id in runs} == {"succeeded"}


def test_a_run_with_many_shards_leaves_workers_to_others(desk: Desk) -> None:
    many = desk.create(teaching={"shard_size": 1})
    desk.work(many, lambda command: command.kind == "prepare")
    (prepare,) = desk.tasks(many, "claimed")
    assert desk.do(completing(desk.held(prepare.id))).accepted
    assert len(desk.tasks(many, "ready")) == 4
    first = rung(desk, "teacher_worker")
    late = desk.create()
    second = rung(desk, "teacher_worker")
    assert first is not None
    assert second is not None
    assert (first.run_id, second.run_id) == (many, late)


def test_any_ring_gives_a_task_whose_own_ring_was_lost(desk: Desk) -> None:
    runs = [desk.create(), desk.create()]
    given = [rung(desk, "teacher_worker") for _ in range(3)]
    assert [g and g.run_id for g in given] == [*runs, None]
    assert rung(desk, "gpu_trainer") is None


def test_a_claim_that_is_asked_again_is_answered_again(desk: Desk) -> None:
    desk.create()
    desk.create()
    first = desk.claim(0, service="teacher_worker", token="ring-1")
    assert first is not None
    assert desk.claim(0, service="teacher_worker", token="ring-1") == first


def test_two_workers_at_once_get_two_tasks(desk: Desk) -> None:
    """Both would have the first; the second waits until that is gone, and has the other."""
    runs = [desk.create(), desk.create()]

    def claiming(worker: str) -> Work[Assignment | None]:
        body = Claim(worker=worker, incarnation="a", token=worker, service="teacher_worker")
        return lambda session: tasks.claim(session, 0, body, desk.settings)

    given = desk.race(claiming("one"), claiming("two"))
    assert [g and g.run_id for g in given] == runs


def test_the_gpu_work_of_a_run_with_its_own_machine_is_nobody_s_turn_here(desk: Desk) -> None:
    elsewhere = desk.create(compute={"kind": "ec2"})
    (provision,) = desk.work(elsewhere, lambda command: command.kind == "provision")
    assert desk.do(completing(provision)).accepted
    while given := rung(desk, "teacher_worker"):
        assert desk.do(completing(given)).accepted
    assert waiting(desk, "gpu_trainer") == {elsewhere}
    assert rung(desk, "gpu_trainer") is None
