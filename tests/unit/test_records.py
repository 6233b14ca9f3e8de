"""Rows: exact, frozen, closed to fields that nobody knows."""

from typing import Any

import pytest
from pydantic import ValidationError

from reflux.records import (
    Answer,
    Correction,
    Evidence,
    Example,
    Lineage,
    Message,
    Prompt,
    Record,
    TeacherAnswer,
    Verdict,
    digest,
)

ANSWER = Answer(prompt_id="p1", prompt="Write …", text="```c\nint x;\n```", tokens=9)
VERDICT = Verdict(
    prompt_id="p1",
    overall=5.5,
    syntax=10,
    protocol=4,
    safety=8,
    style=5,
    compiles=True,
    code="int x;",
    rubric="1",
    evidence=(Evidence(part="style", rule="comments", message="no comment", points=-1.5, line=1, column=1),),
    metrics={"lines": 1},
)
TEACHER = TeacherAnswer(prompt_id="p1", prompt="Correct …", text="int y;", model="teacher", cost_usd=0.01)
ROWS: list[Record] = [
    ANSWER,
    VERDICT,
    TEACHER,
    Prompt(id="p1", text="Write …", set="dev", family="f1"),
    Example(
        id="e1",
        messages=(Message(role="user", content="a\u2028b"), Message(role="assistant", content="c")),
        family="f1",
        lineage=Lineage(origin="source", path="a.c", lines=(1, 9), licence="MIT"),
    ),
    Correction(
        prompt_id="p1", prompt="Write …", attempt=ANSWER, attempt_verdict=VERDICT, answer=TEACHER, admitted=True, verdict=VERDICT
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_survives_json_on_one_line(row: Record) -> None:
    text = row.model_dump_json()
    assert "\n" not in text
    assert type(row).model_validate_json(text) == row


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_is_frozen_and_closed(row: Record) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(row, next(iter(type(row).model_fields)), "changed")
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(row).model_validate(row.model_dump() | {"surprise": 1})


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (Message, {"role": "tool", "content": "x"}),
        (Prompt, {"id": "p", "text": "t", "set": "train", "family": "f"}),
        (Lineage, {"origin": "thin air"}),
        (Lineage, {"origin": "source", "lines": [1]}),
        (Answer, {"prompt_id": "p", "prompt": "t", "text": None}),
    ],
)
def test_a_row_refuses_what_it_does_not_know(model: type[Record], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(fields)


def test_a_digest_is_short_stable_and_keeps_parts_apart() -> None:
    assert digest("a", "b") == digest("a", "b") == "f04cdced9736a69d"
    assert len({digest("ab"), digest("a", "b"), digest("b", "a"), digest("a", "b", ""), digest("")}) == 5
