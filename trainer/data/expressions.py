"""What may a filter say? Comparisons of columns, joined by and, or, not: `year < 2020 and kind in ("a", "b")`.

Python's grammar, cut down to that and never evaluated as Python; a column whose name is no identifier stands in
backticks. What an expression is of some rows is filters.py's.
"""

from __future__ import annotations

import ast
import re

QUOTED = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|`([^`]+)`""")
JOINED = (ast.And, ast.Or, ast.Not)
COMPARED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Is, ast.IsNot)
RULES = "write comparisons of columns such as `year < 2020`, joined by and, or, not; in (...) and is None go too"


def parsed(text: str) -> ast.expr:
    """The expression; the id of each ast.Name in it is a column's name.

    Raises ValueError, saying which part cannot be.
    """
    quoted: list[str] = []

    def named(found: re.Match[str]) -> str:
        if found[1]:
            return found[1]
        quoted.append(found[2])
        return f" _quoted_{len(quoted) - 1} "

    try:
        tree = ast.parse(QUOTED.sub(named, text).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise ValueError(f"it is no expression: {getattr(e, 'msg', None) or e}") from None
    columns = {f"_quoted_{number}": name for number, name in enumerate(quoted)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = columns.get(node.id, node.id)
    _condition(tree)
    return tree


def names(tree: ast.expr) -> list[str]:
    """The columns of an expression, each once."""
    return list(dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)))


def written(node: ast.AST) -> str:
    """A part of an expression for a message."""
    return ast.unparse(node)


def _condition(node: ast.expr) -> None:
    """Raises ValueError for what is neither true nor false of a row."""
    if isinstance(node, ast.BoolOp) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)):
        for below in node.values if isinstance(node, ast.BoolOp) else [node.operand]:
            _condition(below)
    elif isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
            _compared(node, left, op, right)
    elif not isinstance(node, ast.Name):
        raise ValueError(f"{written(node)!r} is no comparison")


def _compared(node: ast.expr, left: ast.expr, op: ast.cmpop, right: ast.expr) -> None:
    """One comparison. Raises ValueError when it is none of a column."""
    if isinstance(op, ast.In | ast.NotIn):
        good = isinstance(left, ast.Name) and isinstance(right, ast.Tuple | ast.List) and bool(right.elts)
        good = good and all(is_constant(below) for below in right.elts)  # type: ignore[attr-defined]
    elif isinstance(op, ast.Is | ast.IsNot):
        good = isinstance(left, ast.Name) and isinstance(right, ast.Constant) and right.value is None
    else:
        good = any(isinstance(side, ast.Name) for side in (left, right))
        good = good and all(isinstance(side, ast.Name) or is_constant(side) for side in (left, right))
    if not good:
        raise ValueError(f"{written(node)!r} does not compare a column with a column or a constant")


def is_constant(node: ast.expr) -> bool:
    """A text, a number, or true or false."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return isinstance(node.operand, ast.Constant) and type(node.operand.value) in (int, float)
    return isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool)


def constant(node: ast.expr) -> str | int | float | bool:
    """The value of what `is_constant`."""
    value: str | int | float | bool = ast.literal_eval(node)
    return value
