# SPDX-License-Identifier: Apache-2.0
"""Expressions that fill a template's holes: a small part of C, parsed here and written out again as C.

The text of an expression never reaches the C file: it is parsed into a tree and the tree is printed, so nothing but
numbers, declared names and the operators below can come out. All arithmetic is on whole numbers from 0 to 2^63 - 1.
Two operators are not C's: `a - b` is 0 where b is larger, and dividing by something that may be 0 divides by 1 then.
Whether a result can leave the range is the business of controller/render/interval.py, not of the grammar.

    expression  either ["?" expression ":" expression]
    either      both ("||" both)*
    both        compare ("&&" compare)*
    compare     shift [("<" | "<=" | ">" | ">=" | "==" | "!=") shift]
    shift       sum (("<<" | ">>") sum)*
    sum         term (("+" | "-") term)*
    term        factor (("*" | "/" | "%") factor)*
    factor      number | name | "!" factor | "(" expression ")" | function "(" expression ("," expression)* ")"
    function    min, max: two arguments; clamp: value, low, high
    name        what the hole declares; class->weight is class_weight
    number      decimal, up to 2^63 - 1
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from controller.errors import TemplateError

MAX_LENGTH = 400
MAX_DEPTH = 24
MAX_OPERATIONS = 60
"""Operators and calls: what the BPF verifier looks at grows with the branches they become."""
MAX_NUMBER = 2**63 - 1
_TOKEN = re.compile(
    r"\s*(?:(\d+)|([A-Za-z_][A-Za-z0-9_]*(?:->[A-Za-z_][A-Za-z0-9_]*)*)|(<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%<>?:(),!]))",
    re.ASCII,
)
COMPARISONS = frozenset({"<", "<=", ">", ">=", "==", "!="})
LOGIC = frozenset({"&&", "||", "!"})
FUNCTIONS = {"min": 2, "max": 2, "clamp": 3}
ALIASES = {
    "class->weight": "class_weight",
    "nr_queued": "queued",
    "burst_avg_ns": "burst",
    "wait_ns": "wait",
}
"""Other spellings, each good where the hole declares the name it stands for."""


@dataclass(frozen=True, slots=True)
class Number:
    """A literal."""

    value: int
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Name:
    """A declared name."""

    name: str
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator or function with its arguments; `?` and `clamp` have three. `at` is where its sign stands."""

    operator: str
    arguments: tuple[Node, ...]
    at: int = field(default=0, compare=False)


Node = Number | Name | Operation


def parse(text: str, names: Collection[str], where: str) -> Node:
    """The tree of `text`. `where` says which hole of which template it fills, for the TemplateError of a bad one."""
    return _Parser(text, names, where).parse()


def names_in(node: Node) -> frozenset[str]:
    """The declared names that the tree uses."""
    if isinstance(node, Name):
        return frozenset({node.name})
    below = node.arguments if isinstance(node, Operation) else ()
    return frozenset().union(*(names_in(argument) for argument in below))


def complaint(text: str, where: str, at: int, what: str, remedy: str) -> TemplateError:
    """The error of every refusal: the expression, where in it (from character 1), and what would do."""
    shown = text if len(text) <= 80 else text[:77] + "..."
    return TemplateError(f"{where}: expression {shown!r}, character {at + 1}: {what}", remedy=remedy)


def to_c(node: Node, names: Mapping[str, str]) -> str:
    """C for the tree, each name replaced by the C expression that `names` has for it."""
    if isinstance(node, Number):
        return f"{node.value}ULL"
    if isinstance(node, Name):
        return names[node.name]
    operator, arguments = node.operator, node.arguments
    if operator == "-" or operator in FUNCTIONS:
        function = "minus" if operator == "-" else operator
        return f"{function}({', '.join(to_c(argument, names) for argument in arguments)})"
    if operator == "?":
        chosen, yes, no = arguments
        return f"{_operand(chosen, names)} ? {_number(yes, names)} : {_number(no, names)}"
    if operator == "!":
        return f"!{_operand(arguments[0], names)}"
    side = _truth if operator in LOGIC else _operand if operator in COMPARISONS else _number
    return f"{side(arguments[0], names)} {operator} {side(arguments[1], names)}"


def _is_call(node: Node) -> bool:
    return isinstance(node, Operation) and (node.operator in FUNCTIONS or node.operator == "-")


def _is_truth(node: Node) -> bool:
    return isinstance(node, Operation) and (node.operator in COMPARISONS or node.operator in LOGIC)


def _operand(node: Node, names: Mapping[str, str]) -> str:
    """C for an operand: an operator inside another one is parenthesised, a call is not."""
    text = to_c(node, names)
    return f"({text})" if isinstance(node, Operation) and not _is_call(node) else text


def _number(node: Node, names: Mapping[str, str]) -> str:
    """An operand of arithmetic: C's comparisons are of type int, in which a shift could overflow."""
    return f"(u64){_operand(node, names)}" if _is_truth(node) else _operand(node, names)


