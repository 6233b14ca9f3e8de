"""Runs told to MLflow: by its REST calls, each fact once whatever is lost, and caught up after an outage."""

import math
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from reflux.client import Client
from reflux.commands import Train
from reflux.events import AbortRequested
from reflux.local.servers import free_port
from reflux.local.stack import Stack
from reflux.protocol import Assignment, Beat, MetricPoint
from reflux.worker import Api
from services.api import tasks
from services.api.mlflow import Away, Mlflow, key
from services.api.settings import Settings
from services.api.tracking import Tracker, client_of, tell_all
from tests.integration.by_hand import SPEC, HandWorker, eventually
from tests.integration.desk import Desk, completing
from tests.mlflow_server import MlflowServer


@pytest.fixture
def server() -> Iterator[MlflowServer]:
    with MlflowServer() as server:
        yield server
        server.shutdown()


@pytest.fixture
def tracker(server: MlflowServer, desk: Desk) -> Iterator[Tracker]:
    desk.clear()
    with httpx.Client(base_url=server.url, timeout=5) as http:
        yield Tracker(Mlflow(http, "ours"), desk.engine, "s3://bucket/", "https://reflux.example", settled=timedelta(0))


def beating(given: Assignment, step: int, **values: float) -> Callable[[Any], object]:
    body = Beat(attempt=given.attempt, metrics=[MetricPoint(step=step, values=values)])
    return lambda session: tasks.beat(session, given.task_id, body, Settings())


def trained(desk: Desk, **sections: Any) -> str:
    """A run whose trainings tell their loss at steps 5 and 10, worked to its end."""
    run_id = desk.create(refining={"max_epochs": 2}, metadata={"team": "gptp"}, **sections)
    while given := desk.work(run_id, lambda command: isinstance(command, Train)):
        for assignment in given:
            for step in (5, 10) if isinstance(assignment.command, Train) else ():
                desk.do(beating(assignment, step, loss=3.0 / step, learning_rate=1e-4))
            assert desk.do(completing(assignment)).accepted
    return run_id


def told_of(server: MlflowServer, run_id: str) -> dict[str, Any]:
    [run] = [run for run in server.runs.values() if run["tags"]["reflux.run_id"] == run_id]
    return run


def series(run: dict[str, Any], name: str) -> list[tuple[int, float]]:
    return sorted((step, value) for metric, value, _, step in run["metrics"] if metric == name)


def test_a_run_is_told_whole(tracker: Tracker, server: MlflowServer, desk: Desk) -> None:
    run_id = trained(desk)
    tracker.tell()
    run = told_of(server, run_id)
    assert series(run, "loss") == [(5, 0.6), (10, 0.3), (15, 0.6), (20, 0.3)], "steps go on from one epoch to the next"
    assert series(run, "practice/overall") == [(1, 9.0), (2, 9.0)]
    assert series(run, "practice/syntax") == series(run, "dev/overall") == series(run, "practice/overall")
    assert series(run, "epoch/val_loss") == [(1, 1.5), (2, 1.5)]
    assert series(run, "test/difference") == [(2, 1.0)]
    assert series(run, "total/cost_usd") == [(2, desk.run(run_id).usage.cost_usd)]
    assert run["params"]["refining.max_epochs"] == "2"
    assert run["params"]["student.model"] == desk.run(run_id).spec.student.model
    assert (
        run["tags"]
        | {
            "metadata.team": "gptp",
            "reflux.url": f"https://reflux.example/runs/{run_id}",
            "reflux.status": "succeeded",
            "reflux.best_epoch": "1",
            "reflux.adapter_uri": f"s3://bucket/runs/{run_id}/adapter",
        }
        == run["tags"]
    )
    assert run["info"]["status"] == "FINISHED"
    assert run["info"]["end_time"] == int(desk.row(run_id).ended_at.timestamp() * 1000)  # type: ignore[union-attr]
    calls = len(server.calls)
    tracker.tell()
    assert len(server.calls) == calls, "there is no news"


