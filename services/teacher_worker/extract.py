"""Functions of C and C++, found on the syntax tree."""

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Literal

import tree_sitter_c
import tree_sitter_cpp
from tree_sitter import Language as Grammar
from tree_sitter import Node, Parser, Query, QueryCursor

from services.teacher_worker.flatten import BLANKS, flattened

Language = Literal["c", "cpp"]

# Names that a parser gives to what a macro hid from it.
NO_NAMES = re.compile(
    r"if|else|for|while|do|switch|case|default|return|break|continue|goto|sizeof|typedef|struct|union|enum|static|extern|inline"
    r"|const|volatile|register|void|char|short|int|long|float|double|signed|unsigned|bool|try|catch|new|delete|class|namespace"
    r"|template|public|private|protected|using|throw|operator"
)
CPP_HEADER = re.compile(r"^\s*(?:class|namespace|template|using)\b|\b(?:public|private|protected)\s*:|\w::\w", re.MULTILINE)
C_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
DIRECTIVE_OR_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*|^[ \t]*#[^\n]*", re.DOTALL | re.MULTILINE)
INITIALIZERS = re.compile(r"\)\s*(noexcept)?\s*:(?!:).*$")
WORDS_ALONE = re.compile(rb"[\w \t]*")
LICENCE = re.compile(rb"SPDX-License-Identifier|\bcopyright\b|\(c\) \d{4}", re.IGNORECASE)
# Nodes that hold other items, and the ends of the names of nodes that are items.
CONTAINERS = frozenset(
    {"translation_unit", "namespace_definition", "linkage_specification", "declaration_list"}
    | {"preproc_if", "preproc_ifdef", "preproc_else", "preproc_elif"}
)
WHOLE = ("_definition", "declaration", "_specifier", "_specification", "preproc_if", "preproc_ifdef", "preproc_function_def")
BODY = re.compile(rb"\)[\s\w]*\{")
WRAPPERS = ("template_declaration", "friend_declaration")


@dataclass(frozen=True)
class Function:
    """One function with a body. `text` begins with its leading comment; `lines` are 1-based, inclusive, and cover `text`.

    `scope` are the enclosing namespaces and classes; `broken`: the parser lost its way in it, and its ends may be wrong.
    """

    name: str
    signature: str
    comment: str
    text: str
    lines: tuple[int, int]
    language: Language
    scope: tuple[str, ...] = ()
    broken: bool = False


def functions(text: str, path: str) -> list[Function]:
    """The functions of one file in its order, with what can be saved of a file that is broken."""
    language = language_of(text, path)
    source = text.encode()
    tree = _parsed(source, language)
    found = list(_outermost(_found(tree, source, language)))
    if not _is_sound(tree, source):
        flat = _outermost(_found(_parsed(_doubtful(tree, source), language), source, language))
        found = _best([*flat, *found], len(source))
    return [function for _, function in found]


def language_of(text: str, path: str) -> Language:
    """By suffix; a `.h` is C++ if it looks like it."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix == ".c" or (suffix == ".h" and not CPP_HEADER.search(C_COMMENT.sub("", text))):
        return "c"
    return "cpp"


Found = tuple[Node, Function]


@cache
def _machinery(language: Language) -> tuple[Parser, Query]:
    grammar = Grammar(tree_sitter_c.language() if language == "c" else tree_sitter_cpp.language())
    return Parser(grammar), Query(grammar, "(function_definition) @function")


def _parsed(source: bytes, language: Language) -> Node:
    return _machinery(language)[0].parse(source).root_node


def _found(tree: Node, source: bytes, language: Language) -> Iterator[Found]:
    nodes = QueryCursor(_machinery(language)[1]).captures(tree).get("function", [])
    for node in sorted(nodes, key=lambda node: node.start_byte):
        if function := _function(node, source, language):
            yield node, function


def _doubtful(tree: Node, source: bytes) -> bytes:
    """The source flattened, without what the parser read well."""
    left = bytearray(source)
    for node in _sound(tree, source):
        left[node.start_byte : node.end_byte] = source[node.start_byte : node.end_byte].translate(BLANKS)
    return flattened(bytes(left))


def _sound(tree: Node, source: bytes) -> Iterator[Node]:
    """The largest parts that were read well. What follows an error may have lost its beginning to it."""
    after_error = False
    for node in tree.children:
        if not after_error and node.type.endswith(WHOLE) and _is_sound(node, source):
            yield node
        elif node.type in CONTAINERS:
            yield from _sound(node, source)
        after_error = node.type == "ERROR" or _lacks_its_end(node)


def _is_sound(node: Node, source: bytes) -> bool:
    """Whether errors in it, if any, hide no function and no function's name or end."""
    if not node.has_error:
        return True
    if node.type in CONTAINERS:
        return all(_is_sound(part, source) for part in node.children)
    if node.type == "function_definition":
        return _has_sure_name(node) and _has_sure_end(node, source)
    return node.type.endswith(WHOLE) and not _lacks_its_end(node) and not BODY.search(source, node.start_byte, node.end_byte)


