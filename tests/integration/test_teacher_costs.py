"""What the teacher costs: a budget that is never passed, calls that came to nothing, answers shared by runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reflux.artifacts import Artifacts
from reflux.commands import Teach
from reflux.records import Prompt, TeacherAnswer
from reflux.spec import RunSpec
from reflux.stages import Stage
from reflux.task import Task
from services.teacher_worker.purse import worst
from services.teacher_worker.teaching import teach
from tests.teacher_tasks import StandIn, prompt_text, spec, stand_in, write_jsonl

COUNT = 30


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    path = tmp_path_factory.mktemp("answers") / "teacher.jsonl"
    write_jsonl(path, [{"prompt": prompt_text(i), "answers": [f"```c\nint f_{i:03d};\n```" * 4]} for i in range(COUNT)])
    with stand_in(path) as found:
        yield found


def asking(url: str, **fields: Any) -> RunSpec:
    price = {"input_usd_per_million": 10.0, "output_usd_per_million": 100.0}
    quick = {"provider": "recorded", "endpoint_url": url, "backoff_seconds": 0.01, "max_teacher_tokens": 100}
    return spec(teacher=quick | price | fields)


def hand(folder: Path, run_spec: RunSpec, run_id: str = "r1", attempt: int = 1, budget: float | None = None) -> Task:
    command = Teach(stage=Stage.TEACHING, shard=0, start=0, stop=COUNT, prompts_path="prompts.jsonl", budget_usd=budget)
    made = Task(run_id, command, run_spec, Artifacts(f"file://{folder}/store"), attempt=attempt)
    rows = [Prompt(id=f"p{i:03d}", text=prompt_text(i), set="practice", family=f"f{i}") for i in range(COUNT)]
    made.artifacts.write_rows("prompts.jsonl", rows)
    return made


@pytest.mark.parametrize("concurrency", [1, 8])
def test_no_call_is_begun_that_could_pass_the_budget(teacher: StandIn, tmp_path: Path, concurrency: int) -> None:
    run_spec = asking(teacher.url, concurrency=concurrency)
    most = worst(run_spec.teacher, run_spec.prompts.system + prompt_text(0))
    event = teach(hand(tmp_path, run_spec, budget=4 * most))
    assert event.usage.calls == event.answered == len(teacher.calls(200))
    assert 3 * most < event.usage.cost_usd <= 4 * most, "nearly all of it is used, and no more"
    assert event.unasked == COUNT - event.answered > 0
    assert event.failed == 0


def test_without_money_nobody_is_asked(teacher: StandIn, tmp_path: Path) -> None:
    event = teach(hand(tmp_path, asking(teacher.url), budget=0.0))
    assert (event.unasked, event.answered, teacher.calls()) == (COUNT, 0, [])


def test_a_later_attempt_counts_what_was_spent(teacher: StandIn, tmp_path: Path) -> None:
    run_spec = asking(teacher.url)
    budget = 4 * worst(run_spec.teacher, run_spec.prompts.system + prompt_text(0))
    first = teach(hand(tmp_path, run_spec, budget=budget))
    again = teach(hand(tmp_path, run_spec, attempt=2, budget=budget))
    assert again.usage == first.usage
    assert len(teacher.calls(200)) == first.answered


def test_calls_that_broke_off_are_counted(teacher: StandIn, tmp_path: Path) -> None:
    teacher.behave(cut=0.3, seed=3)
    event = teach(hand(tmp_path, asking(teacher.url, tries=20)))
    assert event.answered == COUNT
    assert event.usage.at_risk == sum(call["error"] == "cut" for call in teacher.calls()) > 0


def test_a_throttled_call_costs_nothing(teacher: StandIn, tmp_path: Path) -> None:
    teacher.behave(throttle=0.5, seed=1)
    event = teach(hand(tmp_path, asking(teacher.url, tries=50)))
    assert event.answered == COUNT
    assert event.usage.at_risk == 0
    assert event.usage.cost_usd == pytest.approx(sum(row.cost_usd for row in stored(tmp_path, event.path)))


def test_answers_are_shared_by_runs_that_allow_it(teacher: StandIn, tmp_path: Path) -> None:
    first = teach(hand(tmp_path, asking(teacher.url, reuse=True)))
    teacher.forget()
    second = teach(hand(tmp_path, asking(teacher.url, reuse=True), "r2"))
    assert teacher.calls() == []
    assert (second.usage.calls, second.usage.reused, second.usage.cost_usd) == (0, COUNT, 0.0)
    texts = [[row.text for row in stored(tmp_path, event.path)] for event in (first, second)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("other", [{"reuse": False}, {"temperature": 0.1}, {"model": "another.model"}])
def test_other_settings_share_nothing(teacher: StandIn, tmp_path: Path, other: dict[str, Any]) -> None:
    teach(hand(tmp_path, asking(teacher.url, reuse=True)))
    teacher.forget()
    event = teach(hand(tmp_path, asking(teacher.url, **({"reuse": True} | other)), "r2"))
    assert (event.usage.calls, event.usage.reused) == (COUNT, 0)


def test_a_shard_can_be_read_while_it_grows(teacher: StandIn, tmp_path: Path) -> None:
    teacher.behave(deny_after=12)
    made = hand(tmp_path, asking(teacher.url, concurrency=1))
    with pytest.raises(Exception, match="access_denied"):
        teach(made)
    so_far = [row.prompt_id for row in stored(tmp_path, f"{made.pieces}/so-far/000010.jsonl")]
    assert so_far == [f"p{i:03d}" for i in range(10)]


def stored(folder: Path, path: str) -> list[TeacherAnswer]:
    return list(Artifacts(f"file://{folder}/store").read_rows(path, TeacherAnswer))