def test_a_run_is_told_as_it_goes(tracker: Tracker, server: MlflowServer, desk: Desk) -> None:
    run_id = desk.submit()
    tracker.tell()
    assert told_of(server, run_id)["info"]["status"] == "SCHEDULED"
    desk.do(lambda session: tasks.orphan(session, 0, 0, ""))
    running = desk.create(refining={"max_epochs": 2})
    [training] = desk.work(running, lambda command: isinstance(command, Train))
    desk.do(beating(training, 5, loss=0.5))
    tracker.tell()
    desk.do(beating(training, 10, loss=math.nan, memory_gb=math.inf))
    tracker.tell()
    run = told_of(server, running)
    assert run["info"]["status"] == "RUNNING"
    assert [step for step, _ in series(run, "loss")] == [5, 10]
    assert math.isnan(series(run, "loss")[1][1])
    assert series(run, "memory_gb") == [(10, math.inf)]
    desk.tell(running, AbortRequested())
    desk.work(running)
    tracker.tell()
    assert run["tags"]["reflux.status"] == desk.row(running).status


def test_what_is_told_again_is_the_same(tracker: Tracker, server: MlflowServer, desk: Desk) -> None:
    """The first call is carried out and its answer lost, then the second, and so on: nothing stands there twice."""
    run_id = trained(desk)
    for others in range(12):
        server.loses = others
        try:
            tracker.tell()
        except Away:
            continue
        break
    assert others > 3, "it was told in one go"
    run = told_of(server, run_id)
    assert run["told"] > len(run["metrics"]), "some were told twice"
    points = [(name, step) for name, _, _, step in run["metrics"]]
    assert len(points) == len(set(points))
    assert run["info"]["status"] == "FINISHED"


def test_an_outage_is_caught_up(tracker: Tracker, server: MlflowServer, desk: Desk) -> None:
    server.refusing = 503
    run_id = trained(desk)
    with pytest.raises(Away, match="503"):
        tracker.tell()
    assert desk.run(run_id).outcome == "succeeded", "the run has not noticed"
    server.refusing = None
    tracker.tell()
    assert len(series(told_of(server, run_id), "loss")) == 4


def test_a_server_that_forgot_is_told_anew(tracker: Tracker, server: MlflowServer, desk: Desk) -> None:
    run_id = trained(desk)
    tracker.tell()
    server.empty()
    going_on = desk.create()
    tracker.tell()
    tracker.waits.clear()
    tracker.tell()
    assert told_of(server, going_on)["info"]["status"] == "RUNNING"
    assert all(run["tags"]["reflux.run_id"] != run_id for run in server.runs.values()), "of what was over there is no news"


def test_a_run_that_is_refused_holds_no_other_up(tracker: Tracker, server: MlflowServer, desk: Desk) -> None:
    refused, other = desk.submit(), desk.submit()
    tracker.mlflow.run(refused, "somebody else's", desk.row(refused).created_at)
    told_of(server, refused)["params"]["recipe"] = "another"
    tracker.tell()
    assert told_of(server, other)["params"]["recipe"] == "distill"
    assert list(tracker.waits) == [refused]
    calls = len(server.calls)
    tracker.tell()
    assert all(call != "runs/search" for call in server.calls[calls:]), "it waits"


def test_a_deleted_run_is_let_go(tracker: Tracker, server: MlflowServer, desk: Desk) -> None:
    run_id = trained(desk)
    tracker.tell()
    desk.clear()
    tracker.tell()
    assert told_of(server, run_id)["info"]["status"] == "FINISHED"


