"""Conditions of a sidecar, over a run's options: `depth * width <= 400`, `optimizer == 'sgd' and lambda > 0`."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regx.errors import UserError, did_you_mean

_OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


@dataclass(frozen=True)
class Condition:
    """An expression over options. Python's comparisons, `and`, `or`, `not`, `in`, + - * / %, and nothing else."""

    text: str

    def names(self) -> set[str]:
        """The options that it asks for.

        Raises:
            UserError: it cannot be read, or holds something else.
        """
        tree = self._tree()
        for node in ast.walk(tree):
            self._known(node)
        return {node.id.rstrip("_") for node in ast.walk(tree) if isinstance(node, ast.Name)}

    def check(self, known: Mapping[str, Any]) -> None:
        """Raises `UserError` for what cannot be read, and for a name that is no option."""
        for name in sorted(self.names() - set(known)):
            raise UserError(f"{self.text!r}: {name!r} is no option{did_you_mean(name, known)}")

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it holds for these options; an order between things that have none does not.

        Raises:
            UserError: it cannot be computed.
        """
        try:
            return bool(self._value(self._tree().body, values))
        except TypeError:
            return False
        except ArithmeticError as error:
            raise UserError(f"{self.text!r}: {error}") from None

    def _tree(self) -> ast.Expression:
        try:
            # `lambda` is a word of Python's own.
            return ast.parse(re.sub(r"\blambda\b", "lambda_", self.text.strip()), mode="eval")
        except SyntaxError:
            raise UserError(f"{self.text!r} is no condition; write one such as depth * width <= 400") from None

    def _known(self, node: ast.AST) -> None:
        shapes = (ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Name, ast.Constant, ast.List)
        helpers = (ast.Tuple, ast.Load, ast.And, ast.Or)
        if not isinstance(node, (*shapes, *helpers, *_OPERATORS)):
            what = type(node).__name__.lower()
            raise UserError(f"{self.text!r}: {what} is not for conditions; use comparisons, and, or, not, + - * / %")

    def _value(self, node: ast.AST, values: Mapping[str, Any]) -> Any:
        self._known(node)
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                name = node.id.rstrip("_")
                return {"none": None, "true": True, "false": False}.get(name) if name not in values else values[name]
            case ast.List() | ast.Tuple():
                return [self._value(item, values) for item in node.elts]
            case ast.BoolOp():
                parts = (self._value(item, values) for item in node.values)
                return all(parts) if isinstance(node.op, ast.And) else any(parts)
            case ast.UnaryOp():
                return _OPERATORS[type(node.op)](self._value(node.operand, values))
            case ast.BinOp():
                return _OPERATORS[type(node.op)](self._value(node.left, values), self._value(node.right, values))
            case ast.Compare():
                items = [self._value(item, values) for item in (node.left, *node.comparators)]
                return all(_OPERATORS[type(op)](a, b) for op, a, b in zip(node.ops, items, items[1:], strict=False))
        raise AssertionError(node)  # `_known` lets nothing else through
