"""Many runs on one gpu_trainer, and two control processes at once: each run as if it were alone, and nothing twice."""

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from reflux.artifacts import Artifacts
from reflux.client import Client
from reflux.local.stack import Process, Stack
from reflux.queues import GPU, kinds
from reflux.views import RunView
from services.api.publishing import STREAM
from tests.e2e.tiny import EXAMPLES, tiny_spec
from tests.faults.samples import Samples
from tests.integration.by_hand import eventually

RATES = (2e-3, 2e-2, 5e-2, 1e-1, 2e-1)  # of learning: enough to make students that say different things
RUNG = re.compile(r"^LPUSH \w+ .*task_id\\?': (\d+)")


def small_spec(student: Path, learning_rate: float = RATES[0]) -> dict[str, Any]:
    return tiny_spec(
        student,
        prompts={"practice": 3, "dev": 1, "test": 1},
        training={"max_steps": 3, "eval_steps": 2, "learning_rate": learning_rate},
        generation={"max_new_tokens": 16, "test_max_new_tokens": 16},
        refining={"max_epochs": 1},
    )


@dataclass(frozen=True)
class Made:
    """What a run ended with."""

    run: RunView
    samples: Samples

    @classmethod
    def by(cls, stack: Stack, run: RunView) -> "Made":
        assert run.outcome == "succeeded", run.error
        return cls(run, Samples.of(Artifacts(stack.artifacts_url), run))

    @property
    def scores(self) -> list[Any]:
        return [(epoch.train_loss, epoch.practice, epoch.dev) for epoch in self.run.epochs] + [self.run.comparison]


@dataclass
class Rings:
    """How often was rung for each task, by what Valkey has seen."""

    pushed: Counter[int] = field(default_factory=Counter)


@contextmanager
def heard(stack: Stack) -> Iterator[Rings]:
    rings, listens = Rings(), threading.Event()
    with redis.Redis(port=stack.ports["valkey"]) as valkey:

        def listen() -> None:
            with valkey.monitor() as monitor:
                listens.set()
                for seen in monitor.listen():
                    if seen["command"] == "ECHO over":
                        return
                    if rung := RUNG.match(seen["command"]):
                        rings.pushed[int(rung[1])] += 1

        listener = threading.Thread(target=listen, name="rings")
        listener.start()
        assert listens.wait(10)
        try:
            yield rings
        finally:
            valkey.echo("over")
            listener.join()


@contextmanager
def two_controls(stack: Stack) -> Iterator[None]:
    first = stack.processes["control"]
    stack.processes["control-2"] = Process("control-2", first.command, first.env)
    stack.start("control-2")
    log = stack.folder / "logs" / "control-2.log"
    try:
        eventually(lambda: "control_started" in log.read_text(), 60, "the second control process did not start")
        yield
    finally:
        stack.stop("control-2")
        del stack.processes["control-2"]


@dataclass(frozen=True)
class Turn:
    run_id: str
    due_at: datetime
    claimed_at: datetime


def asked(stack: Stack, query: Any, *values: Any) -> list[Any]:
    with psycopg.connect(f"postgresql://postgres@127.0.0.1:{stack.ports['postgres']}/reflux") as connection:
        return connection.execute(query, values).fetchall()


def turns(stack: Stack, runs: list[RunView]) -> list[Turn]:
    """Who had the GPU, in order. In runs that nobody disturbs each task is claimed once."""
    query = "select run_id, due_at, claimed_at from tasks where run_id = any(%s) and kind = any(%s) order by claimed_at"
    return [Turn(*row) for row in asked(stack, query, [run.id for run in runs], kinds(GPU))]


def overtaken(turns: list[Turn]) -> int:
    """How often, at the most, a run that waited for the GPU has seen the same other run have a turn."""
    worst, last = 0, dict[str, datetime]()
    for turn in turns:
        since = max(turn.due_at, last.get(turn.run_id, turn.due_at))
        others = Counter(other.run_id for other in turns if since < other.claimed_at < turn.claimed_at)
        worst = max(worst, *others.values(), 0)
        last[turn.run_id] = turn.claimed_at
    return worst


def claims(client: Client, run: RunView) -> Counter[str]:
    events = client.events(run.id, limit=1000).data
    return Counter(event.body["key"] for event in events if event.type == "task_claimed")


def published(stack: Stack, run: RunView) -> list[int]:
    """The numbers of the run's events on the stream, once the last of them is there."""

    def there() -> list[int]:
        with redis.Redis(port=stack.ports["valkey"], decode_responses=True) as valkey:
            entries = valkey.xrange(STREAM)
        found = [int(fact["seq"]) for _, fact in entries if fact["run_id"] == run.id]
        return found if run.last_event in found else []

    return eventually(there, 30, "the run's last event was not published")


