"""Syntax: what GCC says, or where there is no GCC a heuristic over braces, parentheses and semicolons."""

import re

from services.evaluator.compiler import Report
from services.evaluator.rubric import Rubric
from services.evaluator.sheet import Sheet

SHOWN = 20


def from_report(report: Report, rubric: Rubric) -> Sheet:
    """10 clean, 9 to 7 with warnings, 6 or 5 with a few errors, else 0."""
    sheet = Sheet("syntax")
    sheet.add("base", "compiled with -Wall -Wextra", rubric.syntax_clean)
    if report.broke_off:
        sheet.add("broke-off", report.broke_off, rubric.syntax_many_errors - rubric.syntax_clean)
    elif report.errors:
        _errors(sheet, report, rubric)
    else:
        _warnings(sheet, report, rubric)
    return sheet


def nothing(why: str, rule: str) -> Sheet:
    """Nothing that could be compiled."""
    sheet = Sheet("syntax")
    sheet.add(rule, why)
    return sheet


def heuristic(code_without_comments: str, rubric: Rubric) -> Sheet:
    """`code_without_comments` has neither comments nor the insides of literals."""
    sheet = Sheet("syntax")
    sheet.add("base", "no compiler on this machine: brackets and semicolons are looked at", rubric.heuristic_base)
    for opening, closing, name, points in (
        ("{", "}", "braces", rubric.heuristic_braces),
        ("(", ")", "parentheses", rubric.heuristic_parentheses),
    ):
        line = _unbalanced(code_without_comments, opening, closing)
        if line:
            sheet.add(name, f"{name} do not pair up", points, line)
    left = -rubric.heuristic_semicolons_floor
    for line in _missing_semicolons(code_without_comments):
        taken = min(left, -rubric.heuristic_each_missing_semicolon)
        left -= taken
        sheet.add("semicolon", "a statement seems to lack its semicolon", -taken, line)
    return sheet


def _errors(sheet: Sheet, report: Report, rubric: Rubric) -> None:
    # The whole step to a lower score is taken by the error that reaches it.
    steps = {
        1: rubric.syntax_one_error,
        2: rubric.syntax_few_errors,
        int(rubric.syntax_many_errors_from): rubric.syntax_many_errors,
    }
    score = rubric.syntax_clean
    for count, error in enumerate(report.errors, 1):
        lower = steps.get(count, score)
        if count <= SHOWN:
            sheet.add("error", error.message, lower - score, error.line, error.column)
        score = lower
    for warning in report.warnings[:SHOWN]:
        sheet.add(warning.flag or "warning", warning.message, 0.0, warning.line, warning.column)


def _warnings(sheet: Sheet, report: Report, rubric: Rubric) -> None:
    score = rubric.syntax_clean
    for count, warning in enumerate(report.warnings, 1):
        lower = rubric.syntax_one_warning + (count - 1) * rubric.syntax_each_further_warning
        lower = max(rubric.syntax_warnings_floor, lower)
        if count <= SHOWN:
            sheet.add(warning.flag or "warning", warning.message, lower - score, warning.line, warning.column)
        score = lower


def _unbalanced(code: str, opening: str, closing: str) -> int:
    """The line where the brackets stop to pair up; 0 where they do."""
    open_lines = list[int]()
    for number, line in enumerate(code.split("\n"), 1):
        for char in line:
            if char == opening:
                open_lines.append(number)
            elif char == closing:
                if not open_lines:
                    return number
                open_lines.pop()
    return open_lines[-1] if open_lines else 0


_ENDS = re.compile(r"[;{}:,\\(\[&|*/=<>?!^%~]$|(?<!\+)\+$|(?<!-)-$|^#|\belse$|\bdo$")
_STATEMENT = re.compile(r"^(?:return|break|continue|goto)\b|^[\w*>.\[\]() -]+(?:=|\+\+|--)|^[\w>.-]+\s*\(.*\)$")
_HEAD = re.compile(r"^(?:if|for|while|switch|else)\b")


def _missing_semicolons(code: str) -> list[int]:
    """Lines within braces that look like a whole statement, end without a semicolon, and are not gone on with."""
    lines = code.split("\n")
    found, depth = list[int](), 0
    for number, line in enumerate(lines, 1):
        text = line.strip()
        following = next((after.strip() for after in lines[number:] if after.strip()), "")
        whole = text and _STATEMENT.search(text) and not _ENDS.search(text) and not _HEAD.search(text)
        if whole and depth > 0 and not re.match(r"[{.?:+*/=<>&|,)\]-]", following):
            found.append(number)
        depth += line.count("{") - line.count("}")
    return found
