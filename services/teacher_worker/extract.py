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

Language = Literal["c", "cpp"]

# Names that a parser gives to what a macro hid from it.
NO_NAMES = re.compile(
    r"if|else|for|while|do|switch|case|default|return|break|continue|goto|sizeof|typedef|struct|union|enum|static|extern|inline"
    r"|const|volatile|register|void|char|short|int|long|float|double|signed|unsigned|bool|try|catch|new|delete|class|namespace"
    r"|template|public|private|protected|using|throw|operator"
)
CPP_HEADER = re.compile(r"^\s*(?:class|namespace|template|using)\b|\b(?:public|private|protected)\s*:|\w::\w", re.MULTILINE)
C_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
LICENCE = re.compile(rb"SPDX-License-Identifier|\bcopyright\b|\(c\) \d{4}", re.IGNORECASE)
WRAPPERS = ("template_declaration", "friend_declaration")


@dataclass(frozen=True)
class Function:
    """One function with a body. `text` begins with its leading comment; `lines` are 1-based, inclusive, and cover `text`.

    `scope` are the enclosing namespaces and classes; `broken`: the parser met something in it that it could not read.
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
    parser, query = _machinery(language)
    found = QueryCursor(query).captures(parser.parse(source).root_node)
    comments = {node.end_point.row: node for node in found.get("comment", ()) if _stands_alone(source, node)}
    nodes = sorted(found.get("function", ()), key=lambda node: node.start_byte)
    return list(_outermost((node, function) for node in nodes if (function := _function(node, source, comments, language))))


def language_of(text: str, path: str) -> Language:
    """By suffix; a `.h` is C++ if it looks like it."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix == ".c" or (suffix == ".h" and not CPP_HEADER.search(C_COMMENT.sub("", text))):
        return "c"
    return "cpp"


@cache
def _machinery(language: Language) -> tuple[Parser, Query]:
    grammar = Grammar(tree_sitter_c.language() if language == "c" else tree_sitter_cpp.language())
    return Parser(grammar), Query(grammar, "(function_definition) @function (comment) @comment")


def _outermost(found: Iterable[tuple[Node, Function]]) -> Iterator[Function]:
    """Without functions inside functions; but where the outer one is broken, it has swallowed its neighbours by mistake."""
    last: tuple[Node, Function] | None = None
    for node, function in found:
        if last and node.end_byte <= last[0].end_byte:
            if not last[1].broken:
                continue
        elif last:
            yield last[1]
        last = node, function
    if last:
        yield last[1]


def _function(node: Node, source: bytes, comments: dict[int, Node], language: Language) -> Function | None:
    body = node.child_by_field_name("body")
    declarator = _declarator(node)
    if body is None or body.type not in ("compound_statement", "try_statement") or not body.named_child_count or not declarator:
        return None
    name = _name(declarator)
    scope = tuple(_scope(node))
    if (
        NO_NAMES.fullmatch(name)
        or _is_macro_call(name, declarator)
        or not (node.child_by_field_name("type") or _needs_no_type(name, scope))
    ):
        return None
    outer = node
    while outer.parent is not None and outer.parent.type in WRAPPERS:
        outer = outer.parent
    first = _first_comment(outer, comments)
    start = source.rfind(b"\n", 0, (first or outer).start_byte) + 1
    head = C_COMMENT.sub(" ", source[outer.start_byte : body.start_byte].decode(errors="replace"))
    return Function(
        name=name,
        signature=_before_initializers(" ".join(head.split())),
        comment=source[first.start_byte : outer.start_byte].decode(errors="replace").strip() if first else "",
        text=textwrap.dedent(source[start : outer.end_byte].decode(errors="replace")),
        lines=((first or outer).start_point.row + 1, outer.end_point.row + 1),
        language=language,
        scope=scope,
        broken=node.has_error,
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
    if declarator.type == "operator_cast":
        target = declarator.child_by_field_name("type")
        return f"operator {_collapsed((target.text if target else None) or b'')}"
    return _collapsed(declarator.text or b"")


def _needs_no_type(name: str, scope: tuple[str, ...]) -> bool:
    """Constructors, destructors and conversions; anything else without a type was a macro's call."""
    parts = name.split("::")
    return (
        parts[-1].startswith(("~", "operator"))
        or (len(parts) > 1 and re.sub(r"<.*", "", parts[-2]) == parts[-1])
        or (bool(scope) and scope[-1] == name)
    )


def _is_macro_call(name: str, declarator: Node) -> bool:
    """`START_TEST(opens) { … }`: a name in capitals, and bare names where parameters would have types."""
    list_node = declarator.parent.child_by_field_name("parameters") if declarator.parent else None
    parameters = list_node.named_children if list_node else []
    return name.isupper() and bool(parameters) and all(_is_bare(parameter) for parameter in parameters)


def _is_bare(parameter: Node) -> bool:
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


def _stands_alone(source: bytes, node: Node) -> bool:
    start = source.rfind(b"\n", 0, node.start_byte) + 1
    return not source[start : node.start_byte].strip()


def _first_comment(node: Node, comments: dict[int, Node]) -> Node | None:
    """The first of the comments that stand directly above `node`, without a blank line between."""
    first, above = None, comments.get(node.start_point.row - 1)
    while above is not None and not LICENCE.search(above.text or b""):
        first, above = above, comments.get(above.start_point.row - 1)
    return first


def _before_initializers(head: str) -> str:
    """A constructor's head without its `: member(value)` list."""
    return re.sub(r"\)\s*(noexcept)?\s*:(?!:).*$", r") \1", head).strip()


def _collapsed(text: bytes) -> str:
    return " ".join(text.decode(errors="replace").split())
