"""Cleaning up, delivering and reporting: what stays, what goes, what is said."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from reflux.artifacts import Artifacts
from reflux.commands import CleanUp, Deliver
from reflux.errors import Retriable, Terminal
from reflux.records import Example, Lineage, Message, Prompt, Verdict
from reflux.stages import Stage
from reflux.summary import Comparison, EpochMetrics, Estimate, Scores, Summary, Usage
from services.teacher_worker.clean_up import clean_up
from services.teacher_worker.deliver import deliver, model_card
from services.teacher_worker.report import verdict_of, write_report
from tests.teacher_tasks import spec, task


def scores(mean: float) -> Scores:
    return Scores(count=10, overall=mean, syntax=mean, protocol=mean, safety=mean, style=mean, compiling=0.5)


def epoch(number: int) -> EpochMetrics:
    return EpochMetrics(
        epoch=number,
        adapter_path="a",
        train_loss=1.0,
        steps=3,
        rows=9,
        practice=scores(4 + number),
        dev=scores(3 + number),
        correction_rate=0.5,
        requested=4,
        admitted=2,
    )


def comparison(low: float, high: float) -> Comparison:
    best = scores(5 + (low + high) / 2)
    return Comparison(prompts=3, samples=2, base=scores(5), best=best, difference=(low + high) / 2, low=low, high=high)


def summary(**fields: Any) -> Summary:
    given: dict[str, Any] = {"outcome": "succeeded", "reason": "max epochs", "epochs": (epoch(1), epoch(2)), "best_epoch": 2}
    return Summary(run_id="r1", name="n", recipe="distill", student="s/m", teacher="t", **given | fields)


FILES = (
    "runs/r1/system-state.json",
    "runs/r1/training.json",
    "runs/r1/adapter/adapter.safetensors",
    "runs/r1/tasks/train-001/attempt-1/adapter/a.safetensors",
    "runs/r1/tasks/train-001/attempt-2/adapter/a.safetensors",
    "runs/r1/tasks/train-001/attempt-21/adapter/a.safetensors",
    "runs/r1/pieces/train-001/checkpoint-100/x",
    "runs/r1/pieces/train-003/checkpoint-100/x",
    "runs/r1/pieces/teacher/teach/p-1.json",
    "runs/r1/pieces/generate-001-student/c.jsonl",
    "runs/r2/tasks/train-001/attempt-1/x",
)
KEEP = ("runs/r1/tasks/train-001/attempt-2",)


def cleaned(folder: Path, **fields: Any) -> tuple[Any, Any, list[str]]:
    command = CleanUp(stage=Stage.CLEANING_UP, **{"summary": summary(), "keep_prefixes": KEEP} | fields)
    hand = task(folder, command, spec())
    for path in FILES:
        hand.artifacts.put(path, b"x")
    event = clean_up(hand)
    return event, hand.artifacts.get_json(event.path), hand.artifacts.paths("runs")


def test_what_nothing_accepted_goes(tmp_path: Path) -> None:
    event, status, left = cleaned(tmp_path)
    gone = {FILES[3], FILES[5], FILES[6]}
    assert set(FILES) - set(left) == gone
    assert status["resources"]["artifacts"]["deleted"] == 3
    assert not event.manual_action_required
    for name in ("cleanup_status.json", "training_summary.json", "report.md", "report/scores.png"):
        assert f"runs/r1/{name}" in left


def test_cleaning_up_again_changes_nothing(tmp_path: Path) -> None:
    cleaned(tmp_path)
    hand = task(tmp_path, CleanUp(stage=Stage.CLEANING_UP, summary=summary(), keep_prefixes=KEEP), spec())
    before = hand.artifacts.paths("runs")
    clean_up(hand)
    assert hand.artifacts.paths("runs") == before
    assert hand.artifacts.get_json("runs/r1/cleanup_status.json")["resources"]["artifacts"]["status"] == "kept"


def test_discarding_leaves_the_story_alone(tmp_path: Path) -> None:
    _, _, left = cleaned(tmp_path, discard=True)
    assert {path for path in left if path in FILES} == {FILES[0], FILES[1], FILES[-1]}


def test_results_without_a_word_on_whose_they_are_stay(tmp_path: Path) -> None:
    _, status, left = cleaned(tmp_path, keep_prefixes=())
    assert set(FILES) <= set(left)
    assert "nothing was deleted" in status["resources"]["artifacts"]["note"]


def test_a_run_that_never_had_results_is_emptied(tmp_path: Path) -> None:
    _, _, left = cleaned(tmp_path, keep_prefixes=(), summary=summary(outcome="failed", epochs=(), best_epoch=None))
    assert not [path for path in left if path.startswith("runs/r1/tasks")]


class Stubborn(Artifacts):
    """A store that does not delete checkpoints."""

    def delete(self, path: str) -> None:
        if "checkpoint" in path:
            raise Retriable("s3_timeout", f"{path}: no answer")
        super().delete(path)


def test_a_delete_that_fails_is_written_down(tmp_path: Path) -> None:
    hand = task(tmp_path, CleanUp(stage=Stage.CLEANING_UP, summary=summary(), keep_prefixes=KEEP), spec())
    hand.artifacts = Stubborn(f"file://{tmp_path}/store")
    for path in FILES:
        hand.artifacts.put(path, b"x")
    event = clean_up(hand)
    assert event.manual_action_required
    cleaned_artifacts = hand.artifacts.get_json(event.path)["resources"]["artifacts"]
    assert (cleaned_artifacts["status"], cleaned_artifacts["deleted"], cleaned_artifacts["failed"]) == ("failed", 2, 1)
    assert "no answer" in cleaned_artifacts["errors"][FILES[6]]


# Report


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.5, 1.5, "scores higher"), (-0.5, 1.5, "Nothing was gained that can be told from chance"), (-2, -1, "scores lower")],
)
def test_the_verdict_is_plain(low: float, high: float, said: str) -> None:
    assert said in verdict_of(summary(comparison=comparison(low, high)))


def test_without_comparison_nothing_is_claimed() -> None:
    assert "does not show" in verdict_of(summary())
    assert "no model to judge" in verdict_of(summary(outcome="failed", epochs=()))


def test_the_report_shows_three_test_prompts_with_their_scores(tmp_path: Path) -> None:
    store = Artifacts(f"file://{tmp_path}")
    domains = ("zzz", "avb", "tsn", "tsn")
    rows = [Prompt(id=f"p{i}", text=f"Ask {i}", domain=d, set="test", family=f"f{i}") for i, d in enumerate(domains)]
    prompts_path = "runs/r0/tasks/prepare/attempt-1/prompts.jsonl"  # r1 is a fork
    store.write_rows(prompts_path, rows)
    for model, overall in (("base", 3.0), ("best", 8.5)):
        part = {"syntax": overall, "protocol": overall, "safety": overall, "style": overall}
        verdicts = [
            Verdict(prompt_id=f"p{i}", overall=overall, compiles=True, code=f"int {model}_{i};", rubric="1", **part)
            for i in range(4)
        ]
        store.write_rows(f"runs/r1/tasks/score-002-{model}-test-0000/attempt-1/verdicts.jsonl", verdicts)
    write_report(store, "r1", summary(comparison=comparison(-0.5, 1.5), warnings=("Mind the gap",)), prompts_path)
    text = store.get("runs/r1/report.md").decode()
    assert [line for line in text.split("\n") if line.startswith("### ")] == ["### avb: p1", "### tsn: p2", "### zzz: p0"]
    assert "**Base: 3.0**" in text
    assert "int best_2;" in text
    assert "- Mind the gap" in text
    for name in ("scores", "correction_rate", "base_and_best"):
        assert f"(report/{name}.png)" in text
        assert store.get(f"runs/r1/report/{name}.png").startswith(b"\x89PNG")
    store.delete(prompts_path)
    write_report(store, "r1", summary(comparison=comparison(-0.5, 1.5)), prompts_path)
    assert "###" not in store.get("runs/r1/report.md").decode()


def test_a_run_that_failed_early_still_has_a_report(tmp_path: Path) -> None:
    store = Artifacts(f"file://{tmp_path}")
    write_report(store, "r1", summary(outcome="failed", epochs=(), best_epoch=None, error="gpu_missing: none"), None)
    assert "gpu_missing: none" in store.get("runs/r1/report.md").decode()


def test_the_report_holds_the_estimate_against_the_truth(tmp_path: Path) -> None:
    store = Artifacts(f"file://{tmp_path}")
    first = epoch(1).model_copy(update={"usage": Usage(calls=4, input_tokens=400, output_tokens=40, cost_usd=0.5)})
    usage = Usage(calls=10, reused=2, at_risk=1, input_tokens=1000, output_tokens=100, cost_usd=1.25)
    expected = Estimate(calls=12, input_tokens=900, output_tokens=90, cost_usd=1.5, most_calls=20, most_cost_usd=9.0)
    write_report(store, "r1", summary(epochs=(first, epoch(2)), usage=usage, estimate=expected), None)
    lines = store.get("runs/r1/report.md").decode().split("\n")
    for line in (
        "| teaching | 6 | 600 | 60 | $0.7500 |",
        "| epoch 1, corrections | 4 | 400 | 40 | $0.5000 |",
        "| **in all** | 10 | 1000 | 100 | $1.2500 |",
        "| estimated before | 12 | 900 | 90 | $1.5000 |",
        "| the most it could be | 20 | | | $9.0000 |",
    ):
        assert line in lines
    (cost,) = [line for line in lines if line.startswith("| Teacher's cost")]
    assert "10 answers; 2 more were bought by other runs; 1 calls were never answered" in cost


# Deliver


@pytest.mark.parametrize(("acknowledged", "said"), [(True, "has stated that its terms allow"), (False, "is for you to check")])
def test_the_model_card_tells_the_teacher_and_its_terms(acknowledged: bool, said: str) -> None:
    card = model_card(spec(teacher={"terms_acknowledged": acknowledged}), summary(usage=Usage(calls=3, reused=2)), Counter())
    assert "`t` (bedrock, 5 answers, up to 20" in card
    assert said in card


def delivering(folder: Path, **export: Any) -> Any:
    hand = task(folder, Deliver(stage=Stage.EXPORTING, model_path="m/model", summary=summary()), spec(export=export))
    hand.artifacts.put("m/model/adapter/adapter_config.json", b"{}")
    hand.artifacts.put("m/model/merged/model.safetensors", b"weights")
    return hand


def test_results_go_to_every_target(tmp_path: Path) -> None:
    hand = delivering(tmp_path, output_uri=f"file://{tmp_path}/out", data_uri=f"file://{tmp_path}/data")
    event = deliver(hand)
    assert len(event.targets) == 3
    assert not event.warnings
    for folder in (tmp_path / "store/runs/r1", tmp_path / "out/r1", tmp_path / "data/r1"):
        assert (folder / "adapter/adapter_config.json").is_file()
        assert (folder / "merged/model.safetensors").read_bytes() == b"weights"
        assert "does not show whether anything was gained" in (folder / "adapter/README.md").read_text()
        assert (folder / "training_summary.json").is_file()


def test_the_model_card_of_a_fork_tells_the_licences_of_the_first_run(tmp_path: Path) -> None:
    hand = delivering(tmp_path)
    lineage = Lineage(origin="source", licence="MIT")
    row = Example(id="e", messages=(Message(role="user", content="?"),), family="f", lineage=lineage)
    train_path = "runs/r0/tasks/prepare/attempt-2/train.jsonl"
    hand.artifacts.write_rows(train_path, [row, row])
    for path, said in ((train_path, "| MIT | 2 |"), ("runs/gone/train.jsonl", "Nothing is known about the training rows.")):
        hand.command = hand.command.model_copy(update={"train_path": path})
        deliver(hand)
        assert said in hand.artifacts.get("runs/r1/adapter/README.md").decode()


def test_a_target_that_fails_does_not_lose_the_others(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    hand = delivering(tmp_path, output_uri=f"file://{tmp_path}/file/out", data_uri=f"file://{tmp_path}/data", hub_repo="me/it")
    event = deliver(hand)
    assert (tmp_path / "data/r1/adapter/README.md").is_file()
    assert len(event.targets) == 2
    assert "output target" in event.warnings[0]
    assert "HF_TOKEN is not set" in event.warnings[1]


def test_nothing_to_deliver(tmp_path: Path) -> None:
    with pytest.raises(Terminal, match="nothing to deliver"):
        deliver(task(tmp_path, Deliver(stage=Stage.EXPORTING, model_path="gone", summary=summary()), spec()))
