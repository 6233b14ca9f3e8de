"""The code of an answer: its C or C++ blocks, or all of its text."""

import re
from dataclasses import dataclass
from typing import Literal

Language = Literal["c", "c++"]

_FENCE = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})[ \t]*([^\s`{]*)[^\n`]*$")
_C_TAGS = {"c", "h", "c11", "c99", "ansi-c", "embedded-c"}
_CXX_TAGS = {"c++", "cpp", "cxx", "cc", "hpp", "hxx", "hh", "c++17", "cpp17"}
_CXX_SIGNS = re.compile(
    r"^\s*(?:template\s*<|namespace\s+\w+|using\s+(?:namespace\b|\w+\s*=)|class\s+\w+[^;()]*\{|#\s*include\s*<(?:c?[a-z_]+)>\s*$)"
    r"|\bstd::|\bnullptr\b|\bconstexpr\b|\bstatic_cast\s*<|\breinterpret_cast\s*<|\bpublic:|\bprivate:|\bauto\s+\w+\s*=|&&?\s*operator",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Extracted:
    """`code` with LF line ends; `blocks` counts the blocks it was joined from, 0 for raw text; `cut`: the last was not closed."""

    code: str
    language: Language
    blocks: int = 0
    cut: bool = False


def extract(text: str, language: Language | None = None) -> Extracted:
    """C and C++ blocks joined; without any, the untagged ones; without fences, or in a known language, the raw text."""
    text = text.encode(errors="replace").decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if language:
        return Extracted(text, language)
    blocks, cut = _blocks(text)
    if not blocks:
        return Extracted(text, _by_content(text))
    tagged = [(tag, code) for tag, code in blocks if tag in _C_TAGS | _CXX_TAGS]
    chosen = tagged or [(tag, code) for tag, code in blocks if not tag]
    code = "\n".join(code for _, code in chosen)
    is_cxx = any(tag in _CXX_TAGS for tag, _ in tagged)
    by_tag: Language = "c++" if is_cxx else "c"
    return Extracted(code, by_tag if tagged else _by_content(code), len(chosen), cut)


def _blocks(text: str) -> tuple[list[tuple[str, str]], bool]:
    """(tag, code) of each fenced block, and whether the last one runs to the end of the text."""
    blocks: list[tuple[str, str]] = []
    opened, tag, lines = "", "", list[str]()
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if not opened and fence:
            opened, tag, lines = fence[1], fence[2].lower().strip(".,:"), []
        elif opened and fence and not fence[2] and fence[1].startswith(opened):
            blocks.append((tag, "\n".join(lines) + "\n"))
            opened = ""
        elif opened:
            lines.append(line)
    if opened:
        blocks.append((tag, "\n".join(lines)))
    return blocks, bool(opened)


def _by_content(code: str) -> Language:
    return "c++" if _CXX_SIGNS.search(code) else "c"
