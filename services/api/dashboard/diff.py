"""The student's code against the teacher's: blocks of equal and changed lines, in one column or in two."""

import difflib
from dataclasses import dataclass
from functools import lru_cache

from markupsafe import Markup

from services.api.dashboard import code
from services.api.dashboard.code import Line

CONTEXT = 3  # equal lines that stay open around a change
COMPARED = 1500  # lines; longer texts are shown one after the other


@dataclass(frozen=True)
class Block:
    """Lines [a, b) of the old text that became lines [c, d) of the new one."""

    equal: bool
    old: tuple[int, int]
    new: tuple[int, int]


@lru_cache(maxsize=128)
def blocks(before: tuple[str, ...], after: tuple[str, ...]) -> tuple[Block, ...]:
    if max(len(before), len(after)) > COMPARED:
        return (Block(False, (0, len(before)), (0, len(after))),)
    found = difflib.SequenceMatcher(None, before, after).get_opcodes()
    return tuple(Block(tag == "equal", (a, b), (c, d)) for tag, a, b, c, d in found)


def changed(old: str, new: str, language: str) -> tuple[int, int]:
    """How many lines were taken and how many were given."""
    told = [block for block in blocks(_texts(code.lines(old, language)), _texts(code.lines(new, language))) if not block.equal]
    return sum(b.old[1] - b.old[0] for b in told), sum(b.new[1] - b.new[0] for b in told)


def shown(old: str, new: str, language: str, *, split: bool) -> Markup:
    before, after = code.lines(old, language), code.lines(new, language)
    parts = [
        _equal(block, before, after) if block.equal else _pair(block, before, after, "changed")
        for block in blocks(_texts(before), _texts(after))
    ]
    return Markup('<div class="diff {}" role="group" aria-label="Differences">{}</div>').format(
        "split" if split else "unified", Markup("").join(parts)
    )


def _equal(block: Block, before: tuple[Line, ...], after: tuple[Line, ...]) -> Markup:
    count = block.old[1] - block.old[0]
    head = CONTEXT if block.old[0] else 0
    tail = CONTEXT if block.old[1] < len(before) or block.new[1] < len(after) else 0
    if count <= head + tail + 2:
        return _pair(block, before, after)
    inner = Block(True, (block.old[0] + head, block.old[1] - tail), (block.new[0] + head, block.new[1] - tail))
    first = Block(True, (block.old[0], inner.old[0]), (block.new[0], inner.new[0]))
    last = Block(True, (inner.old[1], block.old[1]), (inner.new[1], block.new[1]))
    return Markup("{}<details><summary>{} equal lines</summary>{}</details>{}").format(
        _pair(first, before, after), count - head - tail, _pair(inner, before, after), _pair(last, before, after)
    )


def _pair(block: Block, before: tuple[Line, ...], after: tuple[Line, ...], css: str = "equal") -> Markup:
    old = [(number + 1, before[number]) for number in range(*block.old)]
    new = [(number + 1, after[number]) for number in range(*block.new)]
    if block.equal:
        left = [_row(number, line, " ", None) for number, line in old]
        right = [_row(number, line, " ", None) for number, line in new]
    else:
        left = [_row(number, line, code.MINUS, _difference(line, new, place)) for place, (number, line) in enumerate(old)]
        right = [_row(number, line, "+", _difference(line, old, place)) for place, (number, line) in enumerate(new)]
    return Markup('<div class="chunk {}"><div class="old">{}</div><div class="new">{}</div></div>').format(
        css, Markup("").join(left), Markup("").join(right)
    )


def _row(number: int, line: Line, sign: str, marked: tuple[int, int] | None) -> Markup:
    return Markup('<div class="line"><span class="no">{}</span><span class="sign">{}</span><code>{}</code></div>').format(
        number, sign, code.inline(line, marked) or "\u200b"
    )


def _difference(line: Line, others: list[tuple[int, Line]], place: int) -> tuple[int, int] | None:
    """Where the line differs from the one beside it, if they have much in common."""
    if place >= len(others):
        return None
    mine, theirs = _text(line), _text(others[place][1])
    head = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
    longest_tail = min(len(mine), len(theirs)) - head
    tail = next((i for i in range(longest_tail) if mine[-1 - i] != theirs[-1 - i]), longest_tail)
    common = len((mine[:head] + mine[len(mine) - tail :]).strip())
    return (head, len(mine) - tail) if 3 * common >= len(mine.strip()) and common else None


def _texts(lines: tuple[Line, ...]) -> tuple[str, ...]:
    return tuple(map(_text, lines))


def _text(line: Line) -> str:
    return "".join(text for _, text in line)
