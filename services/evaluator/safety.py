"""Safety, after MISRA's spirit: what automotive code must not do, and what it should, found on the syntax tree."""

import re
from collections.abc import Iterator

from tree_sitter import Node

from services.evaluator.misra import Violation
from services.evaluator.rubric import Rubric
from services.evaluator.sheet import Sheet
from services.evaluator.tree import Macro, Tree, callee, text

_HEAP = {"malloc", "calloc", "realloc", "free"}
_JUMPS = {"setjmp", "longjmp", "_setjmp", "sigsetjmp", "siglongjmp"}
_ENDS = {"abort", "exit", "_exit", "_Exit", "quick_exit"}
_FIXED_WIDTH = re.compile(r"u?int(?:8|16|32|64)_t$")
_LOOPS = {"for_statement", "while_statement", "do_statement", "for_range_loop"}


def score(tree: Tree, rubric: Rubric) -> Sheet:
    sheet = Sheet("safety")
    sheet.add("base", "before what is found in the code", rubric.safety_base)
    _forbidden(sheet, tree, rubric)
    _recursion(sheet, tree, rubric)
    _endless_loops(sheet, tree, rubric)
    _good_practice(sheet, tree, rubric)
    return sheet


def add_misra(sheet: Sheet, violations: list[Violation], broke_off: str, lines: float, rubric: Rubric) -> dict[str, float]:
    """The violations as evidence, and how many there are to a hundred lines of code."""
    for item in violations:
        sheet.add(f"misra-{item.rule}", f"MISRA C:2012 rule {item.rule}", rubric.misra_each, item.line, item.column)
    if broke_off:
        sheet.add("misra", broke_off)
    return {"misra_per_100_lines": round(100 * len(violations) / max(1.0, lines), 2)}


def _forbidden(sheet: Sheet, tree: Tree, rubric: Rubric) -> None:
    gotos = [(*tree.at(node), "") for node in tree.found("goto")]
    gotos += [(macro.line, 1, f" in the macro `{macro.name}`") for macro in tree.macros.values() if "goto" in macro.words]
    for count, (line, column, where) in enumerate(gotos):
        sheet.add("goto", f"goto{where}", 0.0 if count else rubric.safety_goto, line, column)
    for name, line, column, where in _calls_of(tree, _HEAP):
        sheet.add("heap", f"{name}{where}: memory from the heap", rubric.safety_each_heap_use, line, column)
    for node in (*tree.found("new"), *tree.found("delete")):
        sheet.add("heap", f"{node.type.split('_')[0]}: memory from the heap", rubric.safety_each_heap_use, *tree.at(node))
    for rule, names, points, message in (
        ("setjmp", _JUMPS, rubric.safety_setjmp, "a jump out of functions"),
        ("abort", _ENDS, rubric.safety_abort, "ends the program"),
    ):
        for count, (name, line, column, where) in enumerate(_calls_of(tree, names)):
            sheet.add(rule, f"{name}{where}: {message}", 0.0 if count else points, line, column)


def _calls_of(tree: Tree, names: set[str]) -> Iterator[tuple[str, int, int, str]]:
    """Every use of a library function, called or not, in macros too; but not of a variable that the code itself so names."""
    variables = (name for name in tree.names if name.declares)
    own = {name.text for name in variables if name.node.parent and name.node.parent.type != "function_declarator"}
    wanted = names - own
    for name in tree.names:
        plain = name.text.removeprefix("__builtin_")
        if plain in wanted and name.node.type == "identifier" and not name.declares:
            yield plain, *tree.at(name.node), ""
    for macro in tree.macros.values():
        for word in macro.words:
            if word.removeprefix("__builtin_") in wanted:
                yield word, macro.line, 1, f" in the macro `{macro.name}`"


def _recursion(sheet: Sheet, tree: Tree, rubric: Rubric) -> None:
    calls = _call_graph(tree)
    circles = [function for function in tree.functions if function.key in _reached(calls, function.key)]
    for count, function in enumerate(circles):
        how = "calls itself" if function.key in calls[function.key] else "calls itself by way of others"
        sheet.add("recursion", f"`{function.name}` {how}", 0.0 if count else rubric.safety_recursion, function.line)


def _call_graph(tree: Tree) -> dict[tuple[str, int], set[tuple[str, int]]]:
    """(function, arity) -> those it calls. Macros are nodes of arity -1, so that a call through one is seen."""
    arities = dict[str, set[int]]()
    for function in tree.functions:
        arities.setdefault(function.name, set()).add(function.arity)

    def targets(name: str, arguments: int | None) -> set[tuple[str, int]]:
        if name in tree.macros:
            return {(name, -1)}
        known = arities.get(name, set())
        # C has one function of a name, whatever a wrong call passes; overloads are told apart by their number of parameters.
        return {(name, arity) for arity in known if len(known) == 1 or arguments in (None, arity)}

    graph = dict[tuple[str, int], set[tuple[str, int]]]()
    for function in tree.functions:
        edges = graph.setdefault(function.key, set())
        for call in tree.found("call"):
            if function.node.start_byte <= call.start_byte < function.node.end_byte:
                edges |= targets(*callee(call))
    for macro in tree.macros.values():
        graph[macro.name, -1] = set().union(*(targets(word, None) for word in macro.words if word != macro.name))
    return graph