def test_control_tells_with_the_server_s_password(
    server: MlflowServer, desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.clear()
    run_id = desk.create()
    names = {"URI": server.url, "USERNAME": "reflux", "PASSWORD": "s3cr3t-of-the-test"}
    monkeypatch.setattr("services.api.tracking.EVERY_SECONDS", 0.05)
    for name, value in names.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "students")
    stopping = threading.Event()
    control = threading.Thread(target=tell_all, args=(stopping, Settings(), desk.engine, threading.Event()))
    control.start()
    try:
        eventually(lambda: server.runs and told_of(server, run_id)["info"].get("status"), 20, "it was not told")
        server.refusing = 401
        desk.tell(run_id, AbortRequested())
        refused = len(server.calls)
        eventually(lambda: len(server.calls) > refused, 20, "the abort was not told")
    finally:
        stopping.set()
        control.join()
    assert list(server.experiments) == ["students"]
    assert all(headers["authorization"].startswith("Basic ") for headers in server.headers)
    assert "s3cr3t" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("https://mlflow.example/ml", ("https://mlflow.example/ml/x", None)),
        ("http://me:pass@mlflow.example", ("http://mlflow.example/x", "Basic bWU6cGFzcw==")),
        ("sqlite:///mlflow.db", None),
        ("databricks", None),
        ("http://h:port", None),
        ("http://", None),
    ],
)
def test_a_password_in_the_address_is_sent_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, address: str, sent: tuple[str, str | None] | None
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    client = client_of(Settings())
    if sent is None:
        assert client is None
        return
    assert client is not None
    with client:
        request = client.build_request("GET", "x")
        assert str(request.url) == sent[0]
        flow = (client.auth or httpx.Auth()).auth_flow(request)
        assert next(flow).headers.get("authorization") == sent[1]


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("loss", "loss"),
        ("eval/f1 (macro)", "eval/f1 _macro_"),
        ("../../loss", "loss"),
        ("/a//b/", "a/b"),
        ("größe:µ", "gr__e__"),
        ("..", "_"),
        ("a" * 300, "a" * 250),
    ],
)
def test_names_are_made_such_that_mlflow_takes_them(name: str, taken: str) -> None:
    assert key(name) == taken


MLFLOW = os.environ.get("REFLUX_TEST_MLFLOW") or shutil.which("mlflow")


@pytest.mark.long
@pytest.mark.skipif(
    MLFLOW is None, reason="REFLUX_TEST_MLFLOW names no `mlflow`: `pip install mlflow` in an environment of its own"
)
def test_a_real_server_takes_it(ground: Path) -> None:
    """Control and MLflow as processes. What is told twice stands there once, also in its own store."""
    assert MLFLOW
    port, folder = free_port(), ground / "mlflow"
    folder.mkdir()
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder)]
    command = [MLFLOW, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *store]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        mlflow = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: is_there(f"{url}/health"), 300, "MLflow does not answer; see its log")
        with (
            Stack(ground / "tracked", workers={}, durable=False, env={"MLFLOW_TRACKING_URI": url}) as stack,
            Client(stack.api_url, stack.keys["operator"]) as client,
            httpx.Client(base_url=f"{url}/api/2.0/mlflow/", timeout=30) as http,
        ):
            api = Api(stack.api_url, stack.keys["worker"])
            with api.http:
                worker = HandWorker(api, stack)
                run = client.create(SPEC)
                training = worker.work(run.id, until=lambda command: isinstance(command, Train))
                assert training
                worker.beat(
                    training, metrics=[{"step": step, "values": {"loss": 1 / step, "odd (name)": 1.0}} for step in (1, 2)]
                )
                worker.complete(training)
                worker.work(run.id)

            def finished() -> dict[str, Any] | None:
                experiments = http.post("experiments/search", json={"max_results": 10}).json()["experiments"]
                ids = [one["experiment_id"] for one in experiments if one["name"] == "reflux"]
                found = http.post("runs/search", json={"experiment_ids": ids}).json().get("runs", []) if ids else []
                return next((one for one in found if one["info"]["status"] == "FINISHED"), None)

            told = eventually(finished, 180, "the run was not told of")
            ended = worker.sql("select seq from tracked where run_id = %s", run.id)
            worker.sql("delete from tracked where run_id = %s", run.id)
            eventually(
                lambda: worker.sql("select seq from tracked where run_id = %s", run.id) == ended, 60, "it was not told again"
            )
            params = {param["key"]: param["value"] for param in told["data"]["params"]}
            tags = {tag["key"]: tag["value"] for tag in told["data"]["tags"]}
            assert params["refining.max_epochs"] == "2"
            assert (tags["reflux.run_id"], tags["reflux.status"]) == (run.id, "succeeded")
            for name, points in (("loss", 2), ("odd _name_", 2), ("practice/overall", 2), ("total/cost_usd", 1)):
                query = {"run_id": told["info"]["run_id"], "metric_key": name}
                history = http.get("metrics/get-history", params=query).json()["metrics"]
                assert len(history) == points, name
    finally:
        os.killpg(mlflow.pid, signal.SIGKILL)  # its own children too
        mlflow.wait()


def is_there(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False
