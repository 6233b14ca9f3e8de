"""C and C++ as a parser reads it best: without what only the preprocessor knows. Every byte keeps its place.

Of each conditional the first branch stays, `#if 0` goes, and so do directives, comments, and macros that stand where
the grammar has no room for them. What is taken out becomes blanks, so that places found here hold in the source too.
"""

import re
from itertools import chain

BLANKS = bytes(byte if byte == 0x0A else 0x20 for byte in range(256))

COMMENT_OR_STRING = re.compile(rb"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL)
DIRECTIVE = re.compile(rb"^[ \t]*#[ \t]*(\w*)[ \t]*((?:[^\\\n]|\\.|\\\n)*)", re.MULTILINE)

CAPITALS = rb"\b[A-Z][A-Z0-9_]{2,}\b"
PARENTHESES = rb"\((?:[^(){};]++|\((?:[^(){};]++|\([^(){};]*+\))*+\))*+\)"
UNDERLINED = rb"__(?<!\w__)(?!(?:[us]|be|le|u?int)\d|w?sum|kernel_|extension__|builtin_)"  # not __u32 and its like

# `__attribute__((packed))`, `__must_hold(lock)`, `__init` between words
ATTRIBUTE = re.compile(
    UNDERLINED + rb"(?:\w+\s*" + PARENTHESES + rb"(?=\s*[A-Za-z_{=])|(?<=[\w*)>][ \t]__)\w+(?=[ \t]+[*A-Za-z_]))"
)
# `class EXPORT Gate {`
OF_CLASS = re.compile(rb"\b(?:class|struct|union)\s+(" + CAPITALS + rb"(?:\([^(){};]*\))?)(?=\s+\w+\s*(?:[:{]|final\b))")
# `FUNC(void, CODE) run(P2VAR(int, AUTOMATIC) result)`: a type
TYPE = re.compile(CAPITALS + rb"\([^(){};]*\)(?=[ \t*]+[A-Za-z_]\w*\s*[(,)=;\[])")
# `EXPORT_SYMBOL(f)` and `BEGIN_NAMESPACE` on a line of their own
LINE = re.compile(
    rb"^[ \t]*" + CAPITALS + rb"(?:[ \t]*" + PARENTHESES + rb"[ \t]*$(?!\s*[{:])|[ \t]*$(?!\s*\w+\s*\())", re.MULTILINE
)
# `int open() const NOEXCEPT {`
AFTER = re.compile(rb"\)\s*(?:const\s+)?(" + CAPITALS + rb")(?=\s*(?:[{;:]|->|override\b|final\b|noexcept\b))")
# The words before a function's name, two or more, of which one must stay: its type.
WORD = rb"[A-Za-z_]\w*+(?:::[A-Za-z_]\w*+){0,9}+(?:<[^<>;{}()]*>)?"
WORDS = re.compile(rb"\b(?:" + WORD + rb"[\s*&]++){2,9}(?=[~A-Za-z_][\w:~]*(?:<[^<>;{}()]*>[\w:~]*)?\s*\()")
# `EXPORT Gate::Gate() {`, `EXPORT ~Gate() {`, `EXPORT Gate(int n) : n_(n) {`: there is no type
NO_TYPE_NEEDED = re.compile(
    CAPITALS
    + rb"(?=\s+(?:(?:\w+::){0,9}(\w+)(?:<[^<>;{}()]*>)?::~?\1\s*\(|~\w+\s*\(|\w+\s*"
    + PARENTHESES
    + rb"\s*(?:noexcept\s*)?:\s*\w))"
)
NO_TYPES = frozenset(b"static extern inline const volatile constexpr virtual explicit friend typename template register".split())


def flattened(source: bytes) -> bytes:
    text = COMMENT_OR_STRING.sub(lambda found: found[0] if found[0][:1] in b"\"'" else _blank(found), source)
    text = _first_branches(text)
    text = ATTRIBUTE.sub(_blank, text)
    text = OF_CLASS.sub(_blank_one, text)
    text = TYPE.sub(lambda found: b"int" + _blank(found)[3:], text)
    text = WORDS.sub(_with_one_type, text)
    text = NO_TYPE_NEEDED.sub(_blank, text)
    text = LINE.sub(_blank, text)
    return AFTER.sub(_blank_one, text)


def _blank(found: re.Match[bytes]) -> bytes:
    return found[0].translate(BLANKS)


def _blank_one(found: re.Match[bytes]) -> bytes:
    start, end = found.start(1) - found.start(), found.end(1) - found.start()
    return found[0][:start] + found[1].translate(BLANKS) + found[0][end:]


def _first_branches(text: bytes) -> bytes:
    """Without directives, and without the branches after the first. `#if 0` leaves its place to `#else`."""
    parts: list[bytes] = []
    place = 0
    open_ifs: list[tuple[bool, bool]] = []  # whether this branch stays, and whether one of this `#if` has stayed
    hidden = 0  # of them, those whose branch goes
    for directive in chain(DIRECTIVE.finditer(text), [None]):
        part = text[place : directive.start() if directive else len(text)]
        parts.append(part.translate(BLANKS) if hidden else part)
        if directive is None:
            break
        parts.append(_blank(directive))
        place = directive.end()
        word = directive[1]
        taken = False
        if word.startswith(b"el") or word == b"endif":
            stays, taken = open_ifs.pop() if open_ifs else (True, True)
            hidden -= not stays
        if word.startswith((b"if", b"el")):
            stays = not taken and directive[2].strip() != b"0"
            open_ifs.append((stays, taken or stays))
            hidden += not stays
    return b"".join(parts)


def _with_one_type(found: re.Match[bytes]) -> bytes:
    words = list(re.finditer(WORD, found[0]))
    macros = [word for word in words if (word[0].isupper() and len(word[0]) > 2) or re.match(UNDERLINED, word[0])]
    if all(word in macros or word[0] in NO_TYPES for word in words):
        macros = macros[1:]
    head = bytearray(found[0])
    for word in macros:
        head[word.start() : word.end()] = _blank(word)
    return bytes(head)