def _reached(graph: dict[tuple[str, int], set[tuple[str, int]]], start: tuple[str, int]) -> set[tuple[str, int]]:
    seen = set[tuple[str, int]]()
    open_ends = list(graph.get(start, ()))
    while open_ends:
        here = open_ends.pop()
        if here not in seen:
            seen.add(here)
            open_ends += graph.get(here, ())
    return seen


def _endless_loops(sheet: Sheet, tree: Tree, rubric: Rubric) -> None:
    count = 0
    for loop in tree.found("loop"):
        if _runs_forever(loop, tree.macros) and not _left(loop):
            message = "an endless loop without break or return"
            sheet.add("endless-loop", message, 0.0 if count else rubric.safety_endless_loop, *tree.at(loop))
            count += 1


def _runs_forever(loop: Node, macros: dict[str, Macro]) -> bool:
    condition = loop.child_by_field_name("condition")
    if condition is None:
        return loop.type == "for_statement"
    return bool(constant(condition, macros))


def constant(node: Node | None, macros: dict[str, Macro], depth: int = 8) -> int | None:
    """The value of a condition that is the same whatever the program does, else None."""
    if node is None or depth == 0:
        return None
    if node.type in ("number_literal", "char_literal", "true", "false", "nullptr", "null"):
        return _literal(text(node))
    if node.type == "identifier":
        body = macros[text(node)].body.strip().strip("()") if text(node) in macros else ""
        return _literal(body) if body else None
    if node.type in ("parenthesized_expression", "condition_clause", "cast_expression"):
        inner = node.child_by_field_name("value") or next(iter(node.named_children), None)
        return constant(inner, macros, depth - 1)
    if node.type == "unary_expression":
        value = constant(node.child_by_field_name("argument"), macros, depth - 1)
        sign = text(node.child_by_field_name("operator"))
        return None if value is None else {"!": int(not value), "-": -value, "+": value, "~": ~value}.get(sign)
    if node.type == "binary_expression":
        left = constant(node.child_by_field_name("left"), macros, depth - 1)
        right = constant(node.child_by_field_name("right"), macros, depth - 1)
        return _binary(text(node.child_by_field_name("operator")), left, right)
    return None


def _literal(written: str) -> int | None:
    words = {"true": 1, "TRUE": 1, "false": 0, "FALSE": 0, "NULL": 0, "nullptr": 0}
    if written in words:
        return words[written]
    match = re.fullmatch(r"(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)[uUlLzZ]*", written)
    if not match:
        return None
    digits = match[1]
    return int(digits, 8) if re.fullmatch(r"0[0-7]+", digits) else int(digits, 0) if not re.fullmatch(r"0\d+", digits) else None


def _binary(operator: str, left: int | None, right: int | None) -> int | None:
    if operator == "||" and (left or right):
        return 1
    if operator == "&&" and (left == 0 or right == 0):
        return 0
    if left is None or right is None:
        return None
    table = {
        "==": left == right,
        "!=": left != right,
        "<": left < right,
        ">": left > right,
        "<=": left <= right,
        ">=": left >= right,
        "&&": left and right,
        "||": left or right,
        "+": left + right,
        "-": left - right,
        "*": left * right,
        "|": left | right,
        "&": left & right,
    }
    return int(table[operator]) if operator in table else None


def _left(loop: Node) -> bool:
    """Whether anything in the loop's body leaves this loop."""
    body = loop.child_by_field_name("body")
    open_ends = [(body, True)] if body else []
    while open_ends:
        node, ours = open_ends.pop()
        if node.type in ("return_statement", "goto_statement", "throw_statement", "co_return_statement"):
            return True
        if node.type == "break_statement" and ours:
            return True
        if node.type == "lambda_expression":
            continue
        inside = ours and node.type not in _LOOPS and node.type != "switch_statement"
        open_ends += [(child, inside) for child in node.named_children]
    return False


def _good_practice(sheet: Sheet, tree: Tree, rubric: Rubric) -> None:
    types = dict[str, Node]()
    for node in (*tree.found("primitive"), *(name.node for name in tree.names if name.node.type == "type_identifier")):
        if _FIXED_WIDTH.match(text(node)) and _counts(node, tree):
            types.setdefault(text(node), node)
    left = rubric.safety_fixed_width_most
    for name, node in types.items():
        given = min(left, rubric.safety_each_fixed_width_type)
        left = round(left - given, 6)
        sheet.add("fixed-width-type", name, given, *tree.at(node))
    left = rubric.safety_static_or_const_most
    for node in sorted((*tree.found("storage"), *tree.found("qualifier")), key=lambda node: node.start_byte):
        if text(node) in ("static", "const") and left > 0:
            given = min(left, rubric.safety_each_static_or_const)
            left = round(left - given, 6)
            sheet.add("static-or-const", text(node), given, *tree.at(node))
    volatile = next((node for node in tree.found("qualifier") if text(node) == "volatile"), None)
    if volatile:
        sheet.add("volatile", "volatile", rubric.safety_volatile, *tree.at(volatile))


def _counts(node: Node, tree: Tree) -> bool:
    """A type that is only given another name, which nothing uses, is no use of it."""
    parent = node.parent
    if parent is None or parent.type != "type_definition":
        return True
    return tree.uses[text(parent.child_by_field_name("declarator"))] > 1
