"""A run's events as a stream: from any place, each once, over any number of lost connections."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from itertools import pairwise

import httpx
import pytest

from reflux.client import Client
from reflux.local.stack import Stack
from services.api import runs
from services.api.listening import Listener
from tests.integration.by_hand import SPEC, HandWorker, eventually
from tests.integration.desk import Desk

STREAM = {"Accept": "text/event-stream"}


class CuttingRoad:
    """A TCP road to a server. The first `cuts` connections break off after some hundred bytes of the answer."""

    def __init__(self, port: int, cuts: int) -> None:
        self.port, self.cuts, self.cut = port, cuts, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._lead, args=(near,), daemon=True).start()

    def _lead(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self.port)) as far:
            asked = near.recv(65536)
            far.sendall(asked)
            left = 10**9
            if b"text/event-stream" in asked and self.cut < self.cuts:
                self.cut += 1
                left = 1400 + 17 * self.cut  # somewhere within an event
            while left > 0 and (data := far.recv(min(left, 65536))):
                near.sendall(data)
                left -= len(data)


@pytest.fixture
def road(control_plane: Stack) -> Iterator[CuttingRoad]:
    road = CuttingRoad(control_plane.ports["api"], cuts=10)
    yield road
    road.listener.close()


def test_ten_lost_connections_and_each_event_once(
    client: Client, worker: HandWorker, road: CuttingRoad, control_plane: Stack
) -> None:
    run = client.create(SPEC)
    working = threading.Thread(target=worker.work, args=(run.id,))
    working.start()
    with Client(road.url, control_plane.keys["operator"]) as reader:
        reader.http.headers["Connection"] = "close"
        seen = [event.seq for event in reader.follow(run.id)]
    working.join()
    assert road.cut == 10
    assert seen == list(range(1, client.run(run.id).last_event + 1))


def test_replay_starts_after_the_last_event_that_was_seen(client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    worker.work(run.id)
    last = client.run(run.id).last_event
    for after in (0, 5, last - 1, last):
        answer = client.http.get(f"/v1/runs/{run.id}/events", headers=STREAM | {"Last-Event-ID": str(after)})
        lines = answer.text.splitlines()
        ids = [int(line[4:]) for line in lines if line.startswith("id:")]
        assert ids == list(range(after + 1, last + 1))
        bodies = [json.loads(line[5:]) for line in lines if line.startswith("data:")]
        assert [body["seq"] for body in bodies] == ids
    assert client.http.get(f"/v1/runs/{run.id}/events", headers=STREAM | {"Last-Event-ID": "x"}).status_code == 422
    assert client.http.get("/v1/runs/none/events", headers=STREAM).status_code == 404


def test_a_quiet_stream_has_a_heartbeat_and_an_event_wakes_it(client: Client, worker: HandWorker) -> None:
    """Nothing of the run moves: what comes is the heartbeat; then an abort, without any polling that would find it."""
    run = client.create(SPEC)
    worker.take(run.id)
    seen: list[str] = []

    def read() -> None:
        with client.http.stream("GET", f"/v1/runs/{run.id}/events", headers=STREAM, timeout=30) as response:
            for line in response.iter_lines():
                seen.append(line)
                if "abort_requested" in line:
                    return

    reading = threading.Thread(target=read)
    reading.start()
    eventually(lambda: any(line.startswith(": ping") for line in seen), 20, "no heartbeat")
    client.abort(run.id)
    reading.join(20)
    assert not reading.is_alive()


def test_many_readers_of_one_run_and_of_many(client: Client, worker: HandWorker, control_plane: Stack) -> None:
    """More streams than the API has connections to Postgres, and all hear all."""
    runs = [client.create(SPEC | {"name": f"read {n}"}).id for n in range(3)]
    heard: dict[int, list[int]] = {}

    def read(number: int) -> None:
        with Client(control_plane.api_url, control_plane.keys["operator"]) as reader:
            heard[number] = [event.seq for event in reader.follow(runs[number % 3])]

    readers = [threading.Thread(target=read, args=(number,)) for number in range(90)]
    for reader in readers:
        reader.start()
    for run in runs:
        client.abort(run)
        worker.work(run)
    for reader in readers:
        reader.join(60)
    lasts = [client.run(run).last_event for run in runs]
    assert {number: seqs[-1] for number, seqs in heard.items()} == {number: lasts[number % 3] for number in range(90)}
    assert all(b == a + 1 for seqs in heard.values() for a, b in pairwise(seqs))


def test_a_stream_outlives_postgres(client: Client, worker: HandWorker, control_plane: Stack) -> None:
    run = client.create(SPEC)
    held = worker.take(run.id)
    seen: list[int] = []
    reading = threading.Thread(target=lambda: seen.extend(event.seq for event in client.follow(run.id)))
    reading.start()
    worker.sql("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and usename = 'postgres'")
    with httpx.Client(base_url=control_plane.api_url, headers=client.http.headers) as other:
        eventually(lambda: other.post(f"/v1/runs/{run.id}/abort").status_code in (200, 202), 20, "no abort")
    worker.stopped(held)
    worker.work(run.id)
    reading.join(30)
    assert seen == list(range(1, client.run(run.id).last_event + 1))


def test_a_deletion_wakes_whoever_watches_the_run(desk: Desk) -> None:
    """A page shows a deleted run for as long as nobody tells it."""
    run_id = desk.create()
    desk.work(run_id)

    async def play() -> None:
        listener = Listener(desk.engine)
        listening = asyncio.create_task(listener.listen())
        with listener.watched(run_id) as rung, listener.watched() as any_rung:
            for event in (rung, any_rung):  # at its start the listener wakes everybody
                await asyncio.wait_for(event.wait(), 20)
                event.clear()
            await asyncio.to_thread(desk.do, lambda session: runs.delete(session, run_id, None))
            for event in (rung, any_rung):
                await asyncio.wait_for(event.wait(), 5)
        listening.cancel()

    asyncio.run(play())
