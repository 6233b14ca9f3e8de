"""A run that begins with another one's settings, and a fork: what the page gives back is what was meant."""

from typing import Any

import pytest

from reflux.prices import PRICES, Price, priced
from reflux.run import Run
from reflux.spec import RunSpec, check
from services.api.dashboard.beginnings import Fork, fork_settings, settings_of

DATA = {"sources": [{"uri": "s3://our-code/tsn/", "domain": "tsn"}]}
SPECS: dict[str, dict[str, Any]] = {
    "plain": {"data": DATA},
    "preset": {"data": DATA, "preset": "smollm2-135m", "training": {"gradient_checkpointing": True, "max_steps": 3}},
    "own prices": {"data": DATA, "teacher": {"input_usd_per_million": 0.0, "output_usd_per_million": 2.0}},
    "rows": {"recipe": "finetune", "data": {"train": "file:///rows.csv"}, "student": {"method": "lora"}, "metadata": {"a": "b"}},
    "job": {"recipe": "job", "job": {"command": ["python", "x.py"]}, "limits": {"max_runtime": "2h"}},
}


def made(given: dict[str, Any]) -> RunSpec:
    spec, problems = check(given)
    assert spec is not None, problems
    return spec.model_copy(update={"teacher": priced(spec.teacher)})


def forked(**settings: Any) -> Fork:
    return Fork(Run(id="r1", spec=made({"data": DATA, "refining": {"max_epochs": 2}, **settings})), 2, PRICES)


@pytest.mark.parametrize("name", SPECS)
def test_the_settings_of_a_run_make_its_spec_again(name: str) -> None:
    spec = made(SPECS[name])
    given = settings_of(spec, PRICES)
    assert made(given) == spec.model_copy(update={"preset": None})
    assert ("input_usd_per_million" in given.get("teacher", {})) == (name == "own prices")


def test_a_fork_with_nothing_changed_has_room_for_another_epoch() -> None:
    fork = forked(preset="smollm2-135m", name="ours", metadata={"team": "tsn"})
    given = fork_settings(fork.run, 2, PRICES)
    assert fork.changes(given) == {"refining": {"max_epochs": 3}}
    assert fork.differences(given) == ["refining.max_epochs: 2 → 3"]
    assert not {"student", "data", "preset", "seed"} & set(given)


def test_what_is_left_out_goes_back_to_its_default_and_what_is_fixed_is_refused() -> None:
    fork = forked(training={"learning_rate": 1e-4, "max_steps": 9})
    given: dict[str, Any] = {"name": "run", "refining": {"max_epochs": 5}, "training": {"max_steps": 9}}
    assert fork.changes(given) == {"training": {"learning_rate": 2e-4}, "refining": {"max_epochs": 5}}
    wrong = given | {"student": {"method": "lora"}, "trainin": {}, "limits": 7}
    spec, problems = fork.check(wrong)
    assert spec is None
    assert {problem.field for problem in problems} == {"student", "trainin", "limits"}
    assert fork.differences(wrong) == []


def test_another_teacher_has_its_own_prices() -> None:
    table = {**PRICES, "ours": Price(input=7, output=8)}
    fork = forked()
    fork.table = table
    given: dict[str, Any] = {"refining": {"max_epochs": 3}, "teacher": {"model": "ours"}}
    spec, _ = fork.check(given)
    assert spec is not None
    assert (spec.teacher.input_usd_per_million, spec.teacher.output_usd_per_million) == (7, 8)
    same, _ = fork.check({"refining": {"max_epochs": 3}, "teacher": {"temperature": 0.1}})
    assert same is not None
    assert same.teacher.input_usd_per_million == fork.run.spec.teacher.input_usd_per_million == 3
