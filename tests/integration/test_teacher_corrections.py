"""Corrections over real HTTP: which answers are corrected, what the teacher sees of them, and what it must never see."""

from pathlib import Path
from typing import Any

import pytest

from reflux.commands import Correct
from reflux.records import Answer, Correction, Evidence, Prompt, TeacherAnswer, Verdict
from reflux.spec import RunSpec
from reflux.stages import Stage
from reflux.task import Task
from services.teacher_worker import redaction
from services.teacher_worker.teaching import code_only, correct, question_text, teach
from tests.teacher_tasks import StandIn, answer_text, asking, prompt_text, task, teach_task


def verdict(i: int, overall: float) -> Verdict:
    evidence = Evidence(part="syntax", rule="gcc", message="expected ';' before '}' token", points=-4.0, line=3)
    scores = {"syntax": overall, "protocol": overall, "safety": overall, "style": overall}
    code = f"int f_{i:03d}(void) {{ return x }}"
    return Verdict(prompt_id=f"p{i:03d}", overall=overall, compiles=False, code=code, rubric="1", evidence=(evidence,), **scores)


def correct_task(folder: Path, run_spec: RunSpec, scores: list[float], **fields: Any) -> Task:
    more: dict[str, Any] = {"answers_paths": ("a.jsonl",), "verdicts_paths": ("v.jsonl",), "shard": 0} | fields
    hand = task(folder, Correct(stage=Stage.REFINING, epoch=2, **more), run_spec)
    hand.artifacts.write_rows("v.jsonl", [verdict(i, score) for i, score in enumerate(scores)])
    rows = [Answer(prompt_id=f"p{i:03d}", prompt=prompt_text(i), text="bad") for i in range(len(scores))]
    hand.artifacts.write_rows("a.jsonl", rows)
    return hand


def corrections(hand: Task, path: str) -> list[Correction]:
    return list(hand.artifacts.read_rows(path, Correction))


def test_the_worst_are_corrected_first_and_shared_out(teacher: StandIn, tmp_path: Path) -> None:
    scores = [6.9, 7.0, 2.0, 5.0, 2.0, 9.0, 1.0]
    found = []
    for shard in range(2):
        hand = correct_task(tmp_path, asking(teacher.url), scores, shard=shard, shards=2, limit=4)
        event = correct(hand)
        found.append([row.prompt_id for row in corrections(hand, event.path)])
        assert (event.requested, event.answered) == (2, 2)
        assert event.usage.calls == 2
    assert found == [["p006", "p004"], ["p002", "p003"]]


def test_a_correction_is_another_answer_than_the_attempt(teacher: StandIn, tmp_path: Path) -> None:
    hand = correct_task(tmp_path, asking(teacher.url), [1.0])
    hand.artifacts.write_rows("v.jsonl", [verdict(0, 1.0).model_copy(update={"code": answer_text(0, 1)[5:-4]})])
    (row,) = corrections(hand, correct(hand).path)
    assert row.answer.text == answer_text(0, 0)
    assert (row.ask, row.admitted, row.attempt.text) == (1, None, "bad")


def test_nothing_poor_buys_nothing(teacher: StandIn, tmp_path: Path) -> None:
    hand = correct_task(tmp_path, asking(teacher.url), [8.0, 9.0])
    event = correct(hand)
    assert (event.requested, event.answered, event.usage.calls) == (0, 0, 0)
    assert corrections(hand, event.path) == []
    assert teacher.calls() == []


def test_refused_corrections_are_asked_for_once_more(teacher: StandIn, tmp_path: Path) -> None:
    first = correct_task(tmp_path, asking(teacher.url), [1.0, 2.0])
    rows = corrections(first, correct(first).path)
    judged = [
        row.model_copy(update={"verdict": verdict(0, 0.5), "admitted": i == 0, "why": "lower"}) for i, row in enumerate(rows)
    ]
    first.artifacts.write_rows("judged.jsonl", judged)
    again = task(
        tmp_path, Correct(stage=Stage.REFINING, epoch=2, shard=0, ask=2, refused_path="judged.jsonl"), asking(teacher.url)
    )
    event = correct(again)
    (row,) = corrections(again, event.path)
    assert (row.prompt_id, row.ask, row.admitted, row.verdict) == ("p001", 2, None, None)
    assert event.usage.calls == 1
    assert len(teacher.calls(200)) == 3


def test_unrecorded_corrections_do_not_fail_the_epoch(teacher: StandIn, tmp_path: Path) -> None:
    hand = correct_task(tmp_path, asking(teacher.url), [1.0])
    hand.artifacts.write_rows("a.jsonl", [Answer(prompt_id="p000", prompt="Unheard of", text="bad")])
    event = correct(hand)
    assert (event.requested, event.answered) == (1, 0)


def test_the_teacher_sees_task_attempt_and_findings(tmp_path: Path) -> None:
    poor = verdict(3, 2.5)
    row = Correction(
        prompt_id="p003",
        prompt=prompt_text(3),
        attempt=Answer(prompt_id="p003", prompt=prompt_text(3), text="…"),
        attempt_verdict=poor,
        answer=TeacherAnswer(prompt_id="p003", prompt="", model="", text=answer_text(3)),
    )
    text = question_text(row)
    for part in (prompt_text(3), poor.code, "2.5 of 10", "- syntax, line 3: expected ';' before '}' token (-4)"):
        assert part in text
    refused = question_text(row.model_copy(update={"admitted": False, "why": "it scored 2.0", "verdict": poor}))
    assert "refused: it scored 2.0" in refused
    assert answer_text(3) in refused


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("Sure!\n```c\nint a;\n```\nDone.", "```c\nint a;\n```"),
        ("```c\nint a;\n```\nand\n```c\nint b;\n```", "```c\nint a;\n\nint b;\n```"),
        ("```\nint a;\n```", "```c\nint a;\n```"),
        ("```c\nint a;\n", "```c\nint a;\n```"),
        ("```cpp\nint a;\n```\n```sh\nmake\n```", "```cpp\nint a;\n```"),
        ("int a;", "int a;"),
        ("```c\n```", "```c\n```"),
        ("", ""),
    ],
)
def test_only_the_code_of_a_reply_is_kept(reply: str, code: str) -> None:
    assert code_only(reply) == code


# Secrets


@pytest.mark.parametrize(
    "secret",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + "a1B2" * 9,
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN OPENSSH PRIVATE KEY-----\ncut off here",
    ],
)
def test_secrets_are_blotted_out(secret: str) -> None:
    text, count = redaction.redacted(f"int a;\n// {secret}")
    assert count == 1
    assert text == "int a;\n// [REDACTED]"


def test_plain_code_is_left_alone() -> None:
    code = (
        'static const uint8_t key[] = {0x12, 0x34};\nconst char *password = "none";\nuint64_t clock_id = 0xFFFE0011AABBCCDDULL;'
    )
    assert redaction.redacted(code) == (code, 0)


def test_a_hosted_teacher_never_sees_a_secret(teacher: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEDROCK_API_KEY", "a-key")
    hand = teach_task(tmp_path, asking(teacher.url, provider="bedrock"))
    secret = "AKIAIOSFODNN7EXAMPLE"
    hand.artifacts.write_rows("prompts.jsonl", [Prompt(id="x", text=f"{prompt_text(1)} // {secret}", set="practice", family="x")])
    event = teach(hand)
    assert event.warnings == ("1 secrets were blotted out of what went to the teacher",)
    assert event.answered == 1
