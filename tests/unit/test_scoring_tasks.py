"""The evaluator's three handlers, by hand: real files in, real files out."""

from pathlib import Path

import pytest

from reflux.artifacts import Artifacts
from reflux.commands import Chunk, Command, Compare, Judge, Score
from reflux.errors import Stopped, Terminal
from reflux.records import Answer, Correction, TeacherAnswer, Verdict
from reflux.spec import RunSpec
from reflux.stages import Stage
from reflux.task import Task
from services.evaluator import tasks

GOOD = """```c
#include <stdint.h>
/** @brief The gate's state for a priority of the schedule. */
uint8_t gate_state(const uint8_t *schedule, uint8_t priority)
{
    return (uint8_t)((schedule[0] >> priority) & 1U);
}
```"""
BAD = "```c\nvoid gate(void) { goto out; out: free(x); }\n```"


def a_task(tmp_path: Path, command: Command, **spec: object) -> Task:
    run = RunSpec.model_validate({"data": {"sources": [{"uri": "file:///src"}]}, **spec})
    return Task("run-1", command, run, Artifacts(f"file://{tmp_path}"))


def an_answer(text: str, prompt_id: str, **more: object) -> Answer:
    return Answer(prompt_id=prompt_id, prompt="Write a TSN gate function.", domain="tsn", text=text, **more)  # type: ignore[arg-type]


def score(tmp_path: Path, answers: list[Answer], **spec: object) -> tuple[Task, object]:
    chunk = Chunk(set="practice", index=3, path="answers.jsonl", count=len(answers))
    task = a_task(tmp_path, Score(stage=Stage.REFINING, epoch=1, chunk=chunk), **spec)
    task.artifacts.write_rows("answers.jsonl", answers)
    return task, tasks.score(task)


def test_a_chunk_is_scored_in_order_and_summed(tmp_path: Path) -> None:
    answers = [
        an_answer(BAD, "p1"),
        an_answer(GOOD, "p2", sample=1),
        an_answer("", "p3", error="out of memory"),
        an_answer(GOOD, "p4"),
    ]
    task, event = score(tmp_path, answers)
    assert isinstance(event, tasks.ChunkScored)
    verdicts = list(task.artifacts.read_rows(event.path, Verdict))
    assert [(row.prompt_id, row.sample) for row in verdicts] == [("p1", 0), ("p2", 1), ("p3", 0), ("p4", 0)]
    assert (event.key, event.chunk, event.count) == ("score-001-student-practice-0003", "student-practice-0003", 4)
    assert event.path == "runs/run-1/tasks/score-001-student-practice-0003/attempt-1/verdicts.jsonl"
    assert (event.poor, event.compiling) == (2, 2)
    assert event.overall == pytest.approx(sum(row.overall for row in verdicts))
    assert event.parts == pytest.approx(
        [sum(getattr(row, part) for row in verdicts) for part in ("syntax", "protocol", "safety", "style")]
    )
    assert verdicts[1].overall == verdicts[3].overall > 9
    missing = verdicts[2]
    assert (missing.overall, missing.syntax, missing.protocol, missing.safety, missing.style) == (0, 0, 0, 0, 0)
    assert "out of memory" in missing.evidence[0].message
    assert task.drain()["progress"]["done"] == 2


def test_poor_is_below_the_threshold_of_the_spec(tmp_path: Path) -> None:
    _, event = score(tmp_path, [an_answer(GOOD, "p1")], refining={"quality_threshold": 10.0})
    assert isinstance(event, tasks.ChunkScored)
    assert event.poor == 1


def test_overrides_of_the_rubric_are_marked_in_its_version(tmp_path: Path) -> None:
    task, event = score(tmp_path, [an_answer(BAD, "p1")], rubric={"overrides": {"safety_goto": -1.0}})
    assert isinstance(event, tasks.ChunkScored)
    verdict = next(task.artifacts.read_rows(event.path, Verdict))
    assert verdict.rubric.startswith("1+")
    assert [item.points for item in verdict.evidence if item.rule == "goto"] == [-1.0]


@pytest.mark.parametrize("overrides", [{"safety_gotto": 1.0}, {"weight_style": 0.5}])
def test_an_override_that_makes_no_sense_is_named(tmp_path: Path, overrides: dict[str, float]) -> None:
    with pytest.raises(Terminal, match=r"rubric\.overrides") as error:
        score(tmp_path, [], rubric={"overrides": overrides})
    assert error.value.code == "invalid_spec"


def test_an_empty_chunk_is_scored_as_such(tmp_path: Path) -> None:
    _, event = score(tmp_path, [])
    assert isinstance(event, tasks.ChunkScored)
    assert (event.count, event.overall) == (0, 0.0)


