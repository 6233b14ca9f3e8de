"""A secret in every input: none of them is found again in a log, an event, an artifact, a table or a message."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from reflux.client import ApiError, Client
from reflux.local.stack import Stack
from reflux.protocol import Registration
from reflux.worker import Api
from tests.integration.by_hand import SPEC, HandWorker, eventually
from tests.unit.stories import answer


def planted(place: str) -> str:
    return f"rfx_planted-{place}-" + "x1Y2z3" * 5


@pytest.fixture(scope="module")
def plane(ground: Path) -> Iterator[Stack]:
    hook = f"http://user:{planted('webhook-url')}@127.0.0.1:9/hook?token={planted('webhook-token')}"
    env = {"REFLUX_WEBHOOK_URL": hook, "REFLUX_WEBHOOK_SECRET": planted("webhook"), "HF_TOKEN": planted("environment")}
    with Stack(ground / "secrets", workers={}, durable=False, env=env) as stack:
        yield stack


SPECS: list[dict[str, Any]] = [
    {"name": planted("name")},
    {"metadata": {"token": planted("metadata")}},
    {"metadata": {planted("metadata-name"): "x"}},
    {"teacher": {"endpoint_url": f"https://user:{planted('url')}@host/v1"}},
    {"data": {"sources": [{"uri": f"s3://key:{planted('uri')}@bucket/x"}]}},
    {"prompts": {"system": f"Answer in C. {planted('system')}"}},
    {"export": {"output_uri": f"s3://key:{planted('export')}@bucket/x"}},
    {"rubric": {"words": {"tsn": [planted("words")]}}},
    {"recipe": "job", "job": {"command": ["train", "--token", planted("job")]}},
]


def plant(client: Client, worker: HandWorker) -> str:
    for spec in SPECS:
        for dry_run in ("true", "false"):
            refused = client.http.post("/v1/runs", json=SPEC | spec, params={"dry_run": dry_run})
            assert (refused.status_code, refused.json()["code"]) == (422, "secret_in_spec")
    run = client.create(SPEC, idempotency_key=planted("idempotency"))
    assert client.http.post("/v1/keys", json={"role": "viewer", "label": planted("label")}).status_code == 422
    for path in (f"/v1/runs/{planted('id')}", f"/v1/runs/{run.id}/artifacts/{planted('path')}", f"/v1/{planted('call')}"):
        assert client.http.get(path, headers={"X-Secret": planted("header")}).status_code == 404
    client.http.get("/v1/runs", params={"name": planted("query"), "after": planted("after"), f"metadata[{planted('key')}]": "\0"})
    assert client.http.get("/v1/runs", headers={"Authorization": f"Bearer {planted('bearer')}"}).status_code == 401
    assert client.http.post("/v1/datasets", content=planted("upload"), headers={"Content-Type": "text/csv"}).status_code == 422
    client.http.post("/v1/runs", content=b"{" + planted("body").encode(), headers={"Content-Type": "application/json"})
    question = {"run": run.id, "checkpoint": "base", "messages": [{"role": "user", "content": planted("prompt")}]}
    assert client.http.post("/v1/completions", json=question).json()["code"] == "secret_in_prompt"
    for body in ({"run": run.id, "prompt": planted("prompt")}, {"run": run.id, "messages": [planted("message")]}):
        assert client.http.post("/v1/completions", json=body).status_code in (404, 409, 422)
    row = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": f"key = '{planted('row')}'"}]}
    upload = client.http.post("/v1/datasets", content=json.dumps(row), headers={"Content-Type": "application/jsonl"})
    assert (upload.status_code, upload.json()["errors"][0]["field"]) == (422, "line 1")
    able = {"gcc": planted("capability"), "sandbox": {"user": f"refused: {planted('inner')}"}, planted("able"): [planted("list")]}
    worker.api.post("/v1/workers", Registration(name="leaky", service="evaluator", incarnation="a", capabilities=able))
    a = worker.take(run.id)
    worker.complete(a, answer(a.command, warnings=(f"teacher: refused {planted('warning')}",)))
    a = worker.take(run.id)
    worker.beat(a, progress={"done": 1, "total": 2, "note": planted("note")})
    worker.beat(a, logs=[{"line": f"calling with {planted('line')}"}])
    worker.fail(a, "access_denied", f"the store refused {planted('failure')}")
    worker.work(run.id)
    return run.id


def test_a_secret_is_found_nowhere(plane: Stack) -> None:
    api = Api(plane.api_url, plane.keys["worker"])
    with Client(plane.api_url, plane.keys["operator"]) as client, api.http:
        worker = HandWorker(api, plane)
        made = client.create_key("viewer", "made here")
        run_id = plant(client, worker)
        projected = plane.folder / "artifacts" / "runs" / run_id / "system-state.json"
        eventually(lambda: projected.exists() and "failed" in projected.read_text(), 20, "the run was not projected")
        tables = ("runs", "events", "tasks", "logs", "metrics", "workers", "keys", "errands")
        places = {f"table {name}": str(worker.sql(f"select t::text from {name} t")) for name in tables}
        places["answers"] = json.dumps(
            [client.http.get(path).json() for path in (f"/v1/runs/{run_id}", "/v1/keys", "/v1/system/workers")]
        )
        places["log lines"] = json.dumps([row.line for row in client.logs(run_id).data])
    files = [*(plane.folder / "logs").glob("*.log"), *(plane.folder / "artifacts").rglob("*")]
    places |= {str(path): path.read_text(errors="replace") for path in files if path.is_file()}
    places["messages"] = messages(plane.ports["valkey"])
    assert len(places) > 15
    assert run_id in places["messages"]
    assert "[REDACTED]" in places["log lines"]
    assert "[REDACTED]" in places["table runs"]
    secrets = ("planted", made.key, *plane.keys.values())
    assert not {(place, text.index(secret)) for place, text in places.items() for secret in secrets if secret in text}


def test_the_answer_names_the_field_that_holds_it(plane: Stack) -> None:
    with Client(plane.api_url, plane.keys["operator"]) as client, pytest.raises(ApiError) as refusal:
        client.create(SPEC | SPECS[1])
    assert [error.field for error in refusal.value.problem.errors] == ["metadata.token"]


def messages(port: int) -> str:
    broker = redis.Redis(port=port)
    found = []
    for name in broker.keys("*"):
        kind = broker.type(name)
        if kind == b"list":
            found.append(broker.lrange(name, 0, -1))
        elif kind == b"stream":
            found.append(broker.xrange(name))
        elif kind == b"hash":
            found.append(broker.hgetall(name))
        elif kind == b"set":
            found.append(broker.smembers(name))
    return str(found)
