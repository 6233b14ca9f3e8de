"""Machines that are lost while their run lives: how that is noticed, what the run is told, and what becomes of them."""

from datetime import datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, func, select

from reflux.client import Client
from reflux.commands import Provision
from reflux.events import MachineProvisioned
from reflux.local.stack import Stack
from reflux.protocol import Assignment
from services.api import machine_watch
from services.api.settings import Settings
from services.teacher_worker.cloud.sweep import sweep
from tests.cloud import REGION, Cloud
from tests.integration.by_hand import HandWorker, eventually
from tests.integration.on_record import database, intended, made
from tests.metadata import NOTICE

pytestmark = pytest.mark.usefixtures("nothing_left", "aws")

JOB: dict[str, Any] = {"name": "j", "recipe": "job", "job": {"command": ["x"]}, "compute": {"kind": "ec2", "region": REGION}}
LOOK = "update resources set look_at = now()"


class Machine:
    """The worker on a run's own machine, played by hand with the machine's own key."""

    def __init__(self, stack: Stack, provision: Assignment) -> None:
        self.token, self.name = intended(provision).token, made(provision)
        self.url, self.headers = stack.api_url, {"Authorization": f"Bearer {provision.machine_key}"}
        self.post("/v1/workers", {"name": self.token, "service": "machine", "incarnation": "a"})

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, headers=self.headers, timeout=15)

    def claim(self, token: str = "t") -> Assignment | None:
        body = {"worker": self.token, "incarnation": "a", "token": token, "seconds": 0}
        answer = self.post("/v1/tasks/claim", body)
        return Assignment.model_validate(answer.json()) if answer.status_code == 200 else None

    def beat(self, a: Assignment) -> str:
        return str(self.post(f"/v1/tasks/{a.task_id}/beat", {"attempt": a.attempt}).json()["answer"])


Begun = tuple[Machine, Assignment]


@pytest.fixture
def begun(client: Client, worker: HandWorker, control_plane: Stack) -> Begun:
    """A job's machine, and the RunJob that it has claimed, which no slow test loses by its lease."""
    run = client.create(JOB)
    worker.complete(worker.take(run.id))
    provision = worker.take(run.id)
    machine = Machine(control_plane, provision)
    worker.complete(provision, MachineProvisioned(key="provision", resource_id=machine.name))
    worker.complete(worker.take(run.id))
    a = machine.claim()
    assert a is not None
    database(control_plane, f"update tasks set heard_at = now() + interval '1 hour' where id = {a.task_id}")
    return machine, a


def statuses(stack: Stack, run_id: str) -> list[str]:
    rows = database(stack, f"select status from resources where run_id = '{run_id}' order by token")
    return [status for (status,) in rows]


def next_provision(client: Client, worker: HandWorker, stack: Stack, run_id: str) -> Assignment:
    """Without its wait."""
    seconds = f"select round(extract(epoch from due_at - now())) from tasks where run_id = '{run_id}' and kind = 'provision'"
    [[wait]] = database(stack, f"{seconds} and status = 'ready'")
    assert 25 <= wait <= 30
    database(stack, f"update tasks set due_at = now() where run_id = '{run_id}'")
    [task_id] = [task_id for task_id, key in worker.ready(run_id) if key.startswith("provision")]
    a = worker.claim(task_id)
    assert a is not None
    return a


def events(client: Client, run_id: str) -> list[str]:
    return [event.type for event in client.events(run_id, limit=1000).data]


