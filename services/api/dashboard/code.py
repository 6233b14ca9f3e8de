"""A student's code as a page shows it: numbered, coloured, with what was said about a line below it.

The text is hostile: everything goes through Markup's escaping, and what an editor would hide or obey is shown as a mark.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby

from markupsafe import Markup, escape
from pygments.lexers.c_cpp import CLexer, CppLexer
from pygments.token import STANDARD_TYPES

from reflux.records import Evidence

Segment = tuple[str, str]  # a class of pygments, and text
Line = tuple[Segment, ...]

# A longer text, line or run of empty lines is shown without colours: pygments takes seconds for some that are made for it
COLOURED, COLOURED_LINE, COLOURED_EMPTY = 20_000, 1000, 30
LEXERS = {
    "c": CLexer(stripnl=False, ensurenl=False),  # type: ignore[no-untyped-call]
    "c++": CppLexer(stripnl=False, ensurenl=False),  # type: ignore[no-untyped-call]
}
NAMED = {"\x1b": "ESC", "\x00": "NUL", "\x07": "BEL", "\x08": "BS", "\r": "CR", "\x7f": "DEL", "\x0c": "FF", "\x0b": "VT"}
MINUS = "\u2212"
HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)


def visible(text: str) -> Markup:
    """The text escaped, with every character that is not seen, or that turns the direction of others, as a mark."""
    parts, end = [], 0
    for found in HIDDEN.finditer(text):
        parts.append(escape(text[end : found.start()]))
        parts.append(_mark(found[0]))
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def plain(text: str) -> str:
    """The same for where no markup can be: a tooltip, a label, a log's line."""
    return HIDDEN.sub(lambda found: f"⟨{_name(found[0])}⟩", text)


def hides(text: str) -> list[str]:
    """What `visible` marks in it, in words: `U+202E RIGHT-TO-LEFT OVERRIDE, 2 times`."""
    counts: dict[str, int] = {}
    for char in HIDDEN.findall(text):
        counts[char] = counts.get(char, 0) + 1
    return [f"{_long_name(char)}, {count} times" if count > 1 else _long_name(char) for char, count in counts.items()]


@lru_cache(maxsize=256)
def lines(code: str, language: str = "c") -> tuple[Line, ...]:
    """The lines of the code, each as coloured segments; without the empty one after a last line end."""
    code = code.replace("\r\n", "\n").replace("\r", "\n")  # as the evaluator and pygments read it
    if not _is_quick(code):
        tokens: Iterable[Segment] = [("", code)]
    else:
        tokens = ((STANDARD_TYPES.get(kind, ""), text) for kind, text in LEXERS[language].get_tokens(code))
    found: list[list[Segment]] = [[]]
    for css, text in tokens:
        first, *others = text.split("\n")
        found[-1].append((css, first))
        found.extend([(css, other)] for other in others)
    if len(found) > 1 and not any(text for _, text in found[-1]):
        found.pop()
    return tuple(tuple((css, text) for css, text in line if text) for line in found)


def inline(line: Line, changed: tuple[int, int] | None = None) -> Markup:
    """One line; characters [from, to) of it marked as changed."""
    if changed is None or changed[0] >= changed[1]:
        return Markup("").join(_span(css, text) for css, text in line)
    before, within = _split(line, changed[0])
    within, after = _split(within, changed[1] - changed[0])
    return Markup("{}<mark>{}</mark>{}").format(inline(before), inline(within), inline(after))


def annotated(code: str, language: str, said: Sequence[Evidence], anchor: str = "") -> Markup:
    """The code with the evidence `said` below the lines it is about, a caret at its column. `anchor`: lines have ids by it."""
    rows = []
    by_line = {number: list(group) for number, group in groupby(sorted(said, key=_place), key=lambda item: item.line)}
    for number, line in enumerate(lines(code, language), 1):
        about = by_line.get(number, [])
        rows.append(
            Markup('<div class="line {}"{}><span class="no">{}</span><code>{}</code></div>').format(
                _tone(about),
                Markup(' id="{}-{}"').format(anchor, number) if anchor else "",
                number,
                inline(line) or "\u200b",
            )
        )
        rows.extend(_said(item, "".join(text for _, text in line)) for item in about)
    return Markup('<div class="code" role="group" aria-label="Code">{}</div>').format(Markup("").join(rows))


def is_severe(item: Evidence) -> bool:
    """Whether it is an error, or took points."""
    return item.rule == "error" or item.points < 0


def is_compiler(item: Evidence) -> bool:
    return item.part == "syntax" and (item.rule in ("error", "warning") or item.rule.startswith("-W"))


def points(value: float) -> str:
    """`+0.5`, with a real minus, or nothing."""
    return "" if not value else f"{'+' if value > 0 else MINUS}{abs(value):.2f}".rstrip("0").rstrip(".")


def _is_quick(code: str) -> bool:
    if len(code) > COLOURED:
        return False
    written = code.split("\n")
    empty = max((len(list(run)) for blank, run in groupby(written, key=lambda line: not line.strip()) if blank), default=0)
    return empty <= COLOURED_EMPTY and max(map(len, written)) <= COLOURED_LINE


def _said(item: Evidence, line: str) -> Markup:
    caret = Markup("")
    if item.column and item.column <= len(line) + 1:
        caret = Markup('<span class="caret" aria-hidden="true">{}^</span>').format(re.sub(r"[^\t]", " ", line[: item.column - 1]))
    return Markup('<div class="said {} part-{}"><span class="no"></span><div>{}<b>{}</b> {} <i>{}</i></div></div>').format(
        "severe" if item.rule == "error" else "mild",
        item.part,
        caret,
        _who(item),
        visible(item.message),
        points(item.points),
    )


def _who(item: Evidence) -> str:
    if not is_compiler(item):
        return f"{item.part} {item.rule}"
    return "GCC error" if item.rule == "error" else f"GCC warning {item.rule if item.rule != 'warning' else ''}".strip()


def _tone(about: Sequence[Evidence]) -> str:
    if not about:
        return ""
    return "wrong" if any(item.rule == "error" for item in about) else "doubtful"


def _place(item: Evidence) -> tuple[int, int]:
    return item.line or 0, item.column or 0


def _split(line: Line, at: int) -> tuple[Line, Line]:
    left: list[Segment] = []
    right: list[Segment] = []
    for css, text in line:
        if at > 0:
            left.append((css, text[:at]))
        if text[max(0, at) :]:
            right.append((css, text[max(0, at) :]))
        at -= len(text)
    return tuple(left), tuple(right)


def _span(css: str, text: str) -> Markup:
    return Markup('<span class="{}">{}</span>').format(css, visible(text)) if css else visible(text)


def _mark(char: str) -> Markup:
    return Markup('<span class="hidden-char" title="{}">{}</span>').format(_long_name(char), _name(char))


def _name(char: str) -> str:
    return NAMED.get(char) or f"U+{ord(char):04X}"


def _long_name(char: str) -> str:
    return f"U+{ord(char):04X} {unicodedata.name(char, NAMED.get(char, 'control character'))}"
