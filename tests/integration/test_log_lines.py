"""What log lines say of the task or the run that they are about; a worker's, the beat's own thread included."""

from datetime import timedelta

import httpx
from sqlalchemy import func, update
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from reflux.client import Client
from reflux.errors import Terminal
from reflux.events import AbortRequested, Event
from reflux.local.stack import Stack
from reflux.stages import Stage
from reflux.task import Task
from reflux.worker import Api, Worker
from services.api import runs
from services.api.control import watch
from services.api.tables import RunRow
from tests.integration.by_hand import SPEC, HandWorker, eventually
from tests.integration.desk import Desk, losing

NAMES = ("run_id", "task", "attempt", "epoch", "stage")
NOWHERE = "http://127.0.0.1:9"


def test_every_line_about_a_task_names_run_task_attempt_epoch_and_stage(
    control_plane: Stack, client: Client, worker: HandWorker
) -> None:
    run = client.create(SPEC)
    given = worker.work(run.id, lambda command: command.kind == "train")
    assert given
    worker.stopped(given, handed_back=True)
    worker.sql("update tasks set due_at = now() + interval '1 day' where status = 'ready' and run_id <> %s", run.id)  # their turn
    api = Api(control_plane.api_url, control_plane.keys["worker"])

    def train(task: Task) -> Event:
        """While the API is away, then ending in an error."""
        api.http = httpx.Client(base_url=NOWHERE)
        eventually(lambda: any(line["event"] == "beat_unheard" for line in lines), 20.0, "no beat was missed")
        api.http.close()
        api.http = there
        raise Terminal("nan_loss", "it diverged")

    with api.http as there, capture_logs([merge_contextvars]) as lines:
        hand = Worker("gpu_trainer", {"train": train}, api, control_plane.environment()["REFLUX_ARTIFACTS_URL"], "lines")
        hand.register({})
        hand.hear(given.task_id)
    about = [line for line in lines if line["event"] != "registered"]
    assert {"task_begun", "beat_unheard", "task_failed", "task_reported"} <= {str(line["event"]) for line in about}
    expected = {"run_id": run.id, "task": "train-001", "attempt": 2, "epoch": 1, "stage": "training"}
    assert [{name: line.get(name) for name in NAMES} for line in about] == [expected] * len(about)
    client.abort(run.id)


def test_what_control_says_of_a_task_names_it_as_workers_do(desk: Desk) -> None:
    run_id = desk.create()
    (given,) = desk.until_stage(run_id, Stage.TRAINING)
    long_ago = {"stopping_since": func.now() - timedelta(hours=1)}
    with capture_logs() as lines:
        desk.do(losing(given))
        again = desk.held(given.task_id)
        desk.do(lambda session: runs.ask(session, run_id, AbortRequested()))
        desk.do(lambda session: session.execute(update(RunRow).where(RunRow.id == run_id).values(long_ago)))
        watch(desk.engine, desk.settings, None)
        desk.tell(run_id, AbortRequested())
    named = {"run_id": run_id, "task": "train-001", "epoch": 1, "stage": "training"}
    orphaned, forced, stale = lines
    assert (orphaned["event"], forced["event"], stale["event"]) == ("task_orphaned", "stop_forced", "stale_event")
    assert orphaned.items() >= (named | {"attempt": 1}).items()
    assert forced.items() >= (named | {"attempt": again.attempt}).items()
    assert (stale["run_id"], stale["epoch"], stale["stage"]) == (run_id, 1, "cleaning_up")