def test_a_machine_that_somebody_ended_is_replaced_and_the_work_goes_on_there(
    client: Client,
    worker: HandWorker,
    control_plane: Stack,
    api: httpx.Client,
    provider: Cloud,
    begun: Begun,
) -> None:
    machine, a = begun
    provider.ec2().terminate_instances(InstanceIds=[machine.name])
    provider.refuse("DescribeInstances", "Unavailable")
    database(control_plane, LOOK)
    assert sweep(api) == 0, "not to be seen is not lost"
    assert client.run(a.run_id).health == "ok"
    database(control_plane, LOOK)
    assert sweep(api) == 1
    shown = client.run(a.run_id)
    assert (shown.status, shown.health) == ("training", "orphaned")
    assert machine.name in shown.warnings[0]
    assert statuses(control_plane, a.run_id) == ["lost", "intended"], "the next is on record before it is made"
    assert machine.beat(a) == "lost"
    assert machine.claim("u") is None, "a lost machine gets no more work"

    provision = next_provision(client, worker, control_plane, a.run_id)
    assert isinstance(provision.command, Provision)
    assert (intended(provision).token, provision.machine_key is None) == (f"reflux-{a.run_id}-2", False)
    another = Machine(control_plane, provision)
    worker.complete(provision, MachineProvisioned(key="provision-2", resource_id=another.name))
    again = another.claim()
    assert again is not None
    assert (again.command.key, again.attempt) == ("run_job", 2)
    assert client.run(a.run_id).health == "recovering"
    sweep(api)
    assert statuses(control_plane, a.run_id) == ["gone", "made"]


def test_a_notice_is_shown_and_the_work_is_given_back_before_the_machine_is_ended(
    client: Client,
    worker: HandWorker,
    control_plane: Stack,
    api: httpx.Client,
    provider: Cloud,
    begun: Begun,
) -> None:
    machine, a = begun
    for _ in range(2):
        assert machine.post("/v1/resources/interrupted", NOTICE).status_code == 204
    told = events(client, a.run_id)
    assert (told.count("spot_interruption"), told.count("machine_lost")) == (1, 1)
    assert client.run(a.run_id).health == "recovering"
    assert machine.beat(a) == "go_on", "it saves what it has"
    assert sweep(api) == 0, "nobody ends it meanwhile"
    assert machine.post(f"/v1/tasks/{a.task_id}/stopped", {"attempt": a.attempt, "handed_back": True}).json()["accepted"]
    assert machine.claim("u") is None
    provision = next_provision(client, worker, control_plane, a.run_id)
    another = Machine(control_plane, provision)
    worker.complete(provision, MachineProvisioned(key="provision-2", resource_id=another.name))
    assert another.claim() is not None
    until_look = f"select extract(epoch from look_at - now()) from resources where token = '{machine.token}'"
    assert 90 < database(control_plane, until_look)[0][0] <= 120
    database(control_plane, LOOK)
    sweep(api)
    assert provider.states()[machine.name] == "terminated"
    foreign = api.post("/v1/resources/interrupted", json=NOTICE)
    assert (foreign.status_code, foreign.json()["code"]) == (403, "wrong_role")


def test_a_spot_machine_that_went_without_a_word_is_known_by_its_reason(
    client: Client, control_plane: Stack, api: httpx.Client, provider: Cloud, begun: Begun
) -> None:
    machine, a = begun
    provider.take_back(machine.name)
    database(control_plane, LOOK)
    sweep(api)
    [lost] = [e.body for e in client.events(a.run_id, limit=1000).data if e.type == "machine_lost"]
    assert (lost["number"], lost["failure"]["code"]) == (1, "spot_interrupted")
    assert "Server.SpotInstanceTermination" in lost["failure"]["message"]


def test_an_impaired_machine_is_lost_only_if_it_is_silent_too(
    client: Client, control_plane: Stack, api: httpx.Client, provider: Cloud, begun: Begun
) -> None:
    machine, a = begun
    provider.impaired.add(machine.name)
    database(control_plane, f"update workers set seen_at = now() + interval '1 minute' where name = '{machine.token}'")
    database(control_plane, LOOK)
    sweep(api)
    assert statuses(control_plane, a.run_id) == ["made"]
    database(control_plane, f"update workers set seen_at = now() - interval '1 minute' where name = '{machine.token}'")
    database(control_plane, LOOK)
    sweep(api)
    assert statuses(control_plane, a.run_id) == ["lost", "intended"]
    assert "impaired by SystemStatus and InstanceStatus" in client.run(a.run_id).warnings[0]
    sweep(api)
    assert provider.states()[machine.name] == "terminated"


