"""From a command to its doorbell."""

from typing import get_args

import pytest

from reflux import queues
from reflux.commands import Command

BY_PEOPLE = "review"
KINDS = {command.model_fields["kind"].default for command in get_args(get_args(Command)[0])} - {BY_PEOPLE}
SERVICES = ("teacher_worker", "evaluator", "gpu_trainer")


def test_every_kind_of_command_has_one_road() -> None:
    assert sorted(queues.ROUTES) == sorted(KINDS)
    assert sorted(kind for service in SERVICES for kind in queues.kinds(service)) == sorted(KINDS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_task_is_named_after_its_service_and_kind(kind: str) -> None:
    assert queues.ROUTES[kind] == f"{queues.service(kind)}.{kind}"
    assert queues.service(kind) in SERVICES


def test_only_the_gpu_trainer_trains_and_generates() -> None:
    assert set(queues.kinds("gpu_trainer")) == {"train", "run_job", "generate", "export_model"}


def test_messages_are_json_acknowledged_early_and_never_answered() -> None:
    app = queues.make_app("memory://")
    assert app.conf.task_serializer == "json"
    assert app.conf.accept_content == ["json"]
    assert not app.conf.task_acks_late
    assert app.conf.task_ignore_result


def test_a_ring_is_three_words_on_the_queue_of_its_service() -> None:
    app = queues.make_app("memory://")
    queues.ring(app, task_id=17, run_id="r1", kind="score")
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("evaluator").get(timeout=5)
    assert message.headers["task"] == "evaluator.score"
    assert message.payload[:2] == [[], {"task_id": 17, "run_id": "r1", "kind": "score"}]
