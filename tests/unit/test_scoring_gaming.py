"""Answers that want points without work, and defects planted in good ones."""
# ruff: noqa: E501 an answer stands on one line

import random
import re
from collections.abc import Callable

import pytest

from reflux.records import Verdict
from services.evaluator.rubric import Rubric
from services.evaluator.score import Attempt, the_scorer
from tests.unit.test_scoring_golden import GOLDEN, verdict_on

PROMPT = "Write a TSN function that opens the gate. Use: int tsn_open_gate(int gate, int priority, int vlan) { return gate + priority + vlan; }"
DOC = "/**\n * @brief Opens the gate by its schedule.\n * @param priority the traffic class\n * @return the state\n */\n"

# name: (rule of the evidence, text)
TRICKS = {
    "empty body": ("hollow-body", DOC + "void tsn_open_gate(uint8_t priority, const uint16_t vlan) { }\n"),
    "constant": ("hollow-body", DOC + "uint8_t tsn_gate(void) { return 0U; }\n"),
    "constant by a variable": ("hollow-body", DOC + "uint8_t tsn_gate_vlan_pcp(void)\n{\n    uint8_t result = 0U;\n    return result;\n}\n"),
    "constant by a macro": ("hollow-body", "#define TSN_OK 0\n" + DOC + "int tsn_gate_vlan_pcp(void) { return TSN_OK; }\n"),
    "constant by an enumerator": ("hollow-body", DOC + "enum r { gate_ok };\nenum r tsn_vlan_pcp(void) { return gate_ok; }\n"),
    "parameters cast to void": (
        "hollow-body",
        DOC + "int tsn_gate(uint8_t priority, uint16_t vlan)\n{\n    (void)priority;\n    (void)vlan;\n    return 0;\n}\n",
    ),
    "self-assignment": ("hollow-body", DOC + "void tsn_gate(int priority, int vlan)\n{\n    priority = priority;\n    vlan = vlan;\n}\n"),
    "a parameter given back": ("hollow-body", DOC + "uint8_t tsn_gate_vlan(uint8_t priority) { return priority; }\n"),
    "work behind a return": (
        "hollow-body",
        DOC + "int tsn_gate(int priority, int vlan)\n{\n    return 0;\n    priority += vlan;\n    return priority * 2;\n}\n",
    ),
    "work under a false condition": (
        "hollow-body",
        DOC + "int tsn_gate(int priority, int vlan)\n{\n    if (0) {\n        priority += vlan;\n    }\n    while (1 > 2) {\n        vlan++;\n    }\n    return 1;\n}\n",
    ),
    "comments only": ("nothing-to-compile", DOC + "/* gate priority vlan pcp qbv schedule */\n"),
    "all in #if 0": ("nothing-to-compile", "#if 0\n" + DOC + "int tsn_gate(int priority, int vlan) { return priority + vlan; }\n#endif\n"),
    "all under a name that is not defined": ("nothing-to-compile", "#ifdef TSN\nint gate(int vlan, int pcp) { return vlan + pcp; }\n#endif\n"),
    "warnings off": (
        "warnings-off",
        '#pragma GCC diagnostic ignored "-Wall"\n' + DOC + "int tsn_gate(int priority, int vlan) { int x; return priority + vlan; }\n",
    ),
    "warnings off by an operator": (
        "warnings-off",
        '_Pragma("GCC diagnostic ignored \\"-Wunused-variable\\"")\n' + DOC + "int tsn_gate(int priority, int vlan) { int x; return priority + vlan; }\n",
    ),
    "warnings off in a macro": (
        "warnings-off",
        "#define HUSH(x) _Pragma(#x)\nHUSH(GCC diagnostic ignored \"-Wall\")\n" + DOC + "int tsn_gate(int pcp, int vlan) { return pcp + vlan; }\n",
    ),
    "warnings off by pasting": (
        "warnings-off",
        "#define P _Pra ## gma\n" + DOC + "int tsn_gate(int priority, int vlan) { return priority + vlan; }\n",
    ),
    "a system header": ("warnings-off", "#pragma GCC system_header\n" + DOC + "int tsn_gate(int priority, int vlan) { return priority + vlan; }\n"),
    "a line marker": ("line-marker", '# 1 "/usr/include/x.h" 1 3\n' + DOC + "int tsn_gate(int priority, int vlan) { int x; return priority + vlan; }\n"),
    "a line directive": ("line-marker", '#line 1 "gate.h"\n' + DOC + "int tsn_gate(int priority, int vlan) { return priority + vlan; }\n"),
    "words listed in a comment": (
        "word-list",
        "/* gate, priority, vlan, pcp, qbv, schedule, shaper */\n" + DOC + "uint8_t next(const uint8_t x) { return (uint8_t)(x + 1U); }\n",
    ),
    "words listed one a line": (
        "word-list",
        "/*\n * gate\n * priority\n * vlan\n * schedule\n */\n" + DOC + "uint8_t next(const uint8_t x) { return (uint8_t)(x + 1U); }\n",
    ),
    "declarations only": ("no-function", DOC + "extern uint8_t tsn_gate(const uint8_t priority, uint16_t vlan);\nstatic const uint32_t gate = 1U;\n"),
    "types only": ("no-function", DOC + "typedef struct { uint8_t gate; uint16_t vlan; const uint32_t *pcp; } schedule_t;\n"),
    "keywords redefined": (
        "keyword-redefined",
        "#define if while\n" + DOC + "int tsn_gate(int priority, int vlan) { if (priority > vlan) { vlan++; } return priority + vlan; }\n",
    ),
    "the prompt again": ("echo", "int tsn_open_gate(int gate, int priority, int vlan) { return gate + priority + vlan; }\n"),
    "most functions are empty": (
        "hollow-body",
        DOC + "int gate(int vlan) { return vlan + 1; }\nvoid tsn_pcp(void) { }\nvoid tsn_qbv(void) { }\nint tsn_priority(void) { return 1; }\n",
    ),
}  # fmt: skip

