"""docs/errors.md has every code as the code has it. On a difference, put the table or the row that is printed there.

What a code of a run means stands in the page alone, and is left as it is.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from reflux.errors import POLICIES, Policy
from tests.environment import ROOT

PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
OF_RUNS, OF_THE_API = PAGE.split("## Answers of the API")
MAKERS = {"ProblemError": (0, 1, 2, 3), "_unknown": (None, 0, 1, 2)}  # where status, code, detail and hint stand


def rows(text: str) -> dict[str, list[str]]:
    """The cells of a table by the code in its first column."""
    lines = re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    assert len({code for code, _ in lines}) == len(lines), "a code stands there twice"
    return {code: rest.split(" | ") for code, rest in lines}


def test_every_code_of_a_run_stands_there_in_the_order_of_the_code() -> None:
    assert list(rows(OF_RUNS)) == list(POLICIES)


@pytest.mark.parametrize("code", POLICIES)
def test_a_code_of_a_run_has_its_class_its_waits_a_meaning_and_its_remedy(code: str) -> None:
    error_class, waits, meaning, remedy = rows(OF_RUNS)[code]
    policy = POLICIES[code]
    assert (error_class, waits, remedy) == (policy.error_class.value, written(policy), policy.hint)
    assert re.fullmatch(r"[A-Z`].{15,}\.", meaning)
    assert meaning != remedy


def written(policy: Policy) -> str:
    waits = [f"{wait:g}" if wait else "at once" for wait in policy.waits]
    if policy.forgiven_by_progress:
        return "at once; given up after 3 attempts without progress"
    if len(waits) > 4 and len(set(waits)) == 1:
        return f"{waits[0]}, {len(waits)} times"
    return ", ".join(waits) or "none"


@dataclass
class Told:
    statuses: set[str] = field(default_factory=set)
    details: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)


@cache
def problems() -> dict[str, Told]:
    """Every answer that the API makes as an error, by code: read from its source, so that none is left out."""
    found: dict[str, Told] = {}
    for path in sorted((ROOT / "services" / "api").rglob("*.py")):
        for status, code, detail, hint in raised(path):
            told = found.setdefault(code, Told())
            told.statuses.add(status)
            told.details += [detail] if detail not in told.details else []
            told.hints += [hint] if hint and hint not in told.hints else []
    return dict(sorted(found.items()))


def raised(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Status, code, detail and hint of each problem with a code of its own. What passes on a failure's code has none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    innermost = {call: function for function in functions for call in calls(function, *MAKERS)}  # outer ones are walked first
    for function in dict.fromkeys(innermost.values()):
        names = assigned(tree.body) | passed(function, tree) | assigned(ast.walk(function))
        for call in (call for call, where in innermost.items() if where is function):
            places = MAKERS[call.func.id]
            parts = [call.args[at] if at is not None and at < len(call.args) else None for at in places]
            status, code, detail, hint = ("" if part is None else text(part, names) for part in parts)
            if code.isidentifier():
                yield status or "401", code, detail, hint


def calls(tree: ast.AST, *names: str) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names]


def assigned(nodes: Iterable[ast.AST]) -> dict[str, list[ast.expr]]:
    """What each name is set to, also by pairs (`told, hint = …, …`)."""
    names: dict[str, list[ast.expr]] = {}
    for node in (node for node in nodes if isinstance(node, ast.Assign)):
        target, value = node.targets[0], node.value
        both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        for name, what in zip(target.elts, value.elts, strict=True) if both else [(target, value)]:
            names.setdefault(getattr(name, "id", ""), []).append(what)
    return names


def passed(function: ast.FunctionDef | ast.AsyncFunctionDef, tree: ast.Module) -> dict[str, list[ast.expr]]:
    """What each parameter is given by those who call the function in the same file."""
    given = [zip(function.args.args, call.args, strict=False) for call in calls(tree, function.name)]
    names: dict[str, list[ast.expr]] = {argument.arg: [] for argument in function.args.args}
    for parameter, argument in (pair for pairs in given for pair in pairs):
        names[parameter.arg].append(argument)
    return names


def text(node: ast.expr, names: dict[str, list[ast.expr]]) -> str:
    """A text as people would read it: what changes from case to case is an ellipsis."""
    match node:
        case ast.Constant():
            return str(node.value)
        case ast.JoinedStr():
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        case ast.IfExp():
            return f"{text(node.body, names)} {text(node.orelse, names)}"
        case ast.Name() if names.get(node.id):
            return " ".join(dict.fromkeys(text(value, names) for value in names[node.id]))
    return "…"


def table() -> str:
    lines = ["| code | status | what it says | what to do |", "|---|---|---|---|"]
    for code, told in problems().items():
        says, hints = " ".join(told.details), " ".join(told.hints)
        lines.append(f"| `{code}` | {', '.join(sorted(told.statuses))} | {says} | {hints or '…'} |")
    return "\n".join(lines)


def test_every_answer_of_the_api_stands_there() -> None:
    assert "run_not_found" in problems(), "the search for them is broken"
    assert "no_key" in problems()
    assert table() in OF_THE_API, table()


@pytest.mark.parametrize("code", problems())
def test_every_answer_of_the_api_says_what_happened_and_what_to_do(code: str) -> None:
    told = problems()[code]
    assert told.details
    assert told.hints, "an error without a hint leaves its reader alone"