def _lacks_its_end(node: Node) -> bool:
    last = node.child(node.child_count - 1) if node.child_count else None
    return last is not None and last.is_missing


def _has_sure_name(function: Node) -> bool:
    """Errors may be in the parameters, and words before the name may be macros."""
    name = _declarator(function)
    head = name.parent if name else None
    while head is not None and head.type != "function_declarator":
        head = head.parent
    if name is None or head is None or _is_macro_call(_name(name), name):
        return False
    return not any(part.has_error for part in head.children if part != head.child_by_field_name("parameters"))


def _has_sure_end(function: Node, source: bytes) -> bool:
    """It ends at the first brace that stands under its beginning, and none opens there inside it."""
    body = function.child_by_field_name("body")
    margin = b"\n" + source[source.rfind(b"\n", 0, function.start_byte) + 1 : function.start_byte]
    return (
        body is not None
        and source.find(margin + b"}", body.start_byte, function.end_byte) == function.end_byte - len(margin) - 1
        and source.find(margin + b"{", body.start_byte, function.end_byte) < 0
    )


def _best(found: list[Found], size: int) -> list[Found]:
    """Of readings that overlap, a whole one before a broken one, then the one that comes first in `found`."""
    best: list[Found] = []
    taken = bytearray(size)
    for node, function in sorted(found, key=lambda one: one[1].broken):
        if taken.find(1, node.start_byte, node.end_byte) < 0:
            taken[node.start_byte : node.end_byte] = b"\1" * (node.end_byte - node.start_byte)
            best.append((node, function))
    return sorted(best, key=lambda one: one[0].start_byte)


def _outermost(found: Iterable[Found]) -> Iterator[Found]:
    """Without functions inside functions; but where the outer one is broken, it has swallowed its neighbours by mistake."""
    last: Found | None = None
    for node, function in found:
        if last and node.end_byte <= last[0].end_byte:
            if not last[1].broken:
                continue
        elif last:
            yield last
        last = node, function
    if last:
        yield last


def _function(node: Node, source: bytes, language: Language) -> Function | None:
    body = node.child_by_field_name("body")
    declarator = _declarator(node)
    if (
        body is None
        or body.type not in ("compound_statement", "try_statement")
        or all(child.type == "comment" for child in body.named_children)
        or not declarator
        or declarator.has_error
    ):
        return None
    name = _name(declarator)
    scope = tuple(_scope(node))
    if (
        NO_NAMES.fullmatch(name)
        or _is_macro_call(name, declarator)
        or (name.isupper() and not _is_sound(node, source))
        or b"\\\n" in source[node.start_byte : source.find(b"\n", body.start_byte) + 1]  # inside a macro
        or not (node.child_by_field_name("type") or _needs_no_type(name, scope))
    ):
        return None
    outer = node
    while outer.parent is not None and outer.parent.type in WRAPPERS:
        outer = outer.parent
    line = source.rfind(b"\n", 0, outer.start_byte) + 1
    begin = line if WORDS_ALONE.fullmatch(source, line, outer.start_byte) else outer.start_byte
    start = _comment_above(source, line)
    text = source[start : outer.end_byte].decode(errors="replace")
    return Function(
        name=name,
        signature=_signature(source[begin : body.start_byte]),
        comment=source[start:line].decode(errors="replace").strip(),
        text=textwrap.dedent(text) if text[:1].isspace() else text,
        lines=(outer.start_point.row + 1 - source.count(b"\n", start, line), outer.end_point.row + 1),
        language=language,
        scope=scope,
        broken=not _is_sound(node, source),
    )