def test_a_machine_that_stays_silent_is_lost_whatever_its_provider_sees(
    client: Client, control_plane: Stack, begun: Begun
) -> None:
    machine, a = begun
    engine = create_engine(f"postgresql+psycopg://postgres@127.0.0.1:{control_plane.ports['postgres']}/reflux")
    settings = Settings()
    silent = f"update workers set seen_at = now() - interval '{{}}' where name = '{machine.token}'"
    database(control_plane, silent.format("5 minutes"))
    database(control_plane, f"update resources set made_at = now() - interval '1 hour' where token = '{machine.token}'")
    with engine.connect() as connection:
        now: datetime = connection.scalar(select(func.now()))  # type: ignore[assignment]
        long_ago: datetime = connection.scalar(select(func.now() - func.make_interval(0, 0, 0, 1)))  # type: ignore[assignment]
    machine_watch.watch(engine, settings, now)
    assert statuses(control_plane, a.run_id) == ["made"], "the API could not hear anybody until now"
    database(control_plane, silent.format("2 minutes"))
    machine_watch.watch(engine, settings, long_ago)
    assert statuses(control_plane, a.run_id) == ["made"]
    database(control_plane, silent.format("5 minutes"))
    machine_watch.watch(engine, settings, long_ago)
    assert statuses(control_plane, a.run_id) == ["lost", "intended"]
    assert "machine_silent" in client.run(a.run_id).warnings[0]
    engine.dispose()


def test_silence_for_a_lease_lets_the_provider_be_asked_next(client: Client, control_plane: Stack, begun: Begun) -> None:
    _, a = begun
    database(control_plane, f"update resources set look_at = now() + interval '1 hour' where run_id = '{a.run_id}'")
    database(control_plane, f"update tasks set heard_at = now() where id = {a.task_id}")
    due = f"select 1 from resources where run_id = '{a.run_id}' and look_at <= now()"
    eventually(lambda: database(control_plane, due), 20, "nobody would ask")
    assert client.run(a.run_id).health == "orphaned"


@pytest.mark.parametrize("code", ["no_capacity", "instance_lost", "machine_silent"])
def test_a_machine_that_was_not_to_be_had_is_asked_for_anew_under_a_token_of_its_own(
    client: Client, worker: HandWorker, control_plane: Stack, code: str
) -> None:
    run = client.create(JOB)
    worker.complete(worker.take(run.id))
    worker.fail(worker.take(run.id), code)
    provision = next_provision(client, worker, control_plane, run.id)
    assert intended(provision).token == f"reflux-{run.id}-2"
    assert statuses(control_plane, run.id) == ["lost", "intended"]
    assert client.run(run.id).status == "provisioning"


def test_after_so_many_machines_the_run_ends_with_words(client: Client, worker: HandWorker, control_plane: Stack) -> None:
    run = client.create(JOB)
    worker.complete(worker.take(run.id))
    worker.fail(worker.take(run.id), "machine_silent")
    worker.fail(next_provision(client, worker, control_plane, run.id), "machine_silent", "i-2 says nothing")
    cleanup = worker.take(run.id)
    assert cleanup.command.key == "clean_up"
    worker.complete(cleanup)
    ended = client.run(run.id)
    assert ended.error
    assert (ended.outcome, ended.error.code) == ("failed", "machine_silent")
    assert "i-2 says nothing. It is the 2. machine of this run" in ended.error.message
    assert "console output" in ended.error.hint


def test_what_was_lost_before_it_was_made_is_settled_after_so_many_looks(
    client: Client, worker: HandWorker, control_plane: Stack, api: httpx.Client
) -> None:
    run = client.create(JOB)
    worker.complete(worker.take(run.id))
    worker.fail(worker.take(run.id), "no_capacity")
    for _ in range(5):
        assert statuses(control_plane, run.id) == ["lost", "intended"]
        database(control_plane, LOOK)
        sweep(api)
    assert statuses(control_plane, run.id) == ["gone", "intended"]
