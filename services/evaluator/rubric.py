"""The rubric: every number of the scoring, in one place. `VERSION` changes with the meaning of any of them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from reflux.errors import Terminal
from reflux.records import WEIGHTS

VERSION = "1"

TSN = ("pcp", "vlan", "timestamp", "gate", "priority", "qbv", "qav", "shaper", "gcl", "schedule")
AVB = ("stream", "sample", "channel", "bandwidth", "srp", "talker", "listener", "reservation")


class Rubric(BaseModel):
    """Scores in [0, 10]; what is taken stands as a negative number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight_syntax: float = Field(WEIGHTS["syntax"], ge=0)
    weight_protocol: float = Field(WEIGHTS["protocol"], ge=0)
    weight_safety: float = Field(WEIGHTS["safety"], ge=0)
    weight_style: float = Field(WEIGHTS["style"], ge=0)

    syntax_clean: float = 10.0
    syntax_one_warning: float = 9.0
    syntax_each_further_warning: float = -0.5
    syntax_warnings_floor: float = 7.0
    syntax_one_error: float = 6.0
    syntax_few_errors: float = 5.0
    syntax_many_errors_from: float = 5
    syntax_many_errors: float = 0.0
    heuristic_base: float = 7.0
    heuristic_braces: float = -2.0
    heuristic_parentheses: float = -2.0
    heuristic_each_missing_semicolon: float = -0.5
    heuristic_semicolons_floor: float = -3.0

    protocol_full: float = 10.0
    protocol_words_wanted: float = 3
    protocol_each_missing: float = -1.5
    protocol_unknown_domain: float = 6.0
    protocol_mentioned_word: float = 0.5
    protocol_mentioned_words_counted: float = 1

    safety_base: float = 8.0
    safety_goto: float = -3.0
    safety_each_heap_use: float = -2.0
    safety_setjmp: float = -3.0
    safety_abort: float = -1.5
    safety_each_fixed_width_type: float = 0.5
    safety_fixed_width_most: float = 2.0
    safety_each_static_or_const: float = 0.3
    safety_static_or_const_most: float = 1.5
    safety_volatile: float = 0.2
    safety_recursion: float = -1.5
    safety_endless_loop: float = -2.0

    style_no_comments: float = 5.0
    style_one_comment: float = 6.0
    style_some_comments: float = 7.0
    style_many_comments: float = 8.0
    style_many_comments_from: float = 5
    style_each_doxygen_part: float = 0.5
    style_doxygen_most: float = 2.0
    style_single_letter_names: float = -1.0
    style_single_letter_names_allowed: float = 5
    style_mixed_indentation: float = -0.5

    gaming_cap: float = 5.0
    misra_each: float = 0.0

    words: dict[str, tuple[str, ...]] = {"tsn": TSN, "avb": AVB}

    @classmethod
    def of(cls, overrides: Mapping[str, float], words: Mapping[str, tuple[str, ...]] | None = None) -> Self:
        """The rubric with some numbers changed and words added per domain. Terminal(invalid_spec) names what is wrong."""
        numbers = [name for name in cls.model_fields if name != "words"]
        unknown = sorted(set(overrides) - set(numbers))
        if unknown:
            raise Terminal(
                "invalid_spec", f"rubric.overrides: there is no {', '.join(unknown)}", f"One of: {', '.join(numbers)}."
            )
        merged = {"tsn": TSN, "avb": AVB}
        for domain, extra in (words or {}).items():
            merged[domain] = tuple(dict.fromkeys((*merged.get(domain, ()), *(word.lower() for word in extra))))
        try:
            rubric = cls(**overrides, words=merged)
        except pydantic.ValidationError as error:
            detail = error.errors()[0]
            raise Terminal("invalid_spec", f"rubric.overrides.{detail['loc'][0]}: {detail['msg']}") from error
        total = rubric.weight_syntax + rubric.weight_protocol + rubric.weight_safety + rubric.weight_style
        if abs(total - 1.0) > 1e-9:
            raise Terminal("invalid_spec", f"rubric.overrides: the weights sum to {total:g}", "Let the four weights sum to 1.")
        return rubric

    @property
    def version(self) -> str:
        """`1`, or `1+` and a short hash of what a run changed."""
        if self == Rubric():
            return VERSION
        text = json.dumps(self.model_dump(exclude_defaults=True), sort_keys=True)
        return f"{VERSION}+{hashlib.sha256(text.encode()).hexdigest()[:8]}"
