"""The database goes forward while runs go on: a run of the first version ends on today's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from reflux.events import EventAdapter
from reflux.local.stack import Stack
from reflux.loop import decide
from reflux.run import Run
from reflux.spec import RunSpec
from services.api.database import MIGRATIONS, migrate
from tests.integration.desk import Desk, database
from tests.unit.test_histories import FACTS

HISTORY = Path(__file__).parents[1] / "unit" / "histories" / "distill-0.1.0.jsonl"
FIRST = "0001"


@pytest.fixture
def engine(control_plane: Stack) -> Iterator[Engine]:
    with database(control_plane.ports["postgres"], "migrations") as engine:
        yield engine


def config(connection: Any = None) -> Config:
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS))
    made.attributes["connection"] = connection
    return made


def upgrade(engine: Engine, revision: str) -> None:
    with engine.connect() as connection:
        command.upgrade(config(connection), revision)
        connection.commit()


def told_until(kind: str) -> tuple[Run, list[dict[str, Any]]]:
    """The recorded run, up to where a command of `kind` was given."""
    head, *lines = [json.loads(line) for line in HISTORY.read_text(encoding="utf-8").splitlines()]
    run, told = Run(id="recorded", spec=RunSpec.model_validate(head["spec"])), []
    for line in lines:
        told.append(line)
        if line["type"] in FACTS:
            run, commands = decide(run, EventAdapter.validate_python(line))
            if any(command.kind == kind for command in commands):
                return run, told
    raise AssertionError(f"no {kind} in the history")


def insert(engine: Engine, table: str, **values: Any) -> None:
    names = ", ".join(values)
    places = ", ".join(f":{name}" for name in values)
    packed = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}
    with engine.begin() as connection:
        connection.execute(text(f"insert into {table} ({names}) values ({places})"), packed)


def insert_run(engine: Engine, run: Run, events: list[dict[str, Any]], run_id: str) -> None:
    """As the first version wrote it: only the columns that it knew."""
    state = run.but(id=run_id).model_dump(mode="json")
    insert(
        engine, "runs", id=run_id, name="old", recipe="distill", status=run.status, stage=run.stage.value, labels={},
        state=state, seq=len(events), projected_seq=0, body_hash="",
    )  # fmt: skip
    for seq, event in enumerate(events, 1):
        insert(engine, "events", run_id=run_id, seq=seq, type=event["type"], status=event["status"], body=event)
    for key, given in run.open.items():
        insert(
            engine, "tasks", run_id=run_id, key=key, kind=given.kind, stage=given.stage.value, epoch=given.epoch,
            command=given.model_dump(mode="json"), status="ready", attempt=0, failures=0, barren=0, rings=0,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["teach", "train", "score", "deliver"])
def test_a_run_of_the_first_version_ends_on_today_s(engine: Engine, kind: str) -> None:
    upgrade(engine, FIRST)
    run, events = told_until(kind)
    insert_run(engine, run, events, "r1")
    desk = Desk(engine)  # brings the schema forward
    assert desk.run("r1") == run.but(id="r1")
    desk.work("r1")
    assert desk.run("r1").outcome == "succeeded"
    assert [event.seq for event in desk.events("r1")] == list(range(1, desk.row("r1").seq + 1))


def test_a_process_of_the_first_version_may_still_write_to_today_s_schema(engine: Engine) -> None:
    """For the moment of a deploy in which old processes go on: whatever is new has a default."""
    upgrade(engine, FIRST)
    run, events = told_until("train")
    insert_run(engine, run, events, "before")
    upgrade(engine, "head")
    insert_run(engine, run, events, "after")
    desk = Desk(engine)
    for run_id in ("before", "after"):
        desk.work(run_id)
        assert desk.run(run_id).outcome == "succeeded"


def test_the_migrations_are_one_line(engine: Engine) -> None:
    script = ScriptDirectory.from_config(config())
    assert len(script.get_heads()) == 1
    upgrade(engine, "head")
    assert {"runs", "events", "tasks"} <= set(inspect(engine).get_table_names())


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_can_not_hold_every_text_is_refused(control_plane: Stack, encoding: str) -> None:
    with database(control_plane.ports["postgres"], "narrow", encoding) as narrow:
        with pytest.raises(SystemExit, match=f"encoding is {encoding}.*Make one with ENCODING 'UTF8'"):
            migrate(narrow)
        assert inspect(narrow).get_table_names() == []
