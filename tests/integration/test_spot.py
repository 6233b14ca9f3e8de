"""A spot machine's notice: asked for by IMDSv2, told to the API, and the process then ends as by SIGTERM."""

import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from reflux.client import Client
from reflux.events import Event
from reflux.local.stack import Stack
from reflux.task import Task
from reflux.worker import Worker
from services.gpu_trainer import spot
from tests.integration.by_hand import SPEC, HandWorker, eventually
from tests.metadata import NOTICE, Metadata, metadata


@pytest.fixture
def service() -> Iterator[Metadata]:
    with metadata() as there:
        yield there


def test_the_notice_is_asked_for_with_a_token_which_is_renewed(service: Metadata) -> None:
    with httpx.Client(base_url=service.url) as client:
        assert client.get("/latest/meta-data/spot/instance-action").status_code == 401, "IMDSv1 is off"
        token, notice = spot.look(client, "")
        assert (token in service.tokens, notice) == (True, None)
        assert spot.look(client, token) == (token, None)
        service.tokens.clear()
        assert spot.look(client, token) == ("", None), "it has expired: asked with a new one next"
        service.notice = NOTICE
        token, notice = spot.look(client, "")
        assert notice
        assert (notice.action, notice.time) == ("terminate", NOTICE["time"])
    assert service.asked == [401, 200, 404, 404, 401, 200, 200]


class Api(BaseHTTPRequestHandler):
    """Away at first, as an API may be in such a moment."""

    heard: list[tuple[str, bytes]] = []

    def do_POST(self) -> None:
        self.heard.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(503 if len(self.heard) == 1 else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


def test_the_process_ends_as_by_sigterm_and_the_api_is_told_until_it_hears(
    service: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
    monkeypatch.setenv("REFLUX_API_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("REFLUX_WORKER_KEY", "k")
    monkeypatch.setenv("REFLUX_SPOT", "1")
    monkeypatch.setattr(spot, "EVERY_SECONDS", 0.05)
    try:
        spot.watch()
        eventually(lambda: 404 in service.asked, 5, "it did not look")
        assert not told.is_set()
        service.notice = NOTICE
        assert told.wait(5)
        eventually(lambda: len(Api.heard) == 2, 5, "the API was told once")
    finally:
        signal.signal(signal.SIGTERM, before)
        server.shutdown()
        server.server_close()
    assert {path for path, _ in Api.heard} == {"/v1/resources/interrupted"}


def test_a_machine_that_is_no_spot_machine_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REFLUX_SPOT", raising=False)
    spot.watch()
    assert "spot" not in {thread.name for thread in threading.enumerate()}


def test_a_task_that_was_claimed_in_the_same_moment_is_given_back(
    client: Client, worker: HandWorker, control_plane: Stack
) -> None:
    """A machine waits for its next task when it is told to end, and gets it."""
    run = client.create(SPEC)
    a = worker.take(run.id)

    def handler(task: Task) -> Event:
        task.check()
        raise AssertionError("it was begun all the same")

    machine = Worker("machine", {a.command.kind: handler}, worker.api, control_plane.artifacts_url, worker.name)
    machine.shut_down()
    machine.carry_out(a)
    assert "task_handed_back" in [event.type for event in client.events(run.id, limit=100).data]
