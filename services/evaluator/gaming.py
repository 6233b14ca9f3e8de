"""Answers that would earn points without doing anything. Each trick is named; with one of them the overall score is capped."""

import re
from collections.abc import Iterator

from tree_sitter import Node

from services.evaluator.protocol import split
from services.evaluator.safety import constant
from services.evaluator.source import Source
from services.evaluator.tree import KEYWORDS, Function, Macro, Tree, text

_KEYWORDS = KEYWORDS | {"goto", "static", "const", "volatile", "break", "continue", "struct", "unsigned", "signed", "default"}
_ACTS = {"call_expression", "update_expression", "new_expression", "delete_expression", "throw_statement", "return_statement"}
_READS = {"call_expression", "field_expression", "subscript_expression", "pointer_expression", "update_expression"}
_OPERATES = {"binary_expression", "unary_expression", "conditional_expression", "assignment_expression"}
_LISTED = 4
_DEEPEST = 50


def tricks(tree: Tree, source: Source, prompt: str, live: str, words: tuple[str, ...]) -> Iterator[tuple[str, str, int | None]]:
    """(rule, what was done, line) of each trick. `live` is the code without what conditionals leave out."""
    yield from _silenced(source)
    yield from _redefined(tree)
    yield from _hollow(tree)
    yield from _echoed(prompt, live)
    yield from _listed(tree, words)


def _silenced(source: Source) -> Iterator[tuple[str, str, int | None]]:
    for finding in source.findings:
        if finding.rule in ("warnings-off", "line-marker"):
            yield finding.rule, finding.message, finding.line


def _redefined(tree: Tree) -> Iterator[tuple[str, str, int | None]]:
    for macro in tree.macros.values():
        if macro.name in _KEYWORDS:
            yield "keyword-redefined", f"the keyword `{macro.name}` is redefined by a macro", macro.line


def _hollow(tree: Tree) -> Iterator[tuple[str, str, int | None]]:
    if not tree.functions:
        yield "no-function", "declarations only: no function is defined", None
        return
    declared = [(name.node.start_byte, name.text) for name in tree.names if name.declares]
    enumerators = {name.text for name in tree.names if name.node.parent and name.node.parent.type == "enumerator"}
    constants = enumerators | set(tree.macros)
    hollow = [(one, why) for one in tree.functions if (why := _why_hollow(one, tree, declared, constants))]
    if 2 * len(hollow) > len(tree.functions):
        for function, why in hollow:
            yield "hollow-body", f"`{function.name}` {why}", function.line


def _why_hollow(function: Function, tree: Tree, declared: list[tuple[int, str]], constants: set[str]) -> str:
    """Why the body does nothing, or ""."""
    node = function.node
    body = node.child_by_field_name("body")
    if body is None:
        return ""
    statements = [child for child in body.named_children if child.type != "comment"]
    if not statements:
        return "has an empty body"
    start, end = node.start_byte, node.end_byte
    own = {name for at, name in declared if start <= at < end}
    if any(_does_something(statement, own, constants) for statement in _reachable(statements, tree.macros)):
        return ""
    return "only returns a constant" if statements[-1].type == "return_statement" else "does nothing with what it is given"


def _reachable(statements: list[Node], macros: dict[str, Macro], depth: int = 0) -> Iterator[Node]:
    """Statements, and those in blocks, that are not behind a return or a condition that is always false."""
    for statement in statements:
        if depth > _DEEPEST:
            yield statement
        elif statement.type == "compound_statement":
            yield from _reachable(statement.named_children, macros, depth + 1)
        elif statement.type in ("if_statement", "while_statement", "for_statement", "do_statement"):
            yield from _let_through(statement, macros, depth)
        else:
            yield statement
        if statement.type in ("return_statement", "goto_statement"):
            return


def _let_through(statement: Node, macros: dict[str, Macro], depth: int) -> Iterator[Node]:
    """The statement itself where its condition depends on something, else what the constant condition lets through."""
    value = constant(statement.child_by_field_name("condition"), macros)
    if value is None:
        yield statement
        return
    if statement.type == "if_statement":
        branch = statement.child_by_field_name("consequence" if value else "alternative")
        inner = branch.named_children if branch is not None and branch.type == "else_clause" else [branch]
    else:
        inner = [statement.child_by_field_name("body")] if value or statement.type == "do_statement" else []
    yield from _reachable([child for child in inner if child is not None], macros, depth + 1)


def _does_something(statement: Node, own: set[str], constants: set[str]) -> bool:
    """Whether a statement of the body calls, changes or works out anything. `own`: parameters and local names."""
    if statement.type == "declaration":
        values = [child.child_by_field_name("value") for child in statement.named_children if child.type == "init_declarator"]
        return any(value is not None and _works_out(value, own | constants) for value in values)
    if statement.type == "return_statement":
        return any(_works_out(child, own | constants) for child in statement.named_children)
    return any(_is_effect(node, own, constants) for node in _below(statement))


def _is_effect(node: Node, own: set[str], constants: set[str]) -> bool:
    if node.type in _ACTS:
        return True
    if node.type != "assignment_expression":
        return False
    left, right = text(node.child_by_field_name("left")), node.child_by_field_name("right")
    if left == text(right):
        return False
    kept = left not in own or text(node.child_by_field_name("operator")) != "="
    return kept or (right is not None and _works_out(right, own | constants))


def _works_out(value: Node, bare: set[str]) -> bool:
    """Whether an expression depends on anything but literals and `bare` names that stand alone; the state of a module does."""
    for node in _below(value):
        if node.type in _READS:
            return True
        if node.type == "identifier" and text(node) not in bare and not text(node).isupper():
            return True
        if node.type in _OPERATES and any(leaf.type == "identifier" for leaf in _below(node)):
            return True
    return False


def _below(node: Node) -> Iterator[Node]:
    open_ends = [node]
    while open_ends:
        here = open_ends.pop()
        yield here
        open_ends += here.named_children


def _echoed(prompt: str, code: str) -> Iterator[tuple[str, str, int | None]]:
    written = "".join(code.split())
    if len(written) > 40 and written in "".join(prompt.split()):
        yield "echo", "the answer only repeats code of the prompt", None


def _listed(tree: Tree, words: tuple[str, ...]) -> Iterator[tuple[str, str, int | None]]:
    """The domain's words put one after another in comments, as no sentence would."""
    for line, texts in _comment_blocks(tree):
        block = "\n".join(texts)
        if len(set(words).intersection(split(block))) < _LISTED:
            continue
        for written in (block, *texts, *block.split("\n")):
            found = [word for word in dict.fromkeys(split(written)) if word in words]
            if len(found) >= _LISTED and 2 * len(found) > len(re.findall(r"[A-Za-z]{2,}", written)):
                yield "word-list", f"a comment lists words of the domain: {', '.join(found)}", line
                break


def _comment_blocks(tree: Tree) -> Iterator[tuple[int, list[str]]]:
    """Comments that follow one another line by line, with the line of the first."""
    first, last, texts = 0, -1, list[str]()
    for comment in tree.comments:
        if comment.line > last + 1 and texts:
            yield first, texts
            texts = []
        first = comment.line if not texts else first
        last = comment.line + comment.text.count("\n")
        texts.append(comment.text)
    if texts:
        yield first, texts
