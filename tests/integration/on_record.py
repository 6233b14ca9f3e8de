"""Machines on record, for tests: runs that are at their Provision."""

from typing import Any

import psycopg

from reflux.client import Client
from reflux.commands import Provision
from reflux.events import CleanedUp
from reflux.local.stack import Stack
from reflux.machines import Ended, Machine
from reflux.protocol import Assignment
from reflux.spec import Compute
from services.teacher_worker.cloud import ec2
from tests.cloud import IMAGE, REGION
from tests.integration.by_hand import SPEC, HandWorker

AT = "2026-01-01T00:00:00Z"
ON_EC2: dict[str, Any] = SPEC | {"compute": {"kind": "ec2", "region": REGION}}


def database(stack: Stack, statement: str) -> list[tuple[Any, ...]]:
    url = f"postgresql://postgres@127.0.0.1:{stack.ports['postgres']}/reflux"
    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute(statement)
        return done.fetchall() if done.description else []


def provisioning(client: Client, worker: HandWorker) -> Assignment:
    """The Provision of a new run, in the worker's hands."""
    run = client.create(ON_EC2)
    worker.complete(worker.take(run.id))
    return worker.take(run.id)


def aborted(client: Client, worker: HandWorker, a: Assignment) -> Assignment:
    """Its CleanUp."""
    client.abort(a.run_id)
    worker.api.post(f"/v1/tasks/{a.task_id}/stopped", {"attempt": a.attempt})
    return worker.take(a.run_id)


def over(worker: HandWorker, cleanup: Assignment, *machines: Ended) -> None:
    worker.complete(cleanup, CleanedUp(key="clean_up", path="p", machines=machines))


def record(stack: Stack, run_id: str) -> tuple[Any, ...]:
    [row] = database(stack, f"select status, external_id, looks from resources where run_id = '{run_id}'")
    return row


def long_ago(stack: Stack, run_id: str) -> None:
    database(stack, f"update runs set ended_at = now() - interval '20 minutes' where id = '{run_id}'")
    database(stack, f"update resources set look_at = now() where run_id = '{run_id}'")


def intended(a: Assignment) -> Machine:
    assert isinstance(a.command, Provision)
    assert a.command.machine is not None
    return a.command.machine


def made(a: Assignment) -> str:
    """The instance of a Provision, at the provider; its id."""
    return str(ec2.make(intended(a), Compute(instance_type="m5.large", image=IMAGE), "")["InstanceId"])