# These are no tricks: nothing of the kind may be said of them.
HONEST = {
    "a getter of the module's state": "static uint8_t gate_state;\nuint8_t tsn_gate_state(void) { return gate_state; }\n",
    "a setter": "static uint8_t gate_state;\nvoid tsn_set(uint8_t state) { gate_state = state; }\n",
    "a getter of a member": "struct gate { int state; };\nint tsn_gate(const struct gate *gate) { return gate->state; }\n",
    "a write through a pointer": "void tsn_clear(int *gate) { *gate = 0; }\n",
    "a condition": "bool tsn_above(int priority) { if (priority > 7) { return true; } return false; }\n",
    "a call": "void tsn_log(const char *gate) { (void)puts(gate); }\n",
    "a sentence with the domain's words": "/* Open the gate when the schedule says so for this priority and vlan of the frame. */\nint f(int x) { return x + 1; }\n",
    "include guards": "#ifndef GATE_H\n#define GATE_H\nint tsn_gate(int pcp) { return pcp + 1; }\n#endif\n",
    "an endless loop that works": "void tsn_task(volatile int *gate) { for (;;) { *gate ^= 1; } }\n",
    "a macro in upper case": "#define GATES 8\nint tsn_gate(int pcp) { return pcp % GATES; }\n",
    "a pragma that silences nothing": "#pragma pack(push, 1)\nstruct s { char c; int i; };\n#pragma pack(pop)\nint f(const struct s *s) { return s->i + 1; }\n",
    "C++ members": "class Gate { public: int state() const { return state_; } private: int state_ = 0; };\n",
}  # fmt: skip


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_is_named_and_does_not_pass(name: str) -> None:
    rule, text = TRICKS[name]
    verdict = the_scorer().score(Attempt(text, PROMPT, "tsn"))
    assert verdict.overall <= Rubric().gaming_cap
    assert rule in {item.rule for item in verdict.evidence}


