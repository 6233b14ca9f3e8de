"""What control sees, and what it must not mistake for a death."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import redis
from sqlalchemy import func, select, update

from reflux.stages import Stage
from services.api import tasks
from services.api.control import admit, due, watch
from services.api.publishing import STREAM, publish
from services.api.tables import TaskRow
from tests.integration.desk import Desk, Work, completing, losing


def now(desk: Desk) -> datetime:
    return desk.do(lambda session: session.execute(select(func.now())).scalar_one())


def ago(desk: Desk, task_id: int, **times: float) -> None:
    """As if this had been so many seconds ago."""
    values: dict[str, Any] = {name: func.now() - timedelta(seconds=seconds) for name, seconds in times.items()}
    desk.do(lambda session: session.execute(update(TaskRow).where(TaskRow.id == task_id).values(**values)))


def test_silence_counts_only_while_the_api_could_hear(desk: Desk) -> None:
    """After ten minutes without API, database or watcher, everybody has a whole lease to be heard of again."""
    run_id = desk.create()
    (given,) = desk.take_all(run_id)
    ago(desk, given.task_id, heard_at=600)
    watch(desk.engine, desk.settings, None)
    assert desk.task(given.task_id).status == "claimed", "whoever was blind has seen nothing"
    watch(desk.engine, desk.settings, now(desk) - timedelta(seconds=40))
    assert desk.task(given.task_id).status == "claimed", "the lease begins when the API can hear"
    watch(desk.engine, desk.settings, now(desk) - timedelta(seconds=50))
    assert (desk.task(given.task_id).status, desk.task(given.task_id).orphaned_at is None) == ("ready", False)


def test_a_long_wait_for_a_busy_gpu_is_no_loss(desk: Desk) -> None:
    """Nothing happens to a task that nobody has claimed, but that it is rung for again, at most each minute."""
    run_id = desk.create()
    (waiting,) = desk.tasks(run_id, "ready")
    ago(desk, waiting.id, created_at=86_400, due_at=86_400, ring_at=1)
    watch(desk.engine, desk.settings, now(desk) - timedelta(days=1))
    task = desk.task(waiting.id)
    assert (task.status, task.attempt, task.barren, task.orphaned_at) == ("ready", 0, 0, None)
    assert waiting.id in desk.do(lambda session: [task.id for task in due(session)])


def test_two_watchers_take_a_silent_task_once(desk: Desk) -> None:
    """The second comes when another worker has the task already, and must not take it from that one."""
    run_id = desk.create()
    (given,) = desk.take_all(run_id)
    assert desk.race(losing(given), losing(given)) == (None, None)
    again = desk.claim(given.task_id, token="again")
    assert again is not None
    desk.do(losing(given))
    task = desk.task(given.task_id)
    assert (task.status, task.attempt, task.barren) == ("claimed", 2, 1)


def test_a_beat_saves_a_task_that_a_watcher_was_about_to_take(desk: Desk) -> None:
    run_id = desk.create()
    (given,) = desk.take_all(run_id)
    ago(desk, given.task_id, heard_at=600)
    last = desk.task(given.task_id).heard_at
    ago(desk, given.task_id, heard_at=0)
    desk.do(lambda session: tasks.orphan(session, given.task_id, given.attempt, "silent", unheard_since=last))
    assert desk.task(given.task_id).status == "claimed"


def test_a_success_races_the_watcher(desk: Desk) -> None:
    """Given up or not, what is done is done, and the run goes on once."""
    for success_first in (True, False):
        run_id = desk.create()
        (given,) = desk.until_stage(run_id, Stage.TRAINING)
        parties = completing(given), losing(given)
        told = desk.race(*parties) if success_first else desk.race(*reversed(parties))
        accepted = told[0] or told[1]
        assert accepted is not None
        assert accepted.accepted
        desk.work(run_id)
        assert desk.run(run_id).outcome == "succeeded"
        assert sum(event.type == "adapter_trained" and event.body["key"] == "train-001" for event in desk.events(run_id)) == 1


def test_two_controls_admit_no_more_runs_than_there_is_room_for(desk: Desk) -> None:
    desk.clear()
    settings = desk.settings.model_copy(update={"max_active_runs": 2})
    waiting = [desk.submit() for _ in range(4)]
    for _ in range(2):
        desk.at_once(lambda: admit(desk.engine, settings), lambda: admit(desk.engine, settings))
    assert [desk.row(run_id).status for run_id in waiting] == ["validating", "validating", "queued", "queued"]


@pytest.fixture
def valkey(desk: Desk, control_plane: Any) -> Any:
    """A stream that the running control process does not write to."""
    with redis.Redis(port=control_plane.ports["valkey"], db=5, decode_responses=True) as client:
        client.flushdb()
        yield client


def published(valkey: Any) -> list[tuple[str, int]]:
    return [(fields["run_id"], int(fields["seq"])) for _, fields in valkey.xrange(STREAM)]


def test_an_event_that_is_committed_late_is_published_all_the_same(desk: Desk, valkey: Any) -> None:
    """Its id is lower than that of an event which was published before it was committed."""
    desk.clear()
    slow, quick = desk.create(), desk.create()
    publish(desk.engine, valkey)

    def completing_slowly() -> Work[Any]:
        (given,) = desk.take_all(slow)

        def work(session: Any) -> None:
            completing(given)(session)
            session.flush()
            desk.work(quick)
            publish(desk.engine, valkey)

        return work

    desk.do(completing_slowly())
    assert len(published(valkey)) < len(desk.events(slow)) + len(desk.events(quick))
    publish(desk.engine, valkey)
    for run_id in (slow, quick):
        assert [seq for run, seq in published(valkey) if run == run_id] == [e.seq for e in desk.events(run_id)]


def test_two_controls_publish_each_event_once(desk: Desk, valkey: Any) -> None:
    desk.clear()
    runs = [desk.create() for _ in range(3)]
    for run_id in runs:
        desk.work(run_id)
    desk.at_once(lambda: publish(desk.engine, valkey), lambda: publish(desk.engine, valkey))
    publish(desk.engine, valkey)
    told = published(valkey)
    assert len(told) == len(set(told)) == sum(len(desk.events(run_id)) for run_id in runs)


def test_what_could_not_be_published_while_valkey_was_away_is_published_later(desk: Desk, valkey: Any) -> None:
    desk.clear()
    run_id = desk.create()
    away = redis.Redis(port=1, socket_connect_timeout=0.2)
    with pytest.raises(redis.RedisError):
        publish(desk.engine, away)
    publish(desk.engine, valkey)
    assert [seq for _, seq in published(valkey)] == [e.seq for e in desk.events(run_id)]