def _declarator(node: Node) -> Node | None:
    """The name inside the nested declarators of `node`, or None if it declares no function."""
    inner = node.child_by_field_name("declarator")
    is_function = False
    while inner is not None:
        match inner.type:
            case "identifier" | "field_identifier" | "qualified_identifier" | "destructor_name" | "operator_name":
                return inner if is_function else None
            case "template_function":
                return inner.child_by_field_name("name")
            case "operator_cast":
                return inner
            case "function_declarator":
                is_function = True
        below = inner.child_by_field_name("declarator")
        if below is None and inner.type in ("parenthesized_declarator", "reference_declarator", "attributed_declarator"):
            below = inner.named_children[0] if inner.named_child_count else None
        inner = below
    return None


def _name(declarator: Node) -> str:
    name = _collapsed(declarator.text or b"")
    return name.partition("(")[0].strip() if declarator.type == "operator_cast" else name


def _needs_no_type(name: str, scope: tuple[str, ...]) -> bool:
    """Constructors, destructors and conversions; anything else without a type was a macro's call."""
    parts = name.split("::")
    return (
        any(part.startswith(("~", "operator")) for part in parts)
        or (len(parts) > 1 and re.sub(r"<.*", "", parts[-2]) == parts[-1])
        or (bool(scope) and scope[-1] == name)
    )


def _is_macro_call(name: str, declarator: Node) -> bool:
    """`START_TEST(opens) { … }`: a name in capitals, and bare names where parameters would have types."""
    list_node = declarator.parent.child_by_field_name("parameters") if declarator.parent else None
    parameters = list_node.named_children if list_node else []
    return name.isupper() and bool(parameters) and all(_is_bare(parameter) for parameter in parameters)


def _is_bare(parameter: Node) -> bool:
    if parameter.type == "identifier":
        return True
    kind = parameter.child_by_field_name("type")
    return (
        parameter.type == "parameter_declaration"
        and parameter.named_child_count == 1
        and kind is not None
        and kind.type == "type_identifier"
    )


def _scope(node: Node) -> Iterator[str]:
    """The names of the namespaces and classes around `node`, outermost first."""
    above = []
    parent = node.parent
    while parent is not None:
        if parent.type in ("namespace_definition", "class_specifier", "struct_specifier", "union_specifier"):
            name = parent.child_by_field_name("name")
            above.append(_collapsed(name.text or b"") if name else "")
        parent = parent.parent
    yield from (name for name in reversed(above) if name)


def _comment_above(source: bytes, line: int) -> int:
    """Where the comments begin that stand directly above `line`, without a blank line between; `line` if there are none."""
    start = line
    while start:
        first = source.rfind(b"\n", 0, start - 1) + 1
        above = source[first:start].strip()
        if above.endswith(b"*/"):
            opening = source.rfind(b"/*", 0, start)
            first = source.rfind(b"\n", 0, max(opening, 0)) + 1
            if source[first:opening].strip():
                break
        elif not above.startswith(b"//"):
            break
        if LICENCE.search(source, first, start):
            break
        start = first
    return start


def _signature(head: bytes) -> str:
    """In one line, without comments and directives; of a constructor without its `: member(value)` list."""
    words = " ".join(DIRECTIVE_OR_COMMENT.sub(" ", head.decode(errors="replace")).split())
    return INITIALIZERS.sub(r") \1", words).strip()


def _collapsed(text: bytes) -> str:
    return " ".join(text.decode(errors="replace").split())