def _truth(node: Node, names: Mapping[str, str]) -> str:
    """An operand of && and ||: clang warns of constants there."""
    return _operand(node, names) if _is_truth(node) else f"({_operand(node, names)} != 0)"


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str, names: Collection[str], where: str) -> None:
        self.text, self.names, self.where = text, names, where
        self.at = 0
        self.depth = 0
        self.operations = 0
        if len(text) > MAX_LENGTH:
            raise self.error(f"it is longer than {MAX_LENGTH} characters", remedy="shorten it")
        self.tokens = self._tokenise()

    def error(self, what: str, *, remedy: str = "", at: int | None = None) -> TemplateError:
        default = (
            f"use whole numbers, + - * / % << >>, comparisons, && || !, ?:, min, max, clamp, and the names "
            f"{', '.join(self.names) or '(none)'}"
        )
        return complaint(self.text, self.where, self.place() if at is None else at, what, remedy or default)

    def _tokenise(self) -> list[tuple[str, int]]:
        tokens: list[tuple[str, int]] = []
        at, end = 0, len(self.text.rstrip())
        while at < end:
            match = _TOKEN.match(self.text, at)
            if match is None:
                at += len(self.text[at:]) - len(self.text[at:].lstrip())
                raise self.error(f"{self.text[at : at + 1]!r} is no part of an expression", at=at)
            token = match[1] or match[2] or match[3]
            tokens.append((token, match.end() - len(token)))
            at = match.end()
        return tokens

    def place(self) -> int:
        """Where in the text the next token stands."""
        if not hasattr(self, "tokens"):
            return 0
        return self.tokens[self.at][1] if self.at < len(self.tokens) else len(self.text.rstrip())

    def peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        """The next token if it is one of `wanted`, else the empty string."""
        token = self.peek()
        if token and token in wanted:
            self.at += 1
            return token
        return ""

    def expect(self, wanted: str) -> None:
        if not self.take(wanted):
            raise self.error(f"{wanted!r} is missing before {self.peek() or 'its end'!r}")

    def operation(self, operator: str, at: int, *arguments: Node) -> Operation:
        self.operations += 1
        if self.operations > MAX_OPERATIONS:
            raise self.error(f"it has more than {MAX_OPERATIONS} operators and calls", remedy="simplify it", at=at)
        return Operation(operator, arguments, at)

    def parse(self) -> Node:
        node = self.choice()
        if self.peek():
            raise self.error(f"{self.peek()!r} stands where it should end")
        return node

    def choice(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"it is nested deeper than {MAX_DEPTH}", remedy="simplify it")
        node, at = self.either(), self.place()
        if self.take("?"):
            yes = self.choice()
            self.expect(":")
            node = self.operation("?", at, node, yes, self.choice())
        self.depth -= 1
        return node

    def either(self) -> Node:
        node, at = self.both(), self.place()
        while self.take("||"):
            node = self.operation("||", at, node, self.both())
            at = self.place()
        return node

    def both(self) -> Node:
        node, at = self.compare(), self.place()
        while self.take("&&"):
            node = self.operation("&&", at, node, self.compare())
            at = self.place()
        return node

    def compare(self) -> Node:
        node, at = self.shift(), self.place()
        operator = self.take(*COMPARISONS)
        return self.operation(operator, at, node, self.shift()) if operator else node

    def shift(self) -> Node:
        node, at = self.sum(), self.place()
        while operator := self.take("<<", ">>"):
            node = self.operation(operator, at, node, self.sum())
            at = self.place()
        return node

    def sum(self) -> Node:
        node, at = self.term(), self.place()
        while operator := self.take("+", "-"):
            node = self.operation(operator, at, node, self.term())
            at = self.place()
        return node

    def term(self) -> Node:
        node, at = self.factor(), self.place()
        while operator := self.take("*", "/", "%"):
            node = self.operation(operator, at, node, self.factor())
            at = self.place()
        return node

    def factor(self) -> Node:
        token, at = self.peek(), self.place()
        if token.isdigit():
            if len(token) > 19 or int(token) > MAX_NUMBER:
                raise self.error(f"the number is above {MAX_NUMBER}")
            self.at += 1
            return Number(int(token), at)
        if self.take("("):
            node = self.choice()
            self.expect(")")
            return node
        if self.take("!"):
            return self.negation(at)
        following = self.tokens[self.at + 1][0] if self.at + 1 < len(self.tokens) else ""
        if token in FUNCTIONS and following == "(":
            return self.call(token, at)
        name = token if token in self.names else ALIASES.get(token, "")
        if name and name in self.names:
            self.at += 1
            return Name(name, at)
        if token and (token[0].isalpha() or token[0] == "_"):
            known = ", ".join(self.names) or "none"
            raise self.error(f"it uses the name {token!r}", remedy=f"the names of this hole are {known}")
        raise self.error(f"{token or 'its end'!r} stands where a number, a name or '(' is needed")

    def negation(self, at: int) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"it is nested deeper than {MAX_DEPTH}", remedy="simplify it", at=at)
        node = self.operation("!", at, self.factor())
        self.depth -= 1
        return node

    def call(self, function: str, at: int) -> Node:
        self.at += 1
        self.expect("(")
        arguments = [self.choice()]
        for _ in range(FUNCTIONS[function] - 1):
            self.expect(",")
            arguments.append(self.choice())
        self.expect(")")
        return self.operation(function, at, *arguments)
