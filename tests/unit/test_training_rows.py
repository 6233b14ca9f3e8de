"""The forms of rows that users bring; which rows an epoch trains on, and where each comes from."""

import re
from pathlib import Path

import pytest

from reflux.artifacts import Artifacts
from reflux.commands import Train
from reflux.errors import Terminal
from reflux.records import Answer, Correction, Example, Lineage, Message, TeacherAnswer, TrainedRow, Verdict
from reflux.stages import Stage
from reflux.task import Task
from services.gpu_trainer.rows import training_rows
from services.teacher_worker import uploads
from tests.unit.stories import spec

TURNS = (Message(role="user", content="Write f."), Message(role="assistant", content="int f;"))
SOURCE = Lineage(origin="source", path="a.c", lines=(1, 9), licence="MIT", sha256="s")


def taught(prompt_id: str, text: str) -> TeacherAnswer:
    return TeacherAnswer(
        prompt_id=prompt_id, prompt=f"Write {prompt_id}.", text=text, model="big", provider="bedrock", answered_at="2026-01-01"
    )


def verdict(overall: float) -> Verdict:
    parts = dict.fromkeys(("overall", "syntax", "protocol", "safety", "style"), overall)
    return Verdict(prompt_id="p2", compiles=True, code="x", rubric="1", **parts)


def test_every_row_that_is_trained_on_has_its_lineage(tmp_path: Path) -> None:
    store = Artifacts(f"file://{tmp_path}")
    store.write_rows("train.jsonl", [Example(id="e1", messages=TURNS, family="f", lineage=SOURCE)])
    store.write_rows("taught.jsonl", [taught("p1", "one"), taught("p2", "two")])
    better = Correction(
        prompt_id="p2",
        prompt="Write p2.",
        attempt=Answer(prompt_id="p2", prompt="Write p2.", text="bad"),
        attempt_verdict=verdict(4.0),
        answer=taught("p2", "two, better"),
        ask=2,
        verdict=verdict(9.0),
        admitted=True,
    )
    store.write_rows("corrections.jsonl", [better, better.model_copy(update={"prompt_id": "p1", "admitted": False})])
    command = Train(
        stage=Stage.TRAINING,
        epoch=2,
        train_path="train.jsonl",
        val_path="val.jsonl",
        taught_paths=("taught.jsonl",),
        corrections_paths=("corrections.jsonl",),
    )
    task = Task("r1", command, spec(), store)
    assert [(row.id, row.messages[-1].content) for row in training_rows(task, command)] == [
        ("e1", "int f;"),
        ("p1", "one"),
        ("p2", "two, better"),
    ]
    rows = {row.id: row.lineage for row in store.read_rows(f"{task.folder}/rows.jsonl", TrainedRow)}
    assert rows["e1"] == SOURCE
    assert rows["p1"] is not None
    assert (rows["p1"].origin, rows["p1"].teacher, rows["p1"].provider) == ("teacher", "big", "bedrock")
    assert rows["p2"] is not None
    assert (rows["p2"].origin, rows["p2"].attempt, rows["p2"].answered_at) == ("correction", 2, "2026-01-01")
    assert (rows["p2"].score_before, rows["p2"].score_after) == (4.0, 9.0)


FORMS = {
    "chat.jsonl": '{"messages": [{"role": "user", "content": "Ask."}, {"role": "assistant", "content": "int x;\\n\\nint y;"}]}\n',
    "exchange.jsonl": '\n{"prompt": "Ask.", "completion": "int x;\\n\\nint y;", "more": 1}\n',
    "chat.csv": 'messages\n"[{""role"": ""user"", ""content"": ""Ask.""}, '
    '{""role"": ""assistant"", ""content"": ""int x;\\n\\nint y;""}]"\n',
    "exchange.csv": '\ufeffprompt,completion\nAsk.,"int x;\n\nint y;"\n',
    "text.jsonl": '{"text": "int x;\\n\\nint y;"}\n',
    "text.csv": 'text\n"int x;\n\nint y;"\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_that_users_bring_is_read_where_it_lies(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FORMS[name])
    (row,) = uploads.examples(f"file://{tmp_path}/{name}")
    asked = () if name.startswith("text") else (Message(role="user", content="Ask."),)
    assert row.messages == (*asked, Message(role="assistant", content="int x;\n\nint y;"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"text": "a"}\n{"prompt": "a"}\n', "line 2: `completion` is empty"),
        ("a.jsonl", '{"text": 1}\n', "line 1: text: Input should be a valid string"),
        ("a.csv", "prompt,answer\na,b\n", "line 1: the header names neither"),
        ("a.csv", 'prompt,completion\na,b\n"a\n', "line 3: unexpected end of data"),
        ("a.csv", "prompt,completion\na,b\n,b\n", "line 3: `prompt` is empty"),
        ("a.csv", "text\n", "holds no rows"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(Terminal, match=re.escape(says)):
        list(uploads.examples(f"file://{tmp_path}/{name}"))
