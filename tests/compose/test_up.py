"""The containers of docker-compose.yml, disturbed, make what the embedded stack makes undisturbed."""

import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from reflux.artifacts import Artifacts
from reflux.client import Client
from reflux.local.stack import Stack
from tests.compose.composed import PROJECT, STUDENT, VERSION, Composed, checked_out, engine, left
from tests.e2e.tiny import EXAMPLES, tiny_spec
from tests.environment import ROOT
from tests.faults.samples import Samples
from tests.faults.test_matrix import claimed
from tests.integration.by_hand import eventually

# What is restarted once a worker has claimed a task.
RESTARTED = {
    "teach-0000": ("teacher-worker", "recorded-teacher"),
    "train-001": ("gpu-trainer-cpu",),
    "generate-001-student": ("postgres", "evaluator"),
    "correct-001-0000-1": ("valkey", "seaweedfs"),
    "train-002": ("api", "control"),
}
UPGRADED = "generate-002-best"
UPGRADE_FROM = os.environ.get("UPGRADE_FROM")  # the commit whose code runs until then; otherwise this tree's own
# The packages that tell the extras of pyproject.toml apart, and whose image has them.
MARKS = ("fastapi", "openai", "tree_sitter", "torch")
ON_CPU = {"fastapi", "openai", "tree_sitter"}
OURS = {
    "api": ON_CPU,
    "control": ON_CPU,
    "teacher-worker": ON_CPU,
    "recorded-teacher": ON_CPU,
    "evaluator": {"tree_sitter"},
    "gpu-trainer-cpu": {"torch"},
}


@pytest.fixture(scope="module")
def running_engine() -> str:
    version = engine()
    if not version:
        pytest.skip("No Docker engine answers here: nothing was brought up.")
    return version


@pytest.fixture(scope="module")
def twin(running_engine: str, ground: Path, student: Path) -> Samples:
    """What the embedded stack makes of the same spec, and is stopped again."""
    env = {"REFLUX_MODEL_CACHE": str(ground / "models")}
    with Stack(ground / "twin", (EXAMPLES / "teacher.jsonl",), durable=False, env=env) as stack:
        with Client(stack.api_url, stack.keys["operator"]) as client:
            run = client.wait(client.create(tiny_spec(student)).id, 600)
        assert run.outcome == "succeeded", run.error
        return Samples.of(Artifacts(stack.artifacts_url), run)


@pytest.fixture(scope="module")
def composed(running_engine: str, twin: Samples, ground: Path, student: Path) -> Iterator[Composed]:
    assert left() == [], f"An earlier run has left something: docker compose --project-name {PROJECT} down --volumes"
    folder = ground / "composed"
    folder.mkdir()
    composed = Composed(folder, student)
    try:
        started = time.monotonic()
        composed.build("1", checked_out(UPGRADE_FROM, ground / "before") if UPGRADE_FROM else ROOT)
        composed.build("2")
        composed.take("1")
        built = time.monotonic()
        composed.up()
        print(f"\nengine {running_engine}; built in {built - started:.0f} s, healthy after {time.monotonic() - built:.0f} s")
        yield composed
    finally:
        composed.remove()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_an_image_has_what_its_process_needs_and_nothing_can_be_written(composed: Composed) -> None:
    installed = f"from importlib.util import find_spec; print(*filter(find_spec, {MARKS}))"
    for service, packages in OURS.items():
        assert set(composed("exec", "--no-TTY", service, "python", "-c", installed).split()) == packages, service
        found = composed("exec", "--no-TTY", service, "sh", "-c", "command -v cc gcc g++ || true").split()
        assert bool(found) == (service == "evaluator"), (service, found)
        wrote = composed("exec", "--no-TTY", service, "sh", "-c", "id -u; touch /opt/reflux/x 2>/dev/null && echo WROTE; true")
        assert wrote.split() == ["10001"], service


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_run_outlives_restarts_of_everything_and_an_upgrade(composed: Composed, twin: Samples, tmp_path: Path) -> None:
    with Client(composed.url, composed.key, tries=10) as client:
        alive = [worker.service for worker in client.workers() if worker.alive]
        assert sorted(alive) == ["evaluator", "gpu_trainer", "teacher_worker", "teacher_worker", "teacher_worker"]
        run = client.create(tiny_spec(Path(STUDENT)))
        for task, services in RESTARTED.items():
            await_claim(client, run.id, task)
            started = time.monotonic()
            composed("restart", *services)
            print(f"{task}: restarted {', '.join(services)} in {time.monotonic() - started:.0f} s")
        await_claim(client, run.id, UPGRADED)
        started = time.monotonic()
        composed.take("2")
        composed.up()  # all at once, the harder way: workers have no API to give their work back to
        print(f"{UPGRADED}: upgraded from {UPGRADE_FROM or 'the same code'} in {time.monotonic() - started:.0f} s")
        ended = client.wait(run.id, 900)
        assert (ended.outcome, ended.reason) == ("succeeded", "max epochs"), ended.error
        print(f"begun again: {', '.join(begun_again(client, run.id))}")
        same_as(twin, Samples.of(composed.artifacts(client, run.id, tmp_path / "before"), ended))

        containers = composed.containers()
        ours = {container["Config"]["Labels"]["com.docker.compose.service"]: container for container in containers}
        ours = {service: container for service, container in ours.items() if service in OURS}
        versions = {service: container["Config"]["Labels"].get(VERSION) for service, container in ours.items()}
        assert versions == dict.fromkeys(OURS, "2"), "the upgrade has left a container of the version before"
        started_at = {service: datetime.fromisoformat(container["State"]["StartedAt"]) for service, container in ours.items()}
        assert ended.ended_at, "a run that ended"
        assert max(started_at.values()) < ended.ended_at, "the run had ended before all was upgraded"
        assert {container["State"]["Health"]["Status"] for container in containers} == {"healthy"}
        print(f"restarts by the engine: {sum(container['RestartCount'] for container in containers)}")

        composed("down")
        composed.up()
        again = client.run(run.id)
        assert again.outcome == "succeeded", "volumes outlive the containers"
        same_as(twin, Samples.of(composed.artifacts(client, run.id, tmp_path / "after"), again))
    composed.remove()
    assert left() == []


def await_claim(client: Client, run_id: str, task: str) -> None:
    def begun() -> bool:
        assert not (run := client.run(run_id)).terminal, (task, run.error)
        return task in claimed(client, run_id)

    eventually(begun, 600, f"{task} never began")


def begun_again(client: Client, run_id: str) -> list[str]:
    claims = (event.body for event in client.events(run_id, limit=1000).data if event.type == "task_claimed")
    return [f"{claim['key']} ({claim['attempt']})" for claim in claims if claim["attempt"] > 1]


def same_as(twin: Samples, made: Samples) -> None:
    assert (made.lost(twin), made.doubled(twin)) == (0, 0)
    assert made.found == twin.found, "another text or score"
    print(f"{sum(made.keys.values())} samples: keys, texts and scores as the embedded stack's")
