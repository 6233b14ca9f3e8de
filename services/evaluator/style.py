"""Style: comments that say something, Doxygen, names, indentation."""

import re

from services.evaluator.rubric import Rubric
from services.evaluator.sheet import Sheet
from services.evaluator.tree import Tree

_DOC_BLOCK = re.compile(r"/\*\*(?!\*|/)|/\*!|///|//!")
_DOXYGEN = {
    "a documentation block": _DOC_BLOCK,
    "@brief": re.compile(r"[@\\]brief\s+\S"),
    "@param": re.compile(r"[@\\]param(?:\s*\[[\w, ]+\])?\s+\w"),
    "@return": re.compile(r"[@\\](?:returns?|retval)\s+\S"),
}
_LOOP_COUNTERS = {"i", "j", "k"}


def score(tree: Tree, code: str, rubric: Rubric) -> Sheet:
    sheet = Sheet("style")
    _comments(sheet, tree, rubric)
    _doxygen(sheet, tree, rubric)
    _names(sheet, tree, rubric)
    _indentation(sheet, tree, code, rubric)
    return sheet


def _comments(sheet: Sheet, tree: Tree, rubric: Rubric) -> None:
    telling = {
        _plain(comment.text): comment.line for comment in reversed(tree.comments) if re.search(r"[^\W\d_]{2}", comment.text)
    }
    count = len(telling)
    passed = len(tree.comments) - count
    if count >= rubric.style_many_comments_from:
        points = rubric.style_many_comments
    else:
        points = (rubric.style_no_comments, rubric.style_one_comment)[count] if count < 2 else rubric.style_some_comments
    unheard = f"; {passed} more are empty or say the same again" if passed else ""
    sheet.add("comments", f"{count} comment{'' if count == 1 else 's'}{unheard}", points, min(telling.values(), default=None))


def _doxygen(sheet: Sheet, tree: Tree, rubric: Rubric) -> None:
    left = rubric.style_doxygen_most
    documented = [comment for comment in tree.comments if _DOC_BLOCK.match(comment.text)]
    for part, pattern in _DOXYGEN.items():
        first = next((comment for comment in documented if pattern.search(comment.text)), None)
        if first:
            given = min(left, rubric.style_each_doxygen_part)
            left -= given
            sheet.add("doxygen", part, given, first.line)


def _names(sheet: Sheet, tree: Tree, rubric: Rubric) -> None:
    single = {name.text: name.line for name in reversed(tree.names) if len(name.text) == 1 and name.text not in _LOOP_COUNTERS}
    if len(single) > rubric.style_single_letter_names_allowed:
        message = f"{len(single)} names of one letter: {', '.join(sorted(single))}"
        sheet.add("single-letter-names", message, rubric.style_single_letter_names, min(single.values()))


def _indentation(sheet: Sheet, tree: Tree, code: str, rubric: Rubric) -> None:
    inside = {line for comment in tree.comments for line in range(comment.line + 1, comment.line + comment.text.count("\n") + 1)}
    tabs, spaces = list[int](), list[int]()
    for number, line in enumerate(code.split("\n"), 1):
        if number not in inside and line.strip():
            lead = line[: len(line) - len(line.lstrip(" \t"))]
            if " \t" in lead:
                tabs.append(number)
                spaces.append(number)
            elif lead.startswith("\t"):
                tabs.append(number)
            elif lead.startswith("  "):
                spaces.append(number)
    if tabs and spaces:
        other = max(tabs[0], spaces[0])
        sheet.add("mixed-indentation", "indented with tabs here and with spaces there", rubric.style_mixed_indentation, other)


def _plain(comment: str) -> str:
    return " ".join(re.findall(r"\w+", comment.lower()))
