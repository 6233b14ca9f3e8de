"""Plays runs through the API's own transactions, and writes their histories: python -m tests.record_histories VERSION [STORY…]

What is written is kept for good: the loop of every later version must end each of these runs as this one did.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from reflux.commands import Command
from reflux.errors import failure
from reflux.events import AbortRequested, PauseRequested, ResumeRequested, RunAdmitted, TimeLimitReached
from reflux.local.stack import Stack
from reflux.protocol import Assignment
from reflux.run import Run, fork
from reflux.stages import Stage
from services.api import runs, tasks
from services.api.tables import TaskRow
from tests.integration.desk import Desk, Work, database, failing, losing, stopping
from tests.unit import stories

FOLDER = Path(__file__).parent / "unit" / "histories"
EPOCHS = {"refining": {"max_epochs": 2}}


def main(version: str, *only: str) -> None:
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="reflux-histories-") as name:
        Path(name).chmod(0o755)
        with Stack(Path(name) / "stack", workers={}, durable=False) as stack, database(stack.ports["postgres"], "desk") as engine:
            for story in only or STORIES:
                desk = Desk(engine)
                start, run_id = STORIES[story](desk)
                write(desk, start, run_id, FOLDER / f"{story}-{version}.jsonl")


def write(desk: Desk, start: Run, run_id: str, file: Path) -> None:
    end = desk.run(run_id)
    assert end.stage.terminal
    head = {"run": start.model_dump(mode="json"), "outcome": end.outcome}
    lines = [{**event.body, "type": event.type, "status": event.status} for event in desk.events(run_id)]
    file.write_text("".join(json.dumps(line) + "\n" for line in (head, *lines)), encoding="utf-8")


def begun(desk: Desk, **sections: Any) -> tuple[Run, str]:
    run_id = desk.submit(**sections)
    start = desk.run(run_id)
    desk.tell(run_id, RunAdmitted())
    return start, run_id


def answering(given: Assignment) -> Work[Any]:
    """What the first epoch answers is poor, so that there are corrections."""
    command = given.command
    poor = command.kind == "score" and command.epoch == 1
    facts = stories.scores(command.chunk, 5.0, poor=command.chunk.count) if poor else {}  # type: ignore[union-attr]
    event = stories.answer(command, **facts)
    return lambda session: tasks.complete(session, given.task_id, given.attempt, event)


def play_on(desk: Desk, run_id: str, until: Callable[[Command], bool] = lambda _: False) -> Assignment:
    """Do what there is to do, one after the other, until it is over, or `until` says so of what was claimed: that is given."""
    while given := desk.claim(desk.tasks(run_id, "ready")[0].id):
        if until(given.command):
            return given
        assert desk.do(answering(given)).accepted
        if not desk.tasks(run_id, "ready"):
            break
    return given


def is_(kind: str, epoch: int) -> Callable[[Command], bool]:
    return lambda command: (command.kind, command.epoch) == (kind, epoch)


def paused(desk: Desk) -> tuple[Run, str]:
    start, run_id = begun(desk, **EPOCHS)
    given = play_on(desk, run_id, is_("train", 2))
    desk.do(lambda session: runs.ask(session, run_id, PauseRequested(by="someone")))
    desk.do(stopping(given))
    desk.do(lambda session: runs.ask(session, run_id, ResumeRequested(by="someone")))
    play_on(desk, run_id)
    return start, run_id


def forked(desk: Desk) -> tuple[Run, str]:
    _, parent = begun(desk, **EPOCHS)
    play_on(desk, parent)
    spec = stories.spec(refining={"max_epochs": 3})
    start = fork(desk.run(parent), 1, f"{parent}-fork", spec)
    desk.do(lambda session: runs.insert(session, start, "someone", None, "fork"))
    desk.tell(start.id, RunAdmitted())
    play_on(desk, start.id)
    return start, start.id


def reviewed(desk: Desk) -> tuple[Run, str]:
    start, run_id = begun(desk, refining={"max_epochs": 2, "review": True})
    play_on(desk, run_id)
    for review in (task for task in desk.tasks(run_id, "ready") if task.kind == "review"):
        command = desk.run(run_id).open[review.key]

        def deciding(session: Session, task_id: int = review.id, command: Command = command) -> Any:
            return tasks.complete(session, task_id, 1, stories.answer(command))

        assert desk.do(deciding).accepted
    play_on(desk, run_id)
    return start, run_id


def failed(desk: Desk) -> tuple[Run, str]:
    start, run_id = begun(desk, **EPOCHS)
    desk.do(losing(play_on(desk, run_id, is_("prepare", 0))))
    desk.do(failing(play_on(desk, run_id, is_("train", 1)), "nan_loss"))
    play_on(desk, run_id)
    return start, run_id


def taken_back(desk: Desk) -> tuple[Run, str]:
    """Its machine, in the second training; the next one is asked for without its wait."""
    start, run_id = begun(desk, compute={"kind": "ec2"}, **EPOCHS)
    given = play_on(desk, run_id, is_("train", 2))
    why = failure("spot_interrupted", "i-1 is taken back by its provider")
    desk.do(lambda session: tasks.machine_lost(session, run_id, f"reflux-{run_id}-1", why, name="i-1"))
    desk.do(losing(given))
    desk.do(lambda session: session.execute(update(TaskRow).where(TaskRow.run_id == run_id).values(due_at=func.now())))
    play_on(desk, run_id)
    return start, run_id


def ended_by(
    event: AbortRequested | TimeLimitReached, kind: str, epoch: int, **sections: Any
) -> Callable[[Desk], tuple[Run, str]]:
    def play(desk: Desk) -> tuple[Run, str]:
        start, run_id = begun(desk, **EPOCHS, **sections)
        given = play_on(desk, run_id, is_(kind, epoch))
        desk.tell(run_id, event)
        desk.do(stopping(given))
        play_on(desk, run_id)
        return start, run_id

    return play


def whole(**sections: Any) -> Callable[[Desk], tuple[Run, str]]:
    def play(desk: Desk) -> tuple[Run, str]:
        start, run_id = begun(desk, **sections)
        play_on(desk, run_id)
        return start, run_id

    return play


STORIES: dict[str, Callable[[Desk], tuple[Run, str]]] = {
    "pause": paused,
    "fork": forked,
    "review": reviewed,
    "failed": failed,
    "limit": ended_by(TimeLimitReached(), "generate", 2),
    "stage-limit": ended_by(TimeLimitReached(stage=Stage.TRAINING), "train", 2, limits={"max_stage_runtime": {"training": "4h"}}),
    "comparison-left-out": ended_by(
        TimeLimitReached(stage=Stage.EVALUATING), "compare", 2, limits={"max_stage_runtime": {"evaluating": "20m"}}
    ),
    "abort": ended_by(AbortRequested(by="someone"), "generate", 1),
    "finetune": whole(recipe="finetune"),
    "job": whole(recipe="job"),
    "machine": taken_back,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
