"""`reflux run tensorboard`: the scalars of a run in event files that TensorBoard reads, each once, also of a run that goes on."""

import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reflux.cli.tensorboard import Scribe
from reflux.client import Client
from reflux.commands import Train
from reflux.local.servers import free_port
from reflux.local.stack import Stack
from reflux.protocol import Assignment
from tests.integration.by_hand import SPEC, HandWorker, eventually
from tests.integration.test_api_cli import COMMAND, call, surroundings


def series(folder: Path, name: str) -> list[tuple[int, float]]:
    read = EventAccumulator(str(folder)).Reload()
    return [(event.step, round(event.value, 4)) for event in read.Scalars(name)] if name in read.Tags()["scalars"] else []


def training(client: Client, worker: HandWorker) -> Assignment:
    run = client.create(SPEC)
    given = worker.work(run.id, until=lambda command: isinstance(command, Train))
    assert given
    return given


def test_a_run_that_goes_on_is_written_on(client: Client, worker: HandWorker, control_plane: Stack, tmp_path: Path) -> None:
    given = training(client, worker)
    folder = tmp_path / given.run_id
    worker.beat(given, metrics=[{"step": step, "values": {"loss": 3.0 / step}} for step in (5, 10)])
    scribe = Scribe(client, given.run_id, tmp_path)
    assert scribe.write(), "it goes on"
    assert scribe.write()
    assert series(folder, "loss") == [(5, 0.6), (10, 0.3)], "each once"
    assert series(folder, "practice/overall") == []
    worker.complete(given)
    given = worker.work(given.run_id, until=lambda command: isinstance(command, Train))
    assert given
    worker.beat(given, metrics=[{"step": 5, "values": {"loss": 0.2}}])
    worker.complete(given)
    worker.work(given.run_id)
    assert not scribe.write(), "it is over"
    assert series(folder, "loss") == [(5, 0.6), (10, 0.3), (15, 0.2)]
    assert series(folder, "practice/syntax") == [(1, 9.0), (2, 9.0)]
    assert series(folder, "test/difference") == [(2, 1.0)]

    told = call(control_plane, "run", "tensorboard", given.run_id, "--no-serve", "-o", str(tmp_path))
    assert told.exit_code == 0, told.output
    assert f"points are in {tmp_path}" in told.output.replace("\n", "")
    assert series(folder, "loss") == [(5, 0.6), (10, 0.3), (15, 0.2)], "what an earlier call wrote is written anew"


@pytest.mark.long
def test_tensorboard_is_started_on_it(client: Client, worker: HandWorker, control_plane: Stack, tmp_path: Path) -> None:
    given, port = training(client, worker), free_port()
    worker.beat(given, metrics=[{"step": 5, "values": {"loss": 0.6}}])
    command = [*COMMAND, "run", "tensorboard", given.run_id, "-o", str(tmp_path), "--port", str(port)]
    board = subprocess.Popen(command, env=surroundings(control_plane), start_new_session=True)

    def tags() -> dict[str, dict[str, object]]:
        try:
            found: dict[str, dict[str, object]] = httpx.get(f"http://127.0.0.1:{port}/data/plugin/scalars/tags").json()
            return found
        except httpx.HTTPError:
            return {}

    try:
        shown = eventually(tags, 120, "TensorBoard shows nothing")
        assert list(shown[given.run_id]) == ["loss"]
    finally:
        os.killpg(board.pid, signal.SIGINT)
        assert board.wait(30) == 0
