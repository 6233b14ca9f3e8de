"""Questions to the students of a real run: a real trainer, a real evaluator, and what becomes of them when things go wrong."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflux.client import ApiError, Client
from reflux.completions import CompletionView, Piece, Waiting
from reflux.errands import Errand, JudgeErrand
from reflux.local.stack import Stack
from reflux.records import Verdict
from reflux.spec import RunSpec
from reflux.views import RunView
from tests.e2e.test_stack import cli
from tests.e2e.tiny import tiny_spec
from tests.integration.by_hand import eventually

PROMPT = "Write a C function that clamps a value."


def asked(client: Client, run: RunView, **options: object) -> tuple[list[str], CompletionView]:
    """The pieces of an answer, and its end."""
    *told, end = client.complete(run.id, PROMPT, **options)  # type: ignore[arg-type]
    assert isinstance(end, CompletionView)
    return [event.text for event in told if isinstance(event, Piece)], end


@pytest.fixture(scope="module")
def long_one(stack: Stack, calm_run: RunView) -> tuple[dict[str, object], str]:
    """A question whose answer takes its time, and the answer."""
    with Client(stack.api_url, stack.keys["operator"]) as client:
        for sample in range(20):
            question: dict[str, object] = {"checkpoint": "base", "max_tokens": 512, "temperature": 1.0, "sample": sample}
            end = asked(client, calm_run, **question)[1]
            if end.usage.answer > 300:
                return question, end.text
    raise AssertionError("the student writes nothing long")


def test_an_answer_comes_in_pieces_and_the_same_question_has_the_same(client: Client, calm_run: RunView) -> None:
    pieces, end = asked(client, calm_run, max_tokens=64)
    assert "".join(pieces) == end.text
    assert len(pieces) > 1
    assert (end.run, end.checkpoint, end.verdict) == (calm_run.id, calm_run.best_epoch, None)
    assert 0 < end.usage.answer <= 64
    body = {"run": calm_run.id, "prompt": PROMPT, "max_tokens": 64, "checkpoint": calm_run.best_epoch}
    whole = CompletionView.model_validate(client.http.post("/v1/completions", json=body).json())
    assert (whole.text, whole.usage) == (end.text, end.usage)
    others = {asked(client, calm_run, max_tokens=64, sample=1)[1].text, asked(client, calm_run, max_tokens=64, seed=7)[1].text}
    assert len(others | {end.text}) == 3
    with pytest.raises(ApiError, match="longer than this student reads") as refused:
        list(client.complete(calm_run.id, "clamp it " * 2000))
    assert (refused.value.problem.status, refused.value.problem.code) == (422, "prompt_too_long")


def test_the_score_is_that_of_the_linter(stack: Stack, client: Client, calm_run: RunView, tmp_path: Path) -> None:
    _, end = asked(client, calm_run, score=True, domain="tsn")
    assert end.verdict
    file = tmp_path / "answer.md"
    file.write_text(end.text)
    linted = cli(stack, "score", str(file), "--json", "--prompt", PROMPT, "--domain", "tsn")
    verdict = Verdict.model_validate_json(linted.stdout).model_copy(update={"prompt_id": ""})
    assert end.verdict == verdict


def test_the_evaluator_judges_code_by_the_rubric_of_the_run() -> None:
    from services.evaluator.errands import judge

    spec = RunSpec.model_validate({"data": {"sources": [{"uri": "file:///s"}]}, "rubric": {"defines": ["LEAST=3"]}})
    code = "```c\n#include <stdint.h>\nuint8_t least(void)\n{\n    return LEAST;\n}\n```"
    order = JudgeErrand(text=code, prompt="Return the least.")
    errand = Errand(id=1, attempt=1, run_id="r", spec=spec, order=order, beat_seconds=1)
    verdicts = []

    def judged() -> Iterator[str]:
        verdicts.append((yield from judge(errand, "")))

    assert "".join(judged()) == ""
    assert [isinstance(verdict, Verdict) and verdict.compiles for verdict in verdicts] == [True]


def test_the_cli_asks(stack: Stack, client: Client, calm_run: RunView) -> None:
    plain = cli(stack, "ask", calm_run.id, PROMPT, "--max-tokens", "16", "--checkpoint", "1", "--score")
    assert plain.returncode == 0, plain.stderr
    end = CompletionView.model_validate_json(cli(stack, "ask", calm_run.id, PROMPT, "--max-tokens", "16", "--json").stdout)
    assert 0 < end.usage.answer <= 16
    assert "epoch 1:" in plain.stderr
    assert re.search(r"syntax \d", plain.stdout)
    wrong = cli(stack, "ask", calm_run.id, PROMPT, "--checkpoint", "9")
    assert (wrong.returncode, "no epoch 9" in wrong.stderr, "best, base, 1, 2" in wrong.stderr) == (1, True, True)


def test_whoever_leaves_ends_the_generation(
    stack: Stack, client: Client, calm_run: RunView, long_one: tuple[dict[str, object], str]
) -> None:
    log = stack.folder / "logs" / "gpu_trainer-1.log"
    before = log.read_text().count("given up")
    answer = client.complete(calm_run.id, PROMPT, **long_one[0])  # type: ignore[arg-type]
    assert any(isinstance(event, Piece) for event in answer)
    answer.close()  # type: ignore[attr-defined]
    eventually(lambda: log.read_text().count("given up") == before + 1, 20, "it was written to its end, for nobody")


def test_a_killed_worker_s_question_is_answered_by_the_next(
    stack: Stack, client: Client, calm_run: RunView, long_one: tuple[dict[str, object], str]
) -> None:
    question, undisturbed = long_one
    pieces = []
    for event in client.complete(calm_run.id, PROMPT, **question):  # type: ignore[arg-type]
        if isinstance(event, Piece):
            if not pieces:
                stack.kill("gpu_trainer-1")
            pieces.append(event.text)
    assert "".join(pieces) == undisturbed
    assert isinstance(event, CompletionView)


def test_a_busy_gpu_is_named_and_lets_the_question_in(stack: Stack, client: Client, calm_run: RunView, student: Path) -> None:
    """After a training, and between two batches of answers."""
    long = {"max_new_tokens": 512, "batch_size": 1, "chunk_size": 1, "stop_at_fence": False}
    run = client.create(
        tiny_spec(student, training={"max_steps": 100, "eval_steps": 1000, "checkpoint_steps": 1000}, generation=long)
    )

    def in_hand(kind: str) -> bool:
        return any((task.kind, task.status) == (kind, "claimed") for task in client.run(run.id).tasks or ())

    for kind, doing in (("train", "training"), ("generate", "writing answers of")):
        eventually(lambda kind=kind: in_hand(kind), 60, f"no {kind}")  # type: ignore[misc]
        told = list(client.complete(calm_run.id, PROMPT, max_tokens=8))
        assert isinstance(told[-1], CompletionView)
        waits = [event.doing for event in told if isinstance(event, Waiting)]
        assert f"{doing} epoch 1 of run {run.id}" in waits
    assert in_hand("generate"), "the work goes on after the answer"
    client.abort(run.id)
