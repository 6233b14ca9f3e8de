"""Runs by REST: bad input gets words, never a 500; the same request twice is one run."""

import httpx
import pytest

from reflux.client import ApiError, Client
from reflux.commands import Train
from tests.integration.by_hand import SPEC, HandWorker


def test_an_invalid_spec_names_each_field(client: Client) -> None:
    spec = {"data": {"sources": [{"uri": "file:///x", "domian": "tsn"}]}, "training": {"batch_size": 0}, "lorra": {}}
    with pytest.raises(ApiError) as refusal:
        client.create(spec)
    problem = refusal.value.problem
    assert (problem.status, problem.code) == (422, "invalid_spec")
    named = {error.field: error.hint for error in problem.errors}
    assert set(named) == {"data.sources.0.domian", "training.batch_size", "lorra"}
    assert "domain" in named["data.sources.0.domian"]
    assert "lora" in named["lorra"]


@pytest.mark.parametrize(
    "body", ["", "[]", "not json", "5", '"x"', "{", "null", '{"name": "\ud800"}'.encode("utf-8", "surrogatepass")]
)
def test_a_body_that_is_no_spec(client: Client, body: str | bytes) -> None:
    answer = client.http.post("/v1/runs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


def test_the_same_key_gives_the_same_run(client: Client) -> None:
    first = client.create(SPEC, idempotency_key="once")
    assert client.create(SPEC, idempotency_key="once").id == first.id
    with pytest.raises(ApiError) as refusal:
        client.create(SPEC | {"name": "another"}, idempotency_key="once")
    assert refusal.value.problem.status == 409


def test_pages_newest_first(client: Client) -> None:
    made = [client.create(SPEC | {"name": f"page-{n}"}).id for n in range(3)]
    page = client.runs(limit=2)
    assert [run.id for run in page.data] == [made[2], made[1]]
    assert page.has_more
    assert client.runs(limit=1, after=made[1]).data[0].id == made[0]
    assert [run.id for run in client.runs(name="page-1").data] == [made[1]]


def test_what_is_not_there(client: Client) -> None:
    with pytest.raises(ApiError) as refusal:
        client.run("20200101-000000-none")
    assert (refusal.value.problem.status, refusal.value.problem.code) == (404, "run_not_found")
    assert client.http.get("/v1/nothing").headers["content-type"] == "application/problem+json"
    assert client.http.get("/v1/runs", params={"limit": 0}).status_code == 422


def test_too_large_a_body(client: Client) -> None:
    answer = client.http.post("/v1/runs", content=b"x" * 3_000_000)
    assert answer.status_code == 413


def test_health_needs_no_key(client: Client) -> None:
    with httpx.Client(base_url=client.http.base_url) as bare:
        assert bare.get("/healthz").json() == {"status": "ok"}
        assert bare.get("/readyz").json()["database"] == "ok"


def test_a_dry_run_tells_gpu_hours_and_what_they_stand_on(client: Client, worker: HandWorker) -> None:
    own = SPEC | {"student": {"model": "/models/our-student", "method": "lora"}, "training": {"max_steps": 90}}
    known = client.dry_run(SPEC | {"student": {"model": "google/gemma-3-1b-it", "method": "lora"}}).gpu_hours
    assert known is not None
    assert 0 < known.low < known.likely < known.high
    assert "calculated" in known.basis
    assert "assumed" in known.basis
    assert client.dry_run(own).gpu_hours is None, "neither its size nor its speed is known"
    assert known.usd_per_hour is None
    machine = {"kind": "ec2", "instance_type": "g5.2xlarge", "subnet_id": "subnet-1", "image": "ami-1"}
    hired = client.dry_run(SPEC | {"student": {"model": "google/gemma-3-1b-it", "method": "lora"}, "compute": machine}).gpu_hours
    assert hired is not None
    assert "on the A10 of g5.2xlarge" in hired.basis
    assert hired.usd_per_hour == pytest.approx(1.22, abs=0.02)
    run = client.create(own)
    held = worker.work(run.id, until=lambda command: isinstance(command, Train))
    assert held is not None
    worker.beat(held, metrics=[{"step": 1, "values": {"tokens_per_second": 100.0, "generated_tokens_per_second": 10.0}}])
    told = client.dry_run(own).gpu_hours
    assert told is not None
    assert "100 tokens/s in training and 10 in generation, as 1 runs of this student told" in told.basis
    assert told.high / told.low < known.high / known.low
    assert client.runs(limit=1).data[0].id == run.id, "a dry run creates nothing"
