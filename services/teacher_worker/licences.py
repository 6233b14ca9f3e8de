"""SPDX licence expressions: what a file states, and whether a list of licences allows it."""

import re
from collections.abc import Sequence

TAG = re.compile(r"SPDX-License-Identifier:\s*([^\n*]*[^\n*\s/])")
TOKEN = re.compile(r"\(|\)|[^\s()]+")


def stated(text: str) -> str | None:
    """The SPDX expression in `text`, or None."""
    found = TAG.search(text)
    return found.group(1).strip() if found else None


def allowed(expression: str | None, licences: Sequence[str]) -> bool:
    """Whether the file may be used under one of `licences`. What states no licence, or a malformed one, may not.

    `A OR B` needs one of both, `A AND B` both; `A WITH exception` is allowed by `A`, as an exception only adds rights.
    """
    tokens = TOKEN.findall(expression or "")
    known = {_plain(licence) for licence in licences}
    verdict, rest = _any(tokens, known)
    return verdict and not rest


def _any(tokens: list[str], known: set[str]) -> tuple[bool, list[str]]:
    verdict, tokens = _all(tokens, known)
    while tokens and tokens[0].upper() == "OR":
        other, tokens = _all(tokens[1:], known)
        verdict = verdict or other
    return verdict, tokens


def _all(tokens: list[str], known: set[str]) -> tuple[bool, list[str]]:
    verdict, tokens = _one(tokens, known)
    while tokens and tokens[0].upper() == "AND":
        other, tokens = _one(tokens[1:], known)
        verdict = verdict and other
    return verdict, tokens


def _one(tokens: list[str], known: set[str]) -> tuple[bool, list[str]]:
    if not tokens:
        return False, tokens
    if tokens[0] == "(":
        verdict, tokens = _any(tokens[1:], known)
        return (verdict, tokens[1:]) if tokens and tokens[0] == ")" else (False, ["unclosed"])
    verdict = _plain(tokens[0]) in known
    skip = 3 if len(tokens) > 2 and tokens[1].upper() == "WITH" else 1
    return verdict, tokens[skip:]


def _plain(licence: str) -> str:
    """The spellings of one licence as one: `GPL-2.0+` is `gpl-2.0-or-later`, `GPL-2.0` is `gpl-2.0-only`."""
    name = licence.strip().lower()
    if name.endswith("+"):
        name = name.removesuffix("+") + "-or-later"
    return name.removesuffix("-only")
