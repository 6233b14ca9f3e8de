"""A run that goes on from another's epoch, over the real API."""

import pytest

from reflux.client import ApiError, Client
from reflux.commands import Train
from tests.integration.by_hand import SPEC, HandWorker


@pytest.fixture
def finished(client: Client, worker: HandWorker) -> str:
    run = client.create(SPEC)
    worker.work(run.id)
    assert len(client.run(run.id).epochs) == 2
    return run.id


def test_a_fork_goes_on_after_its_epoch(client: Client, worker: HandWorker, finished: str) -> None:
    made = client.fork(finished, epoch=1, changes={"refining": {"max_epochs": 3}, "name": "forked"})
    assert (made.name, made.epoch, made.status, len(made.epochs)) == ("forked", 1, "queued", 1)
    assert made.origin is not None
    assert (made.origin.run_id, made.origin.epoch) == (finished, 1)
    before = client.run(finished).estimate
    assert before is not None
    assert made.estimate is not None
    assert made.estimate.calls < before.calls, "what was taught before is not bought again"
    a = worker.work(made.id, until=lambda command: isinstance(command, Train))
    assert a is not None
    assert isinstance(a.command, Train)
    assert (a.command.epoch, a.command.adapter_path, a.command.train_path) == (2, "done/train-001", "train.jsonl")
    assert worker.complete(a).accepted
    worker.work(made.id)
    end = client.run(made.id)
    assert (end.outcome, [e.epoch for e in end.epochs]) == ("succeeded", [1, 2, 3])
    kinds = {event.body.get("key") for event in client.events(made.id, limit=1000).data}
    assert not {"prepare", "teach-0000", "train-001"} & kinds, "the dataset and what was taught are taken over"


def test_a_fork_needs_an_epoch_and_room_for_another(client: Client, finished: str) -> None:
    for options, status, code in (
        ({"epoch": 7}, 409, "no_such_epoch"),
        ({}, 422, "invalid_spec"),
        ({"changes": {"data": {}}}, 422, "invalid_spec"),
        ({"changes": {"refining": {"max_epoch": 9}}}, 422, "invalid_spec"),
    ):
        with pytest.raises(ApiError) as refusal:
            client.fork(finished, **options)  # type: ignore[arg-type]
        assert (refusal.value.problem.status, refusal.value.problem.code) == (status, code)
    queued = client.create(SPEC)
    with pytest.raises(ApiError) as refusal:
        client.fork(queued.id)
    assert refusal.value.problem.code == "nothing_to_fork"