def test_there_are_ten_more_than_the_five_named() -> None:
    assert len(TRICKS) >= 15


@pytest.mark.parametrize("name", HONEST)
def test_honest_code_is_not_called_a_trick(name: str) -> None:
    verdict = the_scorer().score(Attempt(HONEST[name], "Write a TSN gate function.", "tsn"))
    assert [item.rule for item in verdict.evidence if item.part == "overall"] == []


def test_hidden_warnings_are_seen_all_the_same() -> None:
    verdict = the_scorer().score(Attempt(TRICKS["warnings off"][1]))
    assert "-Wunused-variable" in {item.rule for item in verdict.evidence}


# Planted defects


def _after_a_brace(statement: str) -> Callable[[str, random.Random], str]:
    return _instead_of(r"(?<=\)[ \n]\{)|(?<=\)\{)", f" {statement} ")


def _instead_of(pattern: str, text: str) -> Callable[[str, random.Random], str]:
    """Puts `text` for one match of the pattern; the code as it was where there is none."""

    def plant(code: str, chance: random.Random) -> str:
        spans = [match.span() for match in re.finditer(pattern, code)]
        if not spans:
            return code
        start, stop = chance.choice(spans)
        return code[:start] + text + code[stop:]

    return plant


DEFECTS: dict[str, Callable[[str, random.Random], str]] = {
    "a semicolon left out": _instead_of(r";(?=\s*(?:\n|\}))", ""),
    "a brace left out": _instead_of(r"\}(?=\s*\Z)", ""),
    "a parenthesis left out": _instead_of(r"\)(?=\s*(?:;|\{))", ""),
    "a keyword misspelled": _instead_of(r"\breturn\b", "retrun"),
    "a name that is not declared": _after_a_brace("planted_name = 1;"),
    "an unused variable": _after_a_brace("int planted_unused;"),
    "goto": _after_a_brace("goto planted; planted:;"),
    "memory from the heap": _after_a_brace("free(malloc(4U));"),
    "abort": _after_a_brace("abort();"),
    "an endless loop": _after_a_brace("while (1) { }"),
    "warnings switched off": lambda code, _: '#pragma GCC diagnostic ignored "-Wall"\n' + code,
    "a header of another company": lambda code, _: '#include "vendor_os.h"\n' + code,
    "a body that does nothing": lambda code, _: re.sub(r"\{.*\}", "{ }", code, flags=re.DOTALL),
}


def _good_answers() -> list[tuple[str, Verdict]]:
    verdicts = [(row["name"], verdict_on(row)) for _, row in GOLDEN if "{" in row["answer"] and row.get("language", "c") == "c"]
    return [
        (name, verdict)
        for name, verdict in verdicts
        if verdict.overall >= 7 and verdict.syntax == 10 and "return" in verdict.code
    ]


def test_planted_defects_lower_the_score() -> None:
    """No seeded mutation raises the score; at least 95 of 100 lower it."""
    chance = random.Random(20)
    good = _good_answers()
    assert len(good) >= 25
    rows = [row for _, row in GOLDEN]
    context = {row["name"]: (row.get("prompt", ""), row.get("domain", "generic")) for row in rows}
    planted = [
        (verdict, defect, Attempt(text, *context[name]))
        for name, verdict in good
        for defect in chance.sample(sorted(DEFECTS), 3)
        if (text := DEFECTS[defect](verdict.code, chance)) != verdict.code
    ]
    assert len(planted) >= 100
    verdicts = the_scorer().score_all([attempt for _, _, attempt in planted])
    pairs = [
        (before.overall, after.overall, defect, after.code) for (before, defect, _), after in zip(planted, verdicts, strict=True)
    ]
    assert [(defect, code) for before, after, defect, code in pairs if after > before] == []
    kept = [(defect, code) for before, after, defect, code in pairs if after == before]
    assert len(kept) <= 0.05 * len(planted), kept
