"""What a user may submit, what stands in where nothing is said, and what is said about mistakes."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from reflux.spec import FieldProblem, RunSpec, check
from tests.unit.stories import spec

DISTILL: dict[str, Any] = {"data": {"sources": [{"uri": "file:///src"}]}}

DEFAULTS = {
    "student.model": "ibm-granite/granite-8b-code-instruct-128k",
    "student.method": "qlora",
    "student.quantization": "nf4",
    "lora.r": 32,
    "lora.alpha": 64,
    "lora.dropout": 0.05,
    "training.gradient_checkpointing": True,
    "training.accumulation": 8,
    "training.log_steps": 10,
    "training.eval_steps": 50,
    "training.checkpoint_steps": 100,
    "training.early_stop_patience": 3,
    "training.max_length": 4096,
    "training.restart_from_base": False,
    "prompts.practice": 200,
    "generation.max_new_tokens": 1024,
    "generation.test_max_new_tokens": 512,
    "generation.temperature": 0.7,
    "generation.top_p": 0.95,
    "generation.max_prompt_tokens": 4096,
    "teacher.provider": "bedrock",
    "teacher.temperature": 0.7,
    "teacher.concurrency": 10,
    "teacher.backoff_seconds": 1.0,
    "teacher.tries": 5,
    "teaching.required": True,
    "refining.quality_threshold": 7.0,
    "refining.target_score": 8.0,
    "refining.patience": 3,
    "refining.min_correction_rate": 0.10,
    "refining.max_corrections": 500,
    "refining.max_epochs": 10,
    "data.validation_share": 0.10,
    "seed": 42,
    "limits.max_runtime": timedelta(hours=12),
    "limits.max_teacher_cost_usd": None,
    "limits.min_disk_gb": 15.0,
    "compute.kind": "local",
}


def problems(data: object) -> list[FieldProblem]:
    made, found = check(data)
    assert made is None
    assert found
    return found


@pytest.mark.parametrize(("field", "value"), DEFAULTS.items())
def test_defaults(field: str, value: object) -> None:
    found: Any = spec()
    for part in field.split("."):
        found = getattr(found, part)
    assert found == value


def test_the_default_teacher_is_claude_sonnet_4_5() -> None:
    assert "claude-sonnet-4-5" in spec().teacher.model


def test_a_spec_survives_json() -> None:
    made = spec(limits={"max_runtime": "PT90M"}, metadata={"ünïcode": "\u2028"}, export={"merge": True})
    assert RunSpec.model_validate_json(made.model_dump_json()) == made
    assert check(json.loads(made.model_dump_json())) == (made, [])


@pytest.mark.parametrize(("method", "quantization"), [("qlora", "nf4"), ("lora", "none"), ("full", "none")])
def test_the_method_decides_the_quantization(method: str, quantization: str) -> None:
    assert spec(student={"method": method}).student.quantization == quantization


@pytest.mark.parametrize(("method", "quantization"), [("qlora", "none"), ("lora", "nf4"), ("full", "nf4")])
def test_method_and_quantization_must_agree(method: str, quantization: str) -> None:
    (found,) = problems({**DISTILL, "student": {"method": method, "quantization": quantization}})
    assert found.field == "student.quantization"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({}, "data.sources"),
        ({"recipe": "finetune"}, "data.train"),
        ({"recipe": "finetune", **DISTILL}, "data.train"),
        ({"recipe": "job"}, "job.command"),
    ],
)
def test_each_recipe_says_what_it_needs(data: dict[str, Any], field: str) -> None:
    (found,) = problems(data)
    assert found.field == field
    assert "needs it" in found.message
    assert found.hint


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("training.batch_sise", "`training.batch_size`"),
        ("trainig", "`training`"),
        ("training.max_runtime", "`limits.max_runtime`"),
        ("max_runtime", "`limits.max_runtime`"),
        ("learning_rat", "`training.learning_rate`"),
        ("generation.max_steps", "`training.max_steps`"),
        ("training.temperature", "`teacher.temperature` or `generation.temperature`"),
        ("refining.target_scor", "`refining.target_score`"),
        ("limits.max_stage_runtime.trainig", "`limits.max_stage_runtime.training`"),
        ("limits.max_stage_runtimes", "`limits.max_stage_runtime`"),
        ("data.train", None),
    ],
)
def test_did_you_mean(path: str, meant: str | None) -> None:
    nested: Any = 1 if meant else "rows.jsonl"
    for part in reversed(path.split(".")):
        nested = {part: nested}
    data = {**DISTILL, **nested, "data": {**DISTILL["data"], **nested.get("data", {})}}
    if meant is None:
        assert check(data)[1] == []
        return
    (found,) = problems(data)
    assert (found.field, found.message, found.hint) == (path, "there is no such field", f"Did you mean {meant}?")


def test_a_limit_of_cleaning_up_is_refused_with_what_there_is_instead() -> None:
    (found,) = problems({**DISTILL, "limits": {"max_stage_runtime": {"cleaning_up": "1h"}}})
    assert found.field == "limits.max_stage_runtime.cleaning_up"
    assert "limits.cleanup_seconds" in found.hint


def test_a_field_like_no_other_names_those_there_are() -> None:
    (found,) = problems({**DISTILL, "lora": {"xyzzy": 1}})
    assert found.hint == "One of: r, alpha, dropout."


def test_fields_of_list_items_are_named_with_their_place() -> None:
    missing, unknown = problems({"data": {"sources": [{"uri": "file:///a"}, {"url": "file:///b"}]}})
    assert (missing.field, missing.hint) == ("data.sources.1.uri", "Add `data.sources.1.uri`.")
    assert (unknown.field, unknown.hint) == ("data.sources.1.url", "Did you mean `data.sources.1.uri`?")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"training": {"batch_size": "many"}}, "training.batch_size"),
        ({"training": {"batch_size": 0}}, "training.batch_size"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate"),
        ({"generation": {"top_p": 0}}, "generation.top_p"),
        ({"lora": {"dropout": 1.5}}, "lora.dropout"),
        ({"refining": {"target_score": 11}}, "refining.target_score"),
        ({"student": {"method": "magic"}}, "student.method"),
        ({"limits": {"max_runtime": "a while"}}, "limits.max_runtime"),
        ({"limits": {"max_runtime": 0}}, "limits.max_runtime"),
        ({"limits": {"max_runtime": -5}}, "limits.max_runtime"),
        ({"limits": {"max_stage_runtime": {"training": "a while"}}}, "limits.max_stage_runtime.training"),
        ({"limits": {"max_stage_runtime": {"teaching": 0}}}, "limits.max_stage_runtime.teaching"),
        ({"limits": {"max_stage_runtime": "4h"}}, "limits.max_stage_runtime"),
        ({"metadata": {"seed": 1}}, "metadata.seed"),
        ({"training": 3}, "training"),
        ({"training": [{"batch_size": 1}]}, "training"),
        ({"training": None}, "training"),
        ({"data": {"sources": "file:///src"}}, "data.sources"),
        ({"data": {"sources": ["file:///src"]}}, "data.sources.0"),
        ({"name": ""}, "name"),
        ({1: 2}, "1"),
    ],
)
def test_wrong_values_and_broken_nestings(data: dict[str, Any], field: str) -> None:
    (found,) = problems({**DISTILL, **data})
    assert found.field == field
    assert "got" in found.message
    assert found.hint


def test_the_hint_of_a_wrong_value_gives_meaning_and_default() -> None:
    (found,) = problems({**DISTILL, "training": {"epochs": -1}})
    assert found.hint == "Passes over the rows within one training stage. The default is 1."
    (foreign,) = problems({**DISTILL, "metadata": {"seed": 1}})
    assert "42" not in foreign.hint


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = problems({**DISTILL, "training": {"batch_size": 0, "epoch": 1}, "lora": {"r": -1}, "nmae": "x"})
    assert {p.field for p in found} == {"training.batch_size", "training.epoch", "lora.r", "nmae"}


@pytest.mark.parametrize("data", [None, 3, "spec", [], [DISTILL]])
def test_a_spec_is_a_mapping(data: object) -> None:
    (found,) = problems(data)
    assert "mapping" in found.message


FIELDS = sorted(RunSpec.model_fields) + sorted(
    name
    for field in RunSpec.model_fields.values()
    if isinstance(field.default, BaseModel)
    for name in type(field.default).model_fields
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3) | st.dates()
KEYS = st.sampled_from(FIELDS) | st.text(max_size=5) | st.integers() | st.none() | st.tuples(st.text(max_size=2))
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@settings(max_examples=300, deadline=None)
@given(data=st.dictionaries(st.sampled_from(FIELDS) | KEYS, ANYTHING, max_size=6) | ANYTHING)
def test_whatever_is_submitted_is_a_spec_or_named_problems(data: Any) -> None:
    made, found = check(data)
    assert (made is None) == bool(found)
    assert all(isinstance(p.field, str) and p.message for p in found)
    if made is not None:
        assert RunSpec.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("given", "seconds"), [("90s", 90), ("30m", 1800), ("12h", 43200), ("2 d", 172800), ("PT1H", 3600), (60, 60)]
)
def test_a_span_of_time_as_people_write_it(given: object, seconds: float) -> None:
    made, problems = check({"data": {"sources": [{"uri": "file:///x"}]}, "limits": {"max_runtime": given}})
    assert made is not None, problems
    assert made.limits.max_runtime.total_seconds() == seconds
