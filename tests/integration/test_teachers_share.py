"""teacher.concurrency is the bound of a whole run: the API tells each of its tasks which part is its own."""

from typing import Any

import pytest

from reflux.client import Client
from reflux.protocol import Assignment, Share
from tests.integration.by_hand import SPEC, HandWorker

SHARDED: dict[str, Any] = SPEC | {"teacher": {"concurrency": 10}, "teaching": {"shard_size": 1}}


@pytest.fixture
def teaching(client: Client, worker: HandWorker) -> list[Assignment]:
    """Three claimed shards of a run that is teaching."""
    run = client.create(SHARDED)
    first = worker.work(run.id, until=lambda command: command.kind == "teach")
    assert first is not None
    return [first, worker.take(run.id), worker.take(run.id)]


def parts(worker: HandWorker, tasks: list[Assignment]) -> list[int]:
    return [worker.beat(task).share.part(task.spec.teacher.concurrency) for task in tasks]


def test_a_claim_and_each_beat_tell_the_share(worker: HandWorker, teaching: list[Assignment]) -> None:
    assert [task.share for task in teaching] == [Share(), Share(place=1, of=2), Share(place=2, of=3)]
    assert parts(worker, teaching) == [3, 3, 4]
    assert worker.complete(teaching[0]).accepted
    assert parts(worker, teaching[1:]) == [5, 5]
    assert worker.stopped(teaching[1], handed_back=True).accepted
    assert parts(worker, teaching[2:]) == [10]


def test_tasks_of_another_kind_and_of_other_runs_share_nothing(
    client: Client, worker: HandWorker, teaching: list[Assignment]
) -> None:
    other = worker.take(client.create(SHARDED).id)
    assert other.command.kind == "preflight"
    assert worker.beat(other).share == Share()
    assert parts(worker, teaching) == [3, 3, 4]
