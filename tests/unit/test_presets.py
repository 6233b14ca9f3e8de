"""`preset:` in a spec: what it fills in, what wins over it, and what is said of a name that is none."""

from typing import Any

import pytest

from reflux.presets import PRESETS
from reflux.spec import RunSpec, check

SMALLEST: dict[str, dict[str, Any]] = {
    "distill": {"data": {"sources": [{"uri": "file:///src"}]}},
    "finetune": {"data": {"train": "file:///rows.jsonl"}},
}


def spec(name: str, recipe: str = "finetune", **sections: dict[str, Any]) -> RunSpec:
    made, problems = check({"recipe": recipe, "preset": name, **SMALLEST[recipe], **sections})
    assert made is not None, problems
    return made


@pytest.mark.parametrize("recipe", SMALLEST)
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_in_and_stays_resolved(name: str, recipe: str) -> None:
    made = spec(name, recipe)
    for section, fields in PRESETS[name].spec.items():
        for field, value in fields.items():
            assert getattr(getattr(made, section), field) == value
    assert made.student.quantization == ("nf4" if made.student.method == "qlora" else "none")
    assert RunSpec.model_validate_json(made.model_dump_json()) == made


def test_the_students_are_pinned() -> None:
    students = [preset.spec["student"] for preset in PRESETS.values() if preset.kind == "student"]
    assert len(students) == 5
    assert all(len(student["revision"]) == 40 for student in students)


def test_what_the_spec_says_wins() -> None:
    made = spec("gemma-3-4b", student={"method": "lora"}, training={"max_length": 512})
    assert (made.student.model, made.student.method, made.student.quantization) == ("google/gemma-3-4b-it", "lora", "none")
    assert (made.training.max_length, made.training.accumulation) == (512, 8)


def test_another_model_has_none_of_the_presets_revision() -> None:
    assert spec("gemma-3-1b", student={"model": "our/own"}).student.revision is None
    assert spec("gemma-3-1b", student={"model": "our/own", "revision": "abc"}).student.revision == "abc"
    assert spec("gemma-3-1b", student={"revision": None}).student.revision is None
    assert spec("lora", student={"model": "our/own", "revision": "abc"}).student.revision == "abc"


@pytest.mark.parametrize(
    ("preset", "hint"), [("gemma3-270m", "Did you mean `gemma-3-270m`?"), ("?", "One of: smollm2-135m, "), (3, "GET /v1/presets")]
)
def test_a_name_that_is_none(preset: object, hint: str) -> None:
    made, (problem,) = check({"preset": preset, **SMALLEST["distill"]})
    assert made is None
    assert problem.field == "preset"
    assert hint in problem.hint
