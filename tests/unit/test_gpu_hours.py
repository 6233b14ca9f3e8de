"""GPU hours before a run: from steps, rows and answers, against what was told or the data sheet."""

from typing import Any

import pytest

from reflux.cli.spec_file import read_spec
from reflux.gpu_hours import ROW_TOKENS, Speeds, by_data_sheet, hours, tokens
from reflux.spec import RunSpec
from services.api.catalogue import shape_of
from tests.e2e.tiny import EXAMPLES

GRANITE = "ibm-granite/granite-8b-code-instruct-128k"


def spec(**sections: Any) -> RunSpec:
    return RunSpec.model_validate({"data": {"sources": [{"uri": "file:///src"}]}} | sections)


def test_tokens_follow_from_the_spec() -> None:
    wanted = tokens(
        spec(
            prompts={"practice": 10, "dev": 5, "test": 4},
            training={"max_steps": 20, "batch_size": 2, "accumulation": 4},
            generation={"max_new_tokens": 100, "test_max_new_tokens": 50, "test_samples": 2},
            refining={"max_epochs": 3},
        )
    )
    assert wanted.trained == 3 * 20 * 8 * ROW_TOKENS
    assert wanted.written == 3 * 15 * 50 + 2 * 4 * 2 * 25
    assert not wanted.assumed


def test_corrections_make_later_epochs_longer_and_fine_tuning_writes_nothing() -> None:
    one, two = (tokens(spec(refining={"max_epochs": n}, training={"max_examples": 50})) for n in (1, 2))
    assert two.trained > 2 * one.trained
    tuned = tokens(RunSpec.model_validate({"recipe": "finetune", "data": {"train": "file:///rows.jsonl"}}))
    assert (tuned.written, tuned.assumed) == (0, True)


def test_what_is_assumed_makes_the_range_wider() -> None:
    speeds = Speeds(training=1000, generation=100, unsure=2.0)
    likely, low, high = hours(spec(training={"max_steps": 10}), speeds)
    assert (low, high) == (likely / 2, likely * 2)
    likely, low, high = hours(spec(), speeds)
    assert high / low > 4 * 2


def test_faster_devices_and_smaller_students_take_less() -> None:
    shape = shape_of(GRANITE)
    assert shape is not None
    a100, h100 = (by_data_sheet(shape, spec(), f"NVIDIA {name} 80GB", 0) for name in ("A100", "H100"))
    assert a100 is not None
    assert h100 is not None
    assert h100.training > 2 * a100.training
    assert by_data_sheet(shape, spec(), "some other GPU", 0) is None
    assert shape_of("an/unknown-model") is None


def test_the_example_takes_about_what_was_measured() -> None:
    """Seven minutes on two cores, of which one or so is no training and no generation."""
    demo = RunSpec.model_validate(read_spec(EXAMPLES / "demo.yaml"))
    shape = shape_of(demo.student.model)
    assert shape is not None, "a package's file is known by its name"
    speeds = by_data_sheet(shape, demo, None, 2)
    assert speeds is not None
    likely, low, high = hours(demo, speeds)
    assert low < 0.1 < high
    assert likely == pytest.approx(0.1, rel=0.7)
