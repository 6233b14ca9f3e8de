"""Who may call: roles on every route, keys shown once and revoked, so and so often a minute."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from reflux.client import ApiError, Client
from reflux.local.stack import Stack
from reflux.views import Role
from tests.integration.by_hand import SPEC, HandWorker

OPEN = {"/healthz", "/readyz"}


def made(client: Client, role: Role) -> Client:
    return Client(str(client.http.base_url), client.create_key(role, f"a {role}").key)


def test_a_key_opens_what_its_role_may_do(client: Client) -> None:
    run = client.create(SPEC)
    with made(client, "viewer") as viewer:
        assert viewer.run(run.id).id == run.id
        for forbidden in (
            lambda: viewer.create(SPEC),
            lambda: viewer.abort(run.id),
            viewer.all_keys,
            lambda: viewer.delete(run.id),
        ):
            with pytest.raises(ApiError) as refusal:
                forbidden()
            assert (refusal.value.problem.status, refusal.value.problem.code) == (403, "wrong_role")
    with made(client, "worker") as worker:
        with pytest.raises(ApiError) as refusal:
            worker.runs()
        assert refusal.value.problem.status == 403
        assert worker.http.get("/v1/workers").status_code == 200
    with made(client, "operator") as operator:
        assert operator.create(SPEC | {"name": "by a made key"}).name == "by a made key"


def test_every_route_but_health_is_guarded(client: Client) -> None:
    document = client.http.get("/openapi.json").json()
    with httpx.Client(base_url=client.http.base_url) as bare:
        for path, methods in document["paths"].items():
            url = path.replace("{task_id}", "1").replace("{run_id}", "r").replace("{path}", "p")
            for method in methods:
                status = bare.request(method, url, headers={"Content-Type": "application/json"}, content=b"{}").status_code
                assert (status == 401) != (path in OPEN), f"{method} {path} answers {status} without a key"
        assert bare.get("/openapi.json").status_code == 401
        for path in ("/docs", "/redoc"):
            assert bare.get(path).headers["location"].startswith("/sign-in"), "pages are behind the dashboard's door"


def test_a_key_is_shown_once_and_can_be_revoked(client: Client, worker: HandWorker) -> None:
    key = client.create_key("viewer", "for a day")
    listed = client.http.get("/v1/keys").text
    assert key.id in listed
    assert key.key not in listed
    assert worker.sql("select count(*) from keys where digest = %s or label = %s", key.key, key.key) == [(0,)]
    with Client(str(client.http.base_url), key.key) as viewer:
        viewer.runs(limit=1)
        for _ in range(2):
            client.revoke_key(key.id)
        with pytest.raises(ApiError) as refusal:
            viewer.runs(limit=1)
    assert (refusal.value.problem.status, refusal.value.problem.code) == (401, "unknown_key")
    assert [k.revoked_at is not None for k in client.all_keys() if k.id == key.id] == [True]
    with pytest.raises(ApiError) as missing:
        client.revoke_key("key_0123456789abcdef")
    assert missing.value.problem.code == "key_not_found"


@pytest.mark.parametrize(
    "body", [{"role": "king", "label": "x"}, {"role": "viewer"}, {"role": "viewer", "label": "\n"}, {"label": ""}]
)
def test_a_key_that_can_not_be(client: Client, body: dict[str, str]) -> None:
    assert client.http.post("/v1/keys", json=body).status_code == 422


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "bearer nonsense", "Bearer \xff"])
def test_no_key(client: Client, header: str) -> None:
    with httpx.Client(base_url=client.http.base_url) as bare:
        answer = bare.get("/v1/runs", headers={"Authorization": header.encode("latin-1")})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_browsers_are_told(client: Client) -> None:
    answer = client.http.options("/v1/runs", headers={"Origin": "https://elsewhere", "Access-Control-Request-Method": "GET"})
    assert "access-control-allow-origin" not in answer.headers
    for shown in (answer, client.http.get("/v1/runs"), client.http.get("/v1/nothing")):
        assert shown.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in shown.headers["content-security-policy"]


@pytest.fixture(scope="module")
def slow_lane(ground: Path) -> Iterator[Stack]:
    """An API that lets a key call thirty times a minute."""
    with Stack(ground / "slow-lane", workers={}, durable=False, env={"REFLUX_CALLS_PER_MINUTE": "30"}) as stack:
        yield stack


def test_a_key_may_call_so_often(slow_lane: Stack) -> None:
    def call(role: str) -> httpx.Response:
        path = "/v1/workers" if role == "worker" else "/v1/runs"
        return httpx.get(f"{slow_lane.api_url}{path}", headers={"Authorization": f"Bearer {slow_lane.keys[role]}"})

    answers = [call("operator") for _ in range(60)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(answers) - len(refused) in range(30, 40)
    assert json.loads(refused[0].content)["code"] == "too_many_requests"
    assert 1 <= int(refused[0].headers["retry-after"]) <= 2
    assert {call("worker").status_code for _ in range(60)} == {200}
    with Client(slow_lane.api_url, slow_lane.keys["operator"]) as patient:
        assert patient.runs().data == [], "the client waits as it is told"


def test_the_last_operator_key_stays(slow_lane: Stack) -> None:
    with Client(slow_lane.api_url, slow_lane.keys["operator"]) as client:
        (only,) = [key for key in client.all_keys() if key.role == "operator"]
        with pytest.raises(ApiError) as refusal:
            client.revoke_key(only.id)
    assert (refusal.value.problem.status, refusal.value.problem.code) == (409, "last_operator")
