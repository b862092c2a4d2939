# SPDX-License-Identifier: Apache-2.0
"""Proves that an expression stays within whole numbers of 63 bits whatever the values of its names.

Each name has a declared range; the range of every operation follows from those of its arguments. What could exceed
2^63 - 1, which both u64 and s64 hold, is refused where it stands; a divisor that may be 0 becomes max(divisor, 1) and
is noted. The proof takes no account of how names depend on each other or on a condition, so it refuses some
expressions that would be safe, and never accepts one that is not: the generated C makes the declared ranges true by
clamping each value as it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.errors import TemplateError
from controller.render.expression import (
    COMPARISONS,
    LOGIC,
    MAX_NUMBER,
    Name,
    Node,
    Number,
    Operation,
    complaint,
    parse,
)


@dataclass(frozen=True, slots=True)
class Interval:
    """Whole numbers from `low` to `high`, both included; 0 <= low <= high < 2^63."""

    low: int
    high: int

    def __contains__(self, other: Interval) -> bool:
        return self.low <= other.low and other.high <= self.high

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}..{self.high}"


@dataclass(frozen=True, slots=True)
class Proven:
    """An expression that is safe: the tree to write out, the range of its result, and what was guarded."""

    tree: Node
    result: Interval
    notes: tuple[str, ...] = ()


def prove(text: str, ranges: Mapping[str, Interval], where: str) -> Proven:
    """Parse `text` over the names of `ranges` and prove it safe. TemplateError says where it is not, and what would do.

    `where` names the hole and its template in errors.
    """
    prover = _Prover(text, ranges, where)
    tree, result = prover.visit(parse(text, tuple(ranges), where))
    return Proven(tree, result, tuple(prover.notes))


class _Prover:
    def __init__(self, text: str, ranges: Mapping[str, Interval], where: str) -> None:
        self.text, self.ranges, self.where = text, ranges, where
        self.notes: list[str] = []

    def visit(self, node: Node) -> tuple[Node, Interval]:
        """The node, guarded where it has to be, and the range of its value."""
        if isinstance(node, Number):
            return node, Interval(node.value, node.value)
        if isinstance(node, Name):
            return node, self.ranges[node.name]
        visited = [self.visit(argument) for argument in node.arguments]
        trees, seen = tuple(tree for tree, _ in visited), [interval for _, interval in visited]
        if node.operator in ("/", "%"):
            trees, seen = self.guarded(node, trees, seen)
        return Operation(node.operator, trees, node.at), self.result(node, seen)

    def guarded(
        self, node: Operation, trees: tuple[Node, ...], seen: list[Interval]
    ) -> tuple[tuple[Node, ...], list[Interval]]:
        """A division by what may be 0 becomes one by at least 1."""
        divisor = seen[1]
        if divisor.high == 0:
            raise self.refuse(node, f"the right side of {node.operator!r} is always 0", "divide by something else")
        if divisor.low > 0:
            return trees, seen
        self.notes.append(
            f"character {node.at + 1}: the right side of {node.operator!r} may be 0, and counts as 1 then"
        )
        at_least_one = Operation("max", (trees[1], Number(1, node.at)), node.at)
        return (trees[0], at_least_one), [seen[0], Interval(1, divisor.high)]

    def result(self, node: Operation, seen: list[Interval]) -> Interval:
        operator = node.operator
        if operator in COMPARISONS or operator in LOGIC:
            return Interval(0, 1)
        if operator == "?":
            return Interval(min(seen[1].low, seen[2].low), max(seen[1].high, seen[2].high))
        if operator == "clamp":
            low, high = max(seen[0].low, seen[1].low), max(seen[0].high, seen[1].high)
            return Interval(min(low, seen[2].low), min(high, seen[2].high))
        return self.arithmetic(node, seen[0], seen[1])

    def arithmetic(self, node: Operation, a: Interval, b: Interval) -> Interval:
        match node.operator:
            case "min":
                return Interval(min(a.low, b.low), min(a.high, b.high))
            case "max":
                return Interval(max(a.low, b.low), max(a.high, b.high))
            case "-":
                return Interval(max(0, a.low - b.high), max(0, a.high - b.low))
            case "+":
                return self.fits(node, "sum", a, b, a.low + b.low, a.high + b.high)
            case "*":
                return self.fits(node, "product", a, b, a.low * b.low, a.high * b.high)
            case "/":
                return Interval(a.low // b.high, a.high // b.low)
            case "%":
                return Interval(0, min(a.high, b.high - 1)) if a.high >= b.low else a
            case _:
                return self.shifted(node, a, b)

    def shifted(self, node: Operation, a: Interval, b: Interval) -> Interval:
        if b.high > 63:
            raise self.refuse(
                node, f"shifts by {b}, and 63 is the most", "bound the right side, as in min(…, 63), or use * or /"
            )
        if node.operator == ">>":
            return Interval(a.low >> b.high, a.high >> b.low)
        return self.fits(node, "shifted value", a, b, a.low << b.low, a.high << b.high)

    def fits(self, node: Operation, what: str, a: Interval, b: Interval, low: int, high: int) -> Interval:
        if high > MAX_NUMBER:
            raise self.refuse(
                node,
                f"the {what} of {a} and {b} may reach {_rough(high)}, above 2^63 - 1",
                "divide before you multiply, or bound one side: min(…, NUMBER)",
            )
        return Interval(low, high)

    def refuse(self, node: Operation, what: str, remedy: str) -> TemplateError:
        return complaint(self.text, self.where, node.at, what, remedy)


def _rough(number: int) -> str:
    """A large number as a power of 10."""
    return f"about 10^{len(str(number)) - 1}"
