"""Health, readiness by dependency, and what Prometheus reads."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from reflux.client import Client
from reflux.commands import Train
from reflux.local.stack import Stack
from tests.integration.by_hand import SPEC, HandWorker, eventually


@pytest.fixture(scope="module")
def fragile(ground: Path) -> Iterator[Stack]:
    """A control plane whose servers may be stopped."""
    with Stack(ground / "fragile", workers={}, durable=False) as stack:
        yield stack


def test_readiness_names_what_is_away(fragile: Stack) -> None:
    def ready() -> httpx.Response:
        return httpx.get(f"{fragile.api_url}/readyz", timeout=10)

    assert ready().json() == {"status": "ok", "database": "ok", "broker": "ok", "artifacts": "ok"}
    fragile.stop("valkey")
    eventually(lambda: ready().json().get("broker") == "away", 20, "the broker's absence was not seen")
    assert (ready().status_code, ready().json()["status"]) == (200, "degraded"), "workers can still be heard"
    fragile.stop("postgres")
    eventually(lambda: ready().status_code == 503, 20, "the database's absence was not seen")
    assert ready().json()["code"] == "database_away"
    assert httpx.get(f"{fragile.api_url}/healthz").status_code == 200
    fragile.start("postgres")
    fragile.start("valkey")
    eventually(lambda: ready().json().get("status") == "ok", 30, "it is not ready again")


def test_what_prometheus_reads(client: Client, worker: HandWorker) -> None:
    worker.name = "measured"
    worker.register("gpu_trainer")
    worker.sql("update workers set capabilities = '{\"gpu_memory_gb\": 80.0}' where name = 'measured'")
    over = client.create(SPEC)
    worker.work(over.id)
    run = client.create(SPEC | {"name": 'with "quotes"'})
    held = worker.work(run.id, until=lambda command: isinstance(command, Train) and command.epoch == 2)
    assert held is not None
    worker.beat(held, metrics=[{"step": 1, "values": {"memory_gb": 12.5}}])

    def samples() -> dict[tuple[str, tuple[str, ...]], float]:
        page = client.http.get("/metrics")
        assert page.headers["content-type"].startswith("text/plain")
        return {
            (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(page.text)
            for sample in family.samples
        }

    scored = ("reflux_run_score", ('with "quotes"', run.id, "practice"))
    eventually(lambda: scored in samples(), 30, "the page is older than it may be")
    read = samples()
    assert read[scored] == 9.0
    assert read["reflux_runs", ("succeeded",)] >= 1
    assert read["reflux_tasks", ("train", "done")] >= 3
    assert read["reflux_task_seconds_count", ("train", "training")] >= 3
    assert read["reflux_task_seconds_sum", ("train", "training")] > 0
    assert read["reflux_queue_depth", ("evaluator",)] >= 0
    assert read["reflux_queue_age_seconds", ("gpu_trainer",)] >= 0
    assert read["reflux_teacher_tokens", ("in",)] >= 100
    assert read["reflux_teacher_cost_usd", ()] >= 0.25
    assert read["reflux_gpu_memory_gb", ("gpu_trainer", "measured")] == 80
    assert read["reflux_memory_used_gb", ("gpu_trainer", "measured")] == 12.5
    assert read["reflux_worker_silent_seconds", ("gpu_trainer", "measured")] < 60


def test_a_transaction_that_postgres_undid_is_told_as_such(client: Client, worker: HandWorker) -> None:
    """Its commit meets 40001; the same call is taken a moment later."""
    worker.sql(
        "create function undo() returns trigger language plpgsql as $$ begin"
        " raise exception 'could not serialize access' using errcode = 'serialization_failure'; end $$"
    )
    worker.sql(
        "create constraint trigger undo after insert on runs deferrable initially deferred for each row"
        " when (new.name = 'undone') execute function undo()"
    )
    try:
        answer = client.http.post("/v1/runs", json=SPEC | {"name": "undone"})
    finally:
        worker.sql("drop trigger undo on runs")
        worker.sql("drop function undo")
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "undone", "1")
    assert "could not" not in answer.text
    assert client.create(SPEC | {"name": "undone"}).name == "undone"