def state_is_right(stack: Stack, run: RunView) -> bool:
    text = Artifacts(stack.artifacts_url).get(f"runs/{run.id}/system-state.json")
    state = json.loads(text)
    return (state["status"], state["outcome"], state["sequence"]) == (run.status, run.outcome, run.last_event)


@pytest.fixture(scope="module")
def alone(stack: Stack, student: Path) -> Made:
    with Client(stack.api_url, stack.keys["operator"]) as client:
        return Made.by(stack, client.wait(client.create(small_spec(student)).id, 200))


@dataclass(frozen=True)
class Together:
    made: list[Made]
    rings: Rings

    @property
    def runs(self) -> list[RunView]:
        return [made.run for made in self.made]


@pytest.fixture(scope="module")
def together(stack: Stack, student: Path, alone: Made) -> Together:
    """Two runs as the one alone, and between them one that learns otherwise; two control processes."""
    with Client(stack.api_url, stack.keys["operator"]) as client, heard(stack) as rings, two_controls(stack):
        runs = [client.create(small_spec(student, RATES[which])) for which in (0, 1, 0)]
        return Together([Made.by(stack, client.wait(run.id, 300)) for run in runs], rings)


def test_a_run_among_others_ends_with_the_answers_and_scores_of_one_alone(together: Together, alone: Made) -> None:
    first, other, second = together.made
    for made in (first, second):
        assert made.samples == alone.samples
        assert made.scores == alone.scores
    answers = [{sample for sample in made.samples.found if sample[0][0] == "answers"} for made in (alone, other)]
    assert answers[0] != answers[1], "it would not be seen if a run's answers were another's"


def test_runs_take_turns_on_the_gpu(stack: Stack, together: Together) -> None:
    had = turns(stack, together.runs)
    assert set(Counter(turn.run_id for turn in had).values()) == {len(had) // 3}
    assert overtaken(had) <= 1


def test_two_control_processes_ring_once_for_each_ring_that_is_noted(stack: Stack, client: Client, together: Together) -> None:
    query = "select id, rings, attempt from tasks where run_id = any(%s)"
    tasks = asked(stack, query, [run.id for run in together.runs])
    assert {task_id: rings for task_id, rings, _ in tasks if rings} == {
        task_id: count for task_id, count in together.rings.pushed.items() if task_id in {row[0] for row in tasks}
    }
    assert {attempt for _, _, attempt in tasks} == {1}
    for run in together.runs:
        assert set(claims(client, run).values()) == {1}


def test_two_control_processes_publish_each_event_once_and_in_order(stack: Stack, together: Together) -> None:
    for run in together.runs:
        assert published(stack, run) == list(range(1, run.last_event + 1))


def test_two_control_processes_leave_the_newest_state_in_the_files(stack: Stack, together: Together) -> None:
    for run in together.runs:
        eventually(lambda run=run: state_is_right(stack, run), 30, "the end was not projected")  # type: ignore[misc]


@pytest.mark.long
def test_first_one_then_the_other_of_two_control_processes_is_killed(
    stack: Stack, student: Path, client: Client, alone: Made
) -> None:
    with two_controls(stack):
        run, kills = client.create(small_spec(student)), {"train-001": "control", "generate-001-student": "control-2"}
        for event in client.follow(run.id):
            if event.type == "task_claimed" and (victim := kills.pop(event.body["key"], None)):
                stack.kill(victim)
        assert not kills
        made = Made.by(stack, client.wait(run.id, 300))
        assert (made.samples, made.scores) == (alone.samples, alone.scores)
        assert set(claims(client, made.run).values()) == {1}
        numbers = published(stack, made.run)
        assert list(dict.fromkeys(numbers)) == list(range(1, made.run.last_event + 1)), "at least once, and in order"
        eventually(lambda: state_is_right(stack, made.run), 30, "the end was not projected")


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_twenty_runs_at_once(ground: Path, student: Path) -> None:
    """Four of each of five kinds, each as its twin that ran before them, alone."""
    env = {"REFLUX_MODEL_CACHE": str(ground / "models"), "REFLUX_MAX_ACTIVE_RUNS": "20"}
    with (
        Stack(ground / "twenty", (EXAMPLES / "teacher.jsonl",), durable=False, env=env) as stack,
        Client(stack.api_url, stack.keys["operator"]) as client,
    ):
        twins = [Made.by(stack, client.wait(client.create(small_spec(student, rate)).id, 200)) for rate in RATES]
        runs = [client.create(small_spec(student, rate)) for _ in range(4) for rate in RATES]
        made = [Made.by(stack, client.wait(run.id, 1500)) for run in runs]
        assert len({twin.samples for twin in twins}) == len(RATES)
        for one, twin in zip(made, twins * 4, strict=True):
            assert (one.samples, one.scores) == (twin.samples, twin.scores)
        assert overtaken(turns(stack, [one.run for one in made])) <= 1
        for one in made:
            assert set(claims(client, one.run).values()) == {1}
            assert published(stack, one.run) == list(range(1, one.run.last_event + 1))
