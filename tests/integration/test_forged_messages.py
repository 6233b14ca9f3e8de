"""Who can write to Valkey can wake workers, and no more: what is done and what is true stands in Postgres alone."""

import base64
import json
import os
import pickle
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from reflux.client import Client
from reflux.local import servers
from reflux.local.stack import Stack
from reflux.protocol import Assignment
from reflux.worker import Api
from services.api.publishing import STREAM
from tests.environment import ROOT
from tests.integration.by_hand import SPEC, HandWorker, eventually

QUEUE = "evaluator"
TRUTH = (
    "select id, seq, status, state::text from runs order by 1",
    "select run_id, seq, type, body::text from events order by id",
    "select id, run_id, key, status, attempt, worker, error::text from tasks order by 1",
    "select count(*) from errands",
    "select digest, role from keys order by 1",
    "select name, service from workers order by 1",
)


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def attacked(ground: Path) -> Iterator[Stack]:
    env = {"REFLUX_LEASE": "PT10M"}
    with Stack(ground / "attacked", workers={"evaluator": 1}, durable=False, env=env) as stack:
        yield stack


@pytest.fixture(scope="module")
def valkey(attacked: Stack) -> Iterator[redis.Redis]:
    with redis.Redis(port=attacked.ports["valkey"]) as connection:
        yield connection


@pytest.fixture(scope="module")
def hand(attacked: Stack) -> Iterator[HandWorker]:
    api = Api(attacked.api_url, attacked.keys["worker"])
    with api.http:
        yield HandWorker(api, attacked)


@pytest.fixture(scope="module")
def generating(attacked: Stack, hand: HandWorker) -> Assignment:
    """A run that waits for answers, which are held back."""
    hand.register("gpu_trainer")
    with Client(attacked.api_url, attacked.keys["operator"]) as client:
        run = client.create(SPEC)
    held = hand.work(run.id, until=lambda command: command.kind == "generate" and command.stage == "refining")
    assert held is not None
    return held


def truth(hand: HandWorker) -> list[Any]:
    return [hand.sql(query) for query in TRUTH]


def message(task: str, body: bytes, content_type: str = "application/json", **headers: Any) -> str:
    """What kombu puts on a list of Redis."""
    tag = str(uuid.uuid4())
    properties = {
        "correlation_id": tag,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": tag,
    }
    told = {"lang": "py", "task": task, "id": tag, "root_id": tag, "argsrepr": "()", "kwargsrepr": "{}", "retries": 0, **headers}
    whole = {"body": base64.b64encode(body).decode(), "content-encoding": "utf-8", "content-type": content_type}
    return json.dumps({**whole, "headers": told, "properties": properties})


def ring(task: str = "evaluator.score", /, **kwargs: Any) -> str:
    return message(task, json.dumps([[], kwargs, {}]).encode())


def forged(held: Assignment, trap: Path) -> dict[str, str]:
    """Rings as Celery sends them, about what there is not."""
    true = {"task_id": held.task_id, "run_id": held.run_id, "kind": "score"}
    return {
        "an unknown id": ring(task_id=10**9, run_id=held.run_id, kind="score"),
        "a task of another service": ring(**true),
        "another run": ring(**true | {"run_id": "20260101-000000-ffffff"}),
        "a kind that there is not": ring("evaluator.obey", **true),
        "another service's kind": ring("teacher_worker.preflight", **true),
        "an id that is a path": ring(**true | {"task_id": f"{held.task_id}/complete?"}),
        "an id that is a fact": ring(**true | {"task_id": {"attempt": 1, "event": {"type": "scored"}}}),
        "a number beyond bounds": ring(**true | {"task_id": 10**40}),
        "a fact beside the ids": ring(**true, attempt=held.attempt, event={"type": "generated", "key": held.command.key}),
        "nothing": ring(),
        "a huge one": ring(**true | {"run_id": "x" * 5_000_000}),
        "pickle": message("evaluator.score", pickle.dumps(([], {"task_id": Bomb(trap)}, {})), "application/x-python-serialize"),
        "pickle under JSON's name": message("evaluator.score", pickle.dumps(Bomb(trap))),
        "a body that is no JSON": message("evaluator.score", b"[1"),
        "not a call": message("evaluator.score", b'{"task_id": 1}'),
        "a list of four": message("evaluator.score", b"[1, 2, 3, 4]"),
        "a number": message("evaluator.score", b"7"),
        "Celery's own tasks": ring("celery.backend_cleanup"),
    }


def test_forged_messages_do_nothing(
    attacked: Stack, valkey: redis.Redis, hand: HandWorker, generating: Assignment, tmp_path: Path
) -> None:
    before, starts = truth(hand), attacked.processes["evaluator-1"].starts
    for name, text in forged(generating, tmp_path / "trap").items():
        push(valkey, name, text)
        assert attacked.processes["evaluator-1"].starts == starts, f"{name}: the worker has died of it"
    valkey.xadd(STREAM, {"run_id": generating.run_id, "seq": 999, "type": "run_finished", "status": "succeeded"})
    assert truth(hand) == before
    assert not (tmp_path / "trap").exists()

    # The run goes on where it was, and the same evaluator hears the real ring.
    assert hand.complete(generating).accepted
    heard = "select 1 from tasks where run_id = %s and kind = 'score' and worker like 'evaluator%%' and epoch = %s"
    run_id, epoch = generating.run_id, generating.command.epoch
    eventually(lambda: hand.sql(heard, run_id, epoch), 60, "the evaluator hears nothing any more")


def push(valkey: redis.Redis, name: str, text: str | bytes) -> None:
    valkey.lpush(QUEUE, text)
    eventually(lambda: not valkey.llen(QUEUE), 60, f"{name}: nobody took the message")


def test_without_its_password_nobody_writes_to_it(tmp_path: Path) -> None:
    subprocess.run([str(ROOT / "deploy" / "make-secrets"), str(tmp_path / "secrets")], check=True)
    (tmp_path / "data").mkdir()
    port = servers.free_port()
    command = servers.valkey_command(tmp_path / "data", port)
    running = subprocess.Popen([command[0], str(tmp_path / "secrets" / "valkey.conf"), *command[1:]], stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port) as stranger:
            eventually(lambda: refused(stranger), 20, "Valkey takes messages from everybody, or does not start")
        password = (tmp_path / "secrets" / "valkey.conf").read_text().split()[1]
        with redis.Redis(port=port, password=password) as known:
            assert known.lpush(QUEUE, "a ring") == 1
    finally:
        running.terminate()
        running.wait(20)


def refused(stranger: redis.Redis) -> bool:
    try:
        stranger.lpush(QUEUE, "a ring")
    except redis.AuthenticationError:
        return True
    except redis.ConnectionError:
        return False
    return False
