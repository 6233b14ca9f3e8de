"""Runs as they were recorded by earlier versions, told again to today's loop: a deploy in the middle of a run changes nothing.

A history is the run as it was created (in the first ones its `spec` alone) and its `outcome`, then its events
(GET /v1/runs/{id}/events), a line each. `tests/record_histories.py` writes them.
"""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from reflux.events import Event, EventAdapter
from reflux.loop import decide
from reflux.queues import ROUTES
from reflux.run import Run
from reflux.spec import RunSpec

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.jsonl"))
FACTS = {event.model_fields["type"].default for event in get_args(get_args(Event)[0])}


@pytest.mark.parametrize("file", HISTORIES, ids=lambda file: file.stem)
def test_a_recorded_history_ends_as_it_did(file: Path) -> None:
    head, *lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    run = created(head)
    given: dict[str, str] = {}
    for line in lines:
        if line["type"] in FACTS:
            run, commands = decide(run, EventAdapter.validate_python(line))
            run = Run.model_validate_json(run.model_dump_json())
            given |= {command.key: command.kind for command in commands}
            assert run.status == line["status"], line["type"]
    assert run.outcome == head["outcome"]
    assert {key for key, kind in given.items() if kind in ROUTES} == claimed(lines)


@pytest.mark.parametrize("file", HISTORIES, ids=lambda file: file.stem)
def test_a_history_may_break_off_anywhere_and_be_told_twice(file: Path) -> None:
    head, *lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    run = created(head)
    for line in lines:
        if line["type"] in FACTS:
            event = EventAdapter.validate_python(line)
            run, _ = decide(run, event)
            assert decide(run, event) == (run, ()), line["type"]


def created(head: dict[str, Any]) -> Run:
    return Run.model_validate(head["run"]) if "run" in head else Run(id="r1", spec=RunSpec.model_validate(head["spec"]))


def claimed(lines: list[dict[str, Any]]) -> set[str]:
    """The commands that workers took, in that run."""
    return {line["key"] for line in lines if line["type"] == "task_claimed"}