def test_asked_to_stop_it_stops(tmp_path: Path) -> None:
    chunk = Chunk(set="practice", index=0, path="answers.jsonl", count=1)
    task = a_task(tmp_path, Score(stage=Stage.REFINING, epoch=1, chunk=chunk))
    task.artifacts.write_rows("answers.jsonl", [an_answer(GOOD, "p1")])
    task.stop = "aborted"
    with pytest.raises(Stopped):
        tasks.score(task)


def test_corrections_are_admitted_when_they_are_better(tmp_path: Path) -> None:
    def correction(before: str, after: str, error: str | None = None) -> Correction:
        attempt = an_answer(before, "p1")
        answer = TeacherAnswer(prompt_id="p1", prompt=attempt.prompt, domain="tsn", text=after, model="teacher", error=error)
        verdict = tasks.the_scorer().score(tasks.Attempt(before, attempt.prompt, "tsn", "p1"))
        return Correction(
            prompt_id="p1", prompt=attempt.prompt, domain="tsn", attempt=attempt, attempt_verdict=verdict, answer=answer
        )

    uncompiled = GOOD.replace("return", "retrun")
    poor_but_compiling = GOOD.replace("gate", "x").replace("priority", "y").replace("schedule", "z")
    rows = [
        correction(BAD, GOOD).model_copy(update={"why": "edited by ann"}),
        correction(GOOD, GOOD),
        correction(poor_but_compiling, uncompiled),
        correction(BAD, "", "throttled"),
    ]
    task = a_task(tmp_path, Judge(stage=Stage.REFINING, epoch=2, shard=0, ask=1, corrections_path="asked.jsonl"))
    task.artifacts.write_rows("asked.jsonl", rows)
    event = tasks.judge(task)
    judged = list(task.artifacts.read_rows(event.path, Correction))
    assert (event.key, event.admitted, event.refused) == ("judge-002-0000-1", 1, 3)
    assert [row.admitted for row in judged] == [True, False, False, False]
    assert [row.why.split(":")[0] for row in judged] == [
        "edited by ann; scores higher",
        "scores no higher",
        "the student's answer compiles, the correction does not",
        "teacher did not answer",
    ]
    assert judged[0].verdict is not None
    assert judged[0].verdict.overall > 9
    assert judged[3].verdict is None


def a_verdict(prompt_id: str, sample: int, overall: float) -> Verdict:
    return Verdict(
        prompt_id=prompt_id, sample=sample, overall=overall, syntax=overall, protocol=overall, safety=overall, style=overall,
        compiles=overall > 5, code="", rubric="1",
    )  # fmt: skip


def compare(tmp_path: Path, base: list[Verdict], best: list[Verdict]) -> tasks.ModelsCompared:
    task = a_task(tmp_path, Compare(stage=Stage.EVALUATING, base_paths=("base.jsonl",), best_paths=("best.jsonl",)), seed=7)
    task.artifacts.write_rows("base.jsonl", base)
    task.artifacts.write_rows("best.jsonl", best)
    return tasks.compare(task)


def test_base_and_best_are_compared_by_prompt(tmp_path: Path) -> None:
    base = [a_verdict(f"p{i}", s, 4 + i % 3 + s) for i in range(12) for s in range(2)]
    best = [a_verdict(f"p{i}", s, 6 + i % 2 + s) for i in range(12) for s in range(2)] + [a_verdict("only best", 0, 10)]
    comparison = compare(tmp_path, base, best).comparison
    assert (comparison.prompts, comparison.samples) == (12, 2)
    assert comparison.base.overall == pytest.approx(5.5)
    assert comparison.best.overall == pytest.approx(7.0)
    assert comparison.difference == pytest.approx(1.5)
    assert comparison.low < 1.5 < comparison.high
    assert comparison.gained
    assert comparison.base.count == 24
    assert compare(tmp_path, base, best).comparison == comparison, "the seed decides"


def test_no_gain_is_said_plainly(tmp_path: Path) -> None:
    base = [a_verdict(f"p{i}", 0, 5.0) for i in range(6)]
    best = [a_verdict(f"p{i}", 0, 5.0 + (-1) ** i) for i in range(6)]
    comparison = compare(tmp_path, base, best).comparison
    assert comparison.difference == pytest.approx(0.0)
    assert not comparison.gained


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    with pytest.raises(Terminal, match="nothing to compare"):
        compare(tmp_path, [], [a_verdict("p", 0, 5.0)])


def test_capabilities_name_the_compiler_and_every_layer_of_the_sandbox() -> None:
    found = tasks.capabilities()
    assert found["gcc"].startswith("gcc ")
    assert set(found["sandbox"]) == {"namespaces", "landlock", "user", "seccomp", "rlimits"}
    lacking = {layer for layer, why in found["sandbox"].items() if why}
    said = " ".join(check["what"] for check in tasks.checks())
    assert all(layer in said for layer in lacking)
    assert all(check["do"] for check in tasks.checks())
