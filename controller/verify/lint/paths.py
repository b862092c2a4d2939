# SPDX-License-Identifier: Apache-2.0
"""What an operation does with its task on each path: inserts it, keeps it for later, or loses it.

A small abstract interpreter over the syntax tree: statements here, expressions in `effects`, what is known in `states`.
Functions of the text are followed with the truth of what they return. Where the text goes beyond
that (backward gotos, too many paths), it gives up and says nothing: these paths are there to find certain mistakes, and
the micro-VM finds the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from controller.verify.lint.effects import INSERTS, MAX_STATES, Expressions, Frame, GivenUp
from controller.verify.lint.states import Outcome, State
from controller.verify.lint.unit import Function, Unit, text_of

if TYPE_CHECKING:
    from tree_sitter import Node

__all__ = ["INSERTS", "Outcome", "State", "outcomes"]

MAX_DEPTH = 8


def outcomes(unit: Unit, function: Function) -> list[Outcome]:
    """How each path of an operation ends, for its own task. Empty when the analysis gives up."""
    if function.name not in unit.followed:
        try:
            found = _Follower(unit).follow(function, {function.task}, 0) if function.task is not None else []
        except (GivenUp, RecursionError):
            found = []
        unit.followed[function.name] = found
    return unit.followed[function.name]


class _Follower(Expressions):
    def __init__(self, unit: Unit) -> None:
        super().__init__(unit)
        self._known: dict[tuple[str, frozenset[str]], list[Outcome]] = {}

    def follow(self, function: Function, aliases: set[str], depth: int) -> list[Outcome]:
        key = (function.name, frozenset(aliases))
        if key not in self._known:
            if depth > MAX_DEPTH:
                raise GivenUp
            frame = Frame(function, set(aliases), depth)
            falls = self._block(function.body.named_children, {State()}, frame)
            end = function.body.end_point[0] + 1
            frame.ends.extend(Outcome(state, None, end) for state in falls)
            if frame.jumps:
                raise GivenUp  # a goto backwards, or to a label this walk does not see
            self._known[key] = frame.ends
        return self._known[key]

    # ---- statements: states in, states that fall through out ----

    def _block(self, nodes: Iterable[Node], states: set[State], frame: Frame) -> set[State]:
        for node in nodes:
            states = self._statement(node, states, frame)
            self.spend(states)
            if len(states) > MAX_STATES:
                raise GivenUp
        return states

    def _statement(self, node: Node, states: set[State], frame: Frame) -> set[State]:
        if node.type == "comment":
            return states
        if node.type in ("break_statement", "continue_statement"):
            leaving = frame.breaks if node.type == "break_statement" else frame.continues
            if not leaving:
                raise GivenUp
            leaving[-1] |= states
            return set()
        handler = getattr(self, f"_do_{node.type}", None)
        if handler is not None:
            result: set[State] = handler(node, states, frame)
            return result
        if node.type in ("compound_statement", "else_clause", "ERROR"):
            return self._block(node.named_children, states, frame)
        if node.type.startswith("preproc_"):
            return self._preprocessor(node, states, frame)
        return self._evaluate(node, states, frame)

    def _do_expression_statement(self, node: Node, states: set[State], frame: Frame) -> set[State]:
        return self._block_expressions(node.named_children, states, frame)

    def _do_declaration(self, node: Node, states: set[State], frame: Frame) -> set[State]:
        for declarator in node.named_children:
            value = declarator.child_by_field_name("value")
            if declarator.type == "init_declarator" and value is not None:
                states = self._evaluate(value, states, frame)
                target = declarator.child_by_field_name("declarator")
                name = text_of(target).lstrip("* ").removeprefix("const ") if target is not None else ""
                states = self._assigned(name, value, states, frame)
        return states

    def _do_if_statement(self, node: Node, states: set[State], frame: Frame) -> set[State]:
        condition = node.child_by_field_name("condition")
        then = node.child_by_field_name("consequence")
        otherwise = node.child_by_field_name("alternative")
        if condition is None or then is None:
            raise GivenUp
        yes, no = self._branch(condition, states, frame)
        after = self._statement(then, yes, frame)
        return after | (self._statement(otherwise, no, frame) if otherwise is not None else no)

    def _do_return_statement(self, node: Node, states: set[State], frame: Frame) -> set[State]:
        line = node.start_point[0] + 1
        values = [child for child in node.named_children if child.type != "comment"]
        if not values:
            frame.ends.extend(Outcome(state, None, line) for state in states)
            return set()
        yes, no = self._branch(values[0], states, frame)
        frame.ends.extend(Outcome(state, None if state in no else True, line) for state in yes)
        frame.ends.extend(Outcome(state, False, line) for state in no - yes)
        return set()

    def _do_while_statement(self, node: Node, states: set[State], frame: Frame) -> set[State]:
        condition = node.child_by_field_name("condition")
        body = node.child_by_field_name("body")
        if condition is None or body is None:
            raise GivenUp
        yes, no = self._branch(condition, states, frame)
        return no | self._loop(body, yes, frame)

    def _do_for_statement(self, node: Node, states: set[State], frame: Frame) -> set[State]:
        first = node.child_by_field_name("initializer")
        condition = node.child_by_field_name("condition")
        body = node.child_by_field_name("body")
        if body is None:
            raise GivenUp
        if first is not None:
            states = self._statement(first, states, frame)
        # The counter changes in the loop: no fact about it may be taken from the first test.
        skipped = set() if condition is None else states
        return skipped | self._loop(body, states, frame)

    def _do_do_statement(self, node: Node, states: set[State], frame: Frame) -> set[State]:
        body = node.child_by_field_name("body")
        if body is None:
            raise GivenUp
        return self._loop(body, states, frame)

    def _loop(self, body: Node, states: set[State], frame: Frame) -> set[State]:
        """One round; a second one changes nothing that a rule asks for."""
        frame.breaks.append(set())
        frame.continues.append(set())
        after = self._statement(body, states, frame)
        return after | frame.breaks.pop() | frame.continues.pop()

    def _do_switch_statement(self, node: Node, states: set[State], frame: Frame) -> set[State]:
        condition = node.child_by_field_name("condition")
        body = node.child_by_field_name("body")
        if condition is None or body is None:
            raise GivenUp
        states = self._evaluate(condition, states, frame)
        frame.breaks.append(set())
        falls: set[State] = set()
        default = False
        for case in body.named_children:
            if case.type == "case_statement":
                default |= text_of(case).lstrip().startswith("default")
                value = case.child_by_field_name("value")
                inner = [n for n in case.named_children if value is None or n.id != value.id]
                falls = self._block(inner, states | falls, frame)
        return falls | frame.breaks.pop() | (set() if default else states)

    def _do_goto_statement(self, node: Node, states: set[State], frame: Frame) -> set[State]:
        label = node.child_by_field_name("label")
        if label is None:
            raise GivenUp
        frame.jumps.setdefault(text_of(label), set()).update(states)
        return set()

    def _do_labeled_statement(self, node: Node, states: set[State], frame: Frame) -> set[State]:
        label = node.child_by_field_name("label")
        arrived = frame.jumps.pop(text_of(label), set()) if label is not None else set()
        inner = [n for n in node.named_children if label is None or n.id != label.id]
        return self._block(inner, states | arrived, frame)

    def _preprocessor(self, node: Node, states: set[State], frame: Frame) -> set[State]:
        """#if in a function: either side may be there."""
        if node.type not in ("preproc_if", "preproc_ifdef", "preproc_else", "preproc_elif"):
            return states
        skip = [node.child_by_field_name(name) for name in ("condition", "name", "alternative")]
        ids = {n.id for n in skip if n is not None}
        inside = self._block([n for n in node.named_children if n.id not in ids], states, frame)
        other = node.child_by_field_name("alternative")
        if node.type == "preproc_else":
            return inside
        return inside | (self._preprocessor(other, states, frame) if other is not None else states)
