"""What stands in the code, found once on its syntax tree: names, comments, functions, calls, loops.

Nothing in here looks inside comments or strings. Bodies of macros have no tree; their tokens are taken instead.
"""

import functools
import re
from collections import Counter
from dataclasses import dataclass, field

import tree_sitter_c
import tree_sitter_cpp
from tree_sitter import Language as Grammar
from tree_sitter import Node, Parser, Query, QueryCursor

from services.evaluator.extract_code import Language

_QUERY = """
(identifier) @name (field_identifier) @name (type_identifier) @name (primitive_type) @primitive
(comment) @comment (function_definition) @function (call_expression) @call
(for_statement) @loop (while_statement) @loop (do_statement) @loop
"goto" @goto (storage_class_specifier) @storage (type_qualifier) @qualifier
(preproc_def) @macro (preproc_function_def) @macro (ERROR) @broken
"""
_QUERY_CXX = "(new_expression) @new (delete_expression) @delete (namespace_identifier) @name"
_WORD = re.compile(r"[A-Za-z_]\w*")
_LITERAL = re.compile(r'"(?:\\.|[^"\\])*"?|\'(?:\\.|[^\'\\])*\'?|/\*.*?\*/|//[^\n]*', re.DOTALL)
_DECLARING = {
    "declaration",
    "init_declarator",
    "pointer_declarator",
    "array_declarator",
    "parameter_declaration",
    "field_declaration",
    "type_definition",
    "enumerator",
    "struct_specifier",
    "union_specifier",
    "enum_specifier",
    "preproc_def",
    "preproc_function_def",
}
KEYWORDS = {"if", "for", "while", "switch", "return", "do", "else", "case", "sizeof", "void", "int", "char"}


@dataclass(frozen=True)
class Name:
    """One occurrence. `declares`: it stands where a name is introduced, not used."""

    text: str
    line: int
    declares: bool
    node: Node


@dataclass(frozen=True)
class Comment:
    text: str
    line: int


@dataclass(frozen=True)
class Function:
    """One definition. `arity` counts its parameters."""

    name: str
    arity: int
    node: Node
    line: int

    @property
    def key(self) -> tuple[str, int]:
        return self.name, self.arity


@dataclass(frozen=True)
class Macro:
    name: str
    body: str
    line: int

    @property
    def words(self) -> list[str]:
        return _WORD.findall(self.body)


@dataclass(frozen=True)
class Tree:
    """Everything that the parts ask for. `uses` counts how often a name stands anywhere, macro bodies included."""

    lines: list[bytes]
    nodes: dict[str, list[Node]]
    names: tuple[Name, ...]
    comments: tuple[Comment, ...]
    functions: tuple[Function, ...]
    macros: dict[str, Macro]
    uses: Counter[str] = field(default_factory=Counter)

    def found(self, capture: str) -> list[Node]:
        return self.nodes.get(capture, [])

    def at(self, node: Node) -> tuple[int, int]:
        """Line and column, 1-based, in characters."""
        start = node.start_point
        return start.row + 1, len(self.lines[start.row][: start.column].decode(errors="replace")) + 1


def parse(code: str, language: Language) -> Tree:
    grammar, query = _grammar(language)
    data = code.encode(errors="replace")
    root = Parser(grammar).parse(data).root_node
    nodes = QueryCursor(query).captures(root)
    for found in nodes.values():
        found.sort(key=lambda node: node.start_byte)
    macros = {macro.name: macro for macro in map(_macro, nodes.get("macro", [])) if macro.name}
    names = tuple(_name(node) for node in nodes.get("name", []))
    uses = Counter(name.text for name in names)
    for macro in macros.values():
        uses.update(macro.words)
    return Tree(
        lines=data.split(b"\n"),
        nodes=nodes,
        names=names,
        comments=tuple(Comment(text(node), line_of(node)) for node in nodes.get("comment", [])),
        functions=tuple(function for function in map(_function, nodes.get("function", [])) if function.name not in KEYWORDS),
        macros=macros,
        uses=uses,
    )


def text(node: Node | None) -> str:
    return (node.text or b"").decode(errors="replace") if node else ""


def line_of(node: Node) -> int:
    return node.start_point.row + 1


def callee(call: Node) -> tuple[str, int]:
    """The called name ("" for a call through a pointer) and the number of arguments."""
    called = call.child_by_field_name("function")
    while called is not None and called.type in ("parenthesized_expression", "qualified_identifier", "template_function"):
        called = called.child_by_field_name("name") or next(iter(called.named_children), None)
    arguments = call.child_by_field_name("arguments")
    count = sum(child.type != "comment" for child in arguments.named_children) if arguments else 0
    return (text(called) if called is not None and called.type == "identifier" else ""), count


@functools.cache
def _grammar(language: Language) -> tuple[Grammar, Query]:
    """Shared by threads; a parser could not be."""
    if language == "c":
        grammar = Grammar(tree_sitter_c.language())
        return grammar, Query(grammar, _QUERY)
    grammar = Grammar(tree_sitter_cpp.language())
    return grammar, Query(grammar, _QUERY + _QUERY_CXX)


def _name(node: Node) -> Name:
    parent = node.parent
    declares = parent is not None and node == _declared(parent)
    if parent is not None and parent.type == "function_declarator":
        outer = parent.parent
        while outer is not None and outer.type == "pointer_declarator":
            outer = outer.parent
        declares = outer is not None and outer.type != "function_definition"
    return Name(text(node), line_of(node), declares, node)


def _declared(parent: Node) -> Node | None:
    if parent.type not in _DECLARING:
        return None
    return parent.child_by_field_name("declarator") or parent.child_by_field_name("name")


def _function(node: Node) -> Function:
    declarator = node.child_by_field_name("declarator")
    while declarator is not None and declarator.type != "function_declarator":
        declarator = declarator.child_by_field_name("declarator") or next(
            (child for child in declarator.named_children if "declarator" in child.type), None
        )
    name = declarator.child_by_field_name("declarator") if declarator else None
    while name is not None and name.type in ("qualified_identifier", "parenthesized_declarator"):
        name = name.child_by_field_name("name") or next(iter(name.named_children), None)
    parameters = declarator.child_by_field_name("parameters") if declarator else None
    arity = sum(child.type != "comment" and text(child) != "void" for child in parameters.named_children) if parameters else 0
    return Function(text(name), arity, node, line_of(node))


def _macro(node: Node) -> Macro:
    body = _LITERAL.sub(" ", text(node.child_by_field_name("value")))
    return Macro(text(node.child_by_field_name("name")), body, line_of(node))
