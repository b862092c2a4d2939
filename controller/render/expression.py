# SPDX-License-Identifier: Apache-2.0
"""Expressions that fill a template's holes: a small language, parsed here and written out again as C.

The text of an expression never reaches the C file: it is parsed into a tree and the tree is printed, so nothing but
numbers, declared names and the operators below can come out. All arithmetic is on unsigned 64-bit numbers and has a
defined result for every input: `a - b` is 0 where b is larger, division and remainder take a literal that is not 0,
shifts a literal below 64; products wrap, and the template bounds the result.

    expression  choice                                  names     those the template declares for the hole
    choice      compare ["?" expression ":" choice]     numbers   decimal, up to 2^63 - 1
    compare     shift [("<" | "<=" | ">" | ">=" | "==" | "!=") shift]
    shift       sum (("<<" | ">>") number)*
    sum         term (("+" | "-") term)*
    term        factor ("*" factor | ("/" | "%") number)*
    factor      number | name | "(" expression ")" | ("min" | "max") "(" expression "," expression ")"
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from controller.errors import TemplateError

MAX_LENGTH = 400
MAX_DEPTH = 24
MAX_NUMBER = 2**63 - 1
_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_][A-Za-z0-9_]*)|(<<|>>|<=|>=|==|!=|[-+*/%<>?:(),]))", re.ASCII)
_COMPARISONS = frozenset({"<", "<=", ">", ">=", "==", "!="})
_FUNCTIONS = frozenset({"min", "max"})


@dataclass(frozen=True, slots=True)
class Number:
    """A literal."""

    value: int


@dataclass(frozen=True, slots=True)
class Name:
    """A declared name."""

    name: str


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator or function with its arguments; `?` has three."""

    operator: str
    arguments: tuple[Node, ...]


Node = Number | Name | Operation


def parse(text: str, names: Collection[str], where: str) -> Node:
    """The tree of `text`. `where` says which hole of which template it fills, for the TemplateError of a bad one."""
    return _Parser(text, names, where).parse()


def to_c(node: Node, names: Mapping[str, str]) -> str:
    """C for the tree, each name replaced by the C expression that `names` has for it."""
    if isinstance(node, Number):
        return f"{node.value}ULL"
    if isinstance(node, Name):
        return names[node.name]
    parts = [_inner(argument, names) for argument in node.arguments]
    if node.operator == "?":
        return f"{parts[0]} ? {parts[1]} : {parts[2]}"
    if node.operator in _FUNCTIONS or node.operator == "-":
        function = "minus" if node.operator == "-" else node.operator
        return f"{function}({', '.join(to_c(argument, names) for argument in node.arguments)})"
    return f"{parts[0]} {node.operator} {parts[1]}"


def _inner(node: Node, names: Mapping[str, str]) -> str:
    """C for an operand: an operator inside another one is parenthesised, a call is not."""
    text = to_c(node, names)
    bare = not isinstance(node, Operation) or node.operator in _FUNCTIONS or node.operator == "-"
    return text if bare else f"({text})"


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str, names: Collection[str], where: str) -> None:
        self.text, self.names, self.where = text, names, where
        self.at = 0
        self.depth = 0
        if len(text) > MAX_LENGTH:
            raise self.error(f"is longer than {MAX_LENGTH} characters", remedy="shorten it")
        self.tokens = self._tokenise()

    def error(self, what: str, *, remedy: str = "") -> TemplateError:
        shown = self.text if len(self.text) <= 80 else self.text[:77] + "..."
        default = f"use numbers, + - * / % << >> comparisons, ?:, min, max and the names {', '.join(self.names)}"
        return TemplateError(f"{self.where}: expression {shown!r} {what}", remedy=remedy or default)

    def _tokenise(self) -> list[str]:
        tokens, end = [], len(self.text.rstrip())
        while self.at < end:
            match = _TOKEN.match(self.text, self.at)
            if match is None:
                raise self.error(f"has something unexpected at character {self.at + 1}")
            tokens.append(match[0].strip())
            self.at = match.end()
        self.at = 0
        return tokens

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        """The next token if it is one of `wanted`, else the empty string."""
        token = self.peek()
        if token and token in wanted:
            self.at += 1
            return token
        return ""

    def expect(self, wanted: str) -> None:
        if not self.take(wanted):
            raise self.error(f"lacks {wanted!r} before {self.peek() or 'its end'!r}")

    def parse(self) -> Node:
        node = self.choice()
        if self.peek():
            raise self.error(f"has {self.peek()!r} where it should end")
        return node

    def choice(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"is nested deeper than {MAX_DEPTH}", remedy="simplify it")
        node = self.compare()
        if self.take("?"):
            yes = self.choice()
            self.expect(":")
            node = Operation("?", (node, yes, self.choice()))
        self.depth -= 1
        return node

    def compare(self) -> Node:
        node = self.shift()
        operator = self.take(*_COMPARISONS)
        return Operation(operator, (node, self.shift())) if operator else node

    def shift(self) -> Node:
        node = self.sum()
        while operator := self.take("<<", ">>"):
            node = Operation(operator, (node, self.literal(operator, 0, 63)))
        return node

    def sum(self) -> Node:
        node = self.term()
        while operator := self.take("+", "-"):
            node = Operation(operator, (node, self.term()))
        return node

    def term(self) -> Node:
        node = self.factor()
        while operator := self.take("*", "/", "%"):
            right = self.factor() if operator == "*" else self.literal(operator, 1, MAX_NUMBER)
            node = Operation(operator, (node, right))
        return node

    def literal(self, operator: str, low: int, high: int) -> Number:
        node = self.factor()
        if not isinstance(node, Number) or not low <= node.value <= high:
            raise self.error(f"needs a number from {low} to {high} after {operator!r}")
        return node

    def factor(self) -> Node:
        token = self.peek()
        self.at += 1
        if token.isdigit():
            if len(token) > 19 or int(token) > MAX_NUMBER:
                raise self.error(f"has a number above {MAX_NUMBER}")
            return Number(int(token))
        if token == "(":  # noqa: S105  (a parenthesis)
            node = self.choice()
            self.expect(")")
            return node
        if token in _FUNCTIONS and self.peek() == "(":
            self.expect("(")
            left = self.choice()
            self.expect(",")
            node = Operation(token, (left, self.choice()))
            self.expect(")")
            return node
        if token in self.names:
            return Name(token)
        if token and (token[0].isalpha() or token[0] == "_"):
            raise self.error(f"uses the name {token!r}", remedy=f"the names of this hole are {', '.join(self.names)}")
        raise self.error(f"has {token or 'its end'!r} where a number, a name or '(' is needed")
