"""Status changes reach a real receiver: signed, in order, again after it was away and after control was killed."""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from reflux.client import Client
from reflux.local.stack import Stack
from reflux.worker import Api
from services.api.settings import Settings
from tests.integration.by_hand import SPEC, HandWorker, eventually

SECRET = "whsec-of-the-test"


class Receiver(ThreadingHTTPServer):
    """Keeps what it was sent; refuses while `refusing`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.refused = 0
        self.refusing = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def of(self, run_id: str) -> list[dict[str, Any]]:
        bodies = [json.loads(body) for _, body in list(self.taken)]
        return [body for body in bodies if body["data"]["run_id"] == run_id]


class Answering(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        refusing = self.server.refusing
        if refusing:
            self.server.refused += 1
        else:
            self.server.taken.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(503 if refusing else 204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver
        receiver.shutdown()


@pytest.fixture(scope="module")
def telling(ground: Path, receiver: Receiver) -> Iterator[Stack]:
    env = {"REFLUX_WEBHOOK_URL": f"http://127.0.0.1:{receiver.server_port}/hook", "REFLUX_WEBHOOK_SECRET": SECRET}
    with Stack(ground / "telling", workers={}, durable=False, env=env) as stack:
        yield stack


@pytest.fixture
def users(telling: Stack) -> Iterator[tuple[Client, HandWorker]]:
    api = Api(telling.api_url, telling.keys["worker"])
    with Client(telling.api_url, telling.keys["operator"]) as client, api.http:
        yield client, HandWorker(api, telling)


def test_every_status_is_told_in_order_and_signed(users: tuple[Client, HandWorker], receiver: Receiver) -> None:
    client, worker = users
    run = client.create(SPEC | {"metadata": {"team": "gptp"}})
    worker.work(run.id)
    eventually(lambda: [b for b in receiver.of(run.id) if b["data"]["status"] == "succeeded"], 20, "the end was not told")
    told = receiver.of(run.id)
    statuses = [body["data"]["status"] for body in told]
    assert statuses[:3] == ["queued", "validating", "preparing"]
    assert statuses[-2:] == ["cleaning_up", "succeeded"]
    assert all(b["data"]["previous_status"] == a["data"]["status"] for a, b in pairwise(told))
    assert told[0]["data"]["metadata"] == {"team": "gptp"}
    headers, content = receiver.taken[-1]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + content
    expected = base64.b64encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert len({headers["webhook-id"] for headers, _ in receiver.taken}) == len(receiver.taken)


def test_a_failure_is_told_once_the_receiver_is_back(
    users: tuple[Client, HandWorker], receiver: Receiver, telling: Stack
) -> None:
    client, worker = users
    receiver.refusing, receiver.refused = True, 0
    run = client.create(SPEC)
    worker.fail(worker.take(run.id), "access_denied", "no right to read s3://data")
    worker.work(run.id)
    eventually(lambda: receiver.refused > 1, 20, "it was not tried again")
    telling.kill("control")
    assert receiver.of(run.id) == []
    receiver.refusing = False
    eventually(lambda: [b for b in receiver.of(run.id) if b["data"]["status"] == "failed"], 30, "the failure was not told")
    told = receiver.of(run.id)
    assert [body["data"]["status"] for body in told] == ["queued", "validating", "cleaning_up", "failed"]
    assert told[-1]["data"]["error"]["code"] == "access_denied"
    assert told[-1]["data"]["error"]["hint"]


def test_news_of_a_day_ago_is_none(users: tuple[Client, HandWorker], receiver: Receiver) -> None:
    client, worker = users
    receiver.refusing = True
    run = client.create(SPEC)
    worker.ready(run.id)
    worker.sql("update events set at = at - interval '25 hours' where run_id = %s", run.id)
    receiver.refusing = False
    client.abort(run.id)
    eventually(lambda: receiver.of(run.id), 30, "the abort was not told")
    assert "queued" not in [body["data"]["status"] for body in receiver.of(run.id)]


def test_a_webhook_needs_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLUX_WEBHOOK_URL", "http://127.0.0.1:1/hook")
    with pytest.raises(ValueError, match="REFLUX_WEBHOOK_SECRET"):
        Settings()
