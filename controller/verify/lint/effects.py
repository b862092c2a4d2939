# SPDX-License-Identifier: Apache-2.0
"""What an expression does to the states of a path: which are left when it is true, which when it is false.

Calls are what matters: an insert of the operation's own task, something that may take charge of it, a function of the
text that is followed in turn, or something harmless.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from controller.verify.lint.states import WORD, Outcome, State, fact, forget, forget_exactly, inserted, learn
from controller.verify.lint.unit import Call, Function, Unit, as_call, spell, text_of

if TYPE_CHECKING:
    from tree_sitter import Node

MAX_STATES = 400
MAX_WORK = 400_000
"""Steps times what is known at each: about 1 s; a scheduler takes some thousand."""
INSERTS = frozenset(
    (
        "scx_bpf_dsq_insert", "scx_bpf_dsq_insert_vtime", "scx_bpf_dispatch", "scx_bpf_dispatch_vtime",
        "__scx_bpf_dsq_insert_vtime", "scx_bpf_dsq_insert___v2",
    )
)  # fmt: skip
_HARMLESS = re.compile(
    r"^(?:scx_bpf_(?:task_|select_cpu|pick_|kick_|test_and_clear|dsq_nr|now|cpu_|get_|put_|nr_|cpuperf|dump|"
    r"create_dsq|destroy_dsq|dsq_move_to_local|consume|reenqueue)|bpf_(?:task_(?:storage|from|acquire|release|under)|"
    r"cpumask|probe_read|printk|get_|ktime|rcu|map_lookup|core_|cgroup|timer|snprintf|strncmp|spin_|tail|iter_|"
    r"current|trace|loop$|for_each_map_elem$)|__sync|__builtin|__atomic|BPF_CORE|READ_ONCE|WRITE_ONCE|"
    r"(?:time|vtime)_(?:before|after)|min|max|clamp|likely|unlikely|sizeof|ARRAY_SIZE|barrier|dbg|ENUM)"
)
_ENDS = re.compile(r"^scx_bpf_(?:error|exit)")


class GivenUp(Exception):
    """The text is beyond this analysis."""


@dataclass
class Frame:
    """One function being followed."""

    function: Function
    aliases: set[str]
    depth: int
    ends: list[Outcome] = field(default_factory=list)
    jumps: dict[str, set[State]] = field(default_factory=dict)
    breaks: list[set[State]] = field(default_factory=list)
    continues: list[set[State]] = field(default_factory=list)


class Expressions:
    """The half of the follower that evaluates; `follow` is the other half."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._work = 0

    def spend(self, states: set[State]) -> None:
        """Count the work of one step from these states; gives up when it is more than any scheduler takes."""
        self._work += sum(4 + len(state.facts) for state in states)
        if self._work > MAX_WORK:
            raise GivenUp

    def follow(self, function: Function, aliases: set[str], depth: int) -> list[Outcome]:
        """How each path of the function ends."""
        raise NotImplementedError

    def _block_expressions(self, nodes: Iterable[Node], states: set[State], frame: Frame) -> set[State]:
        for node in nodes:
            states = self._evaluate(node, states, frame)
        return states

    def _branch(self, node: Node, states: set[State], frame: Frame) -> tuple[set[State], set[State]]:
        """The states in which `node` is true, and those in which it is false."""
        node = _bare(node)
        operator = node.child_by_field_name("operator")
        sign = text_of(operator) if operator is not None else ""
        left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
        if node.type == "binary_expression" and sign in ("&&", "||") and left is not None and right is not None:
            yes, no = self._branch(left, states, frame)
            if sign == "&&":
                also, not_also = self._branch(right, yes, frame)
                return also, no | not_also
            also, not_also = self._branch(right, no, frame)
            return yes | also, not_also
        argument = node.child_by_field_name("argument")
        if node.type == "unary_expression" and sign == "!" and argument is not None:
            yes, no = self._branch(argument, states, frame)
            return no, yes
        if node.type == "call_expression":
            call = as_call(node)
            if call is not None and call.name in ("likely", "unlikely", "__builtin_expect") and call.arguments:
                return self._branch(call.arguments[0], states, frame)
        zero = self._compared_with_zero(sign, left, right)
        if zero is not None and left is not None:
            yes, no = self._branch(left, states, frame)
            return (no, yes) if sign == "==" else (yes, no)
        states = self._evaluate(node, states, frame)
        if node.type == "assignment_expression" and left is not None:
            node = left
        return self._split(node, states, frame)

    def _compared_with_zero(self, sign: str, left: Node | None, right: Node | None) -> bool | None:
        if sign in ("==", "!=") and left is not None and right is not None and spell(right) in ("0", "NULL", "false"):
            return True
        return None

    def _split(self, node: Node, states: set[State], frame: Frame) -> tuple[set[State], set[State]]:
        self.spend(states)
        text = spell(node)
        number = {"true": 1, "false": 0, "NULL": 0}.get(text, self._unit.value(text))
        if number is not None:
            return (states, set()) if number else (set(), states)
        yes: set[State] = set()
        no: set[State] = set()
        repeatable = "(" not in text and "++" not in text and "--" not in text
        for state in states:
            known = fact(state, text)
            if known is not False:
                yes.add(learn(state, text, True) if repeatable else state)
            if known is not True:
                null = replace(state, excused=state.excused or text in frame.function.pointers)
                no.add(learn(null, text, False) if repeatable else null)
        return yes, no

    def _evaluate(self, node: Node, states: set[State], frame: Frame) -> set[State]:
        """The effect of an expression."""
        operator = node.child_by_field_name("operator")
        if node.type == "binary_expression" and operator is not None and text_of(operator) in ("&&", "||"):
            yes, no = self._branch(node, states, frame)
            return yes | no
        if node.type == "conditional_expression":
            return self._conditional(node, states, frame)
        if node.type == "assignment_expression":
            left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
            if left is not None and right is not None:
                states = self._evaluate(right, self._evaluate(left, states, frame), frame)
                return self._assigned(spell(left), right, states, frame)
        if node.type == "update_expression":
            argument = node.child_by_field_name("argument")
            return {forget(state, spell(argument) if argument is not None else "") for state in states}
        if node.type == "call_expression":
            call = as_call(node)
            if call is not None:
                for argument in call.arguments:
                    states = self._evaluate(argument, states, frame)
                return self._called(call, states, frame)
        return self._block_expressions(node.named_children, states, frame)

    def _conditional(self, node: Node, states: set[State], frame: Frame) -> set[State]:
        parts = [node.child_by_field_name(name) for name in ("condition", "consequence", "alternative")]
        condition, then, otherwise = parts
        if condition is None or otherwise is None:
            raise GivenUp
        yes, no = self._branch(condition, states, frame)
        return (self._evaluate(then, yes, frame) if then is not None else yes) | self._evaluate(otherwise, no, frame)

    def _assigned(self, target: str, value: Node, states: set[State], frame: Frame) -> set[State]:
        """`target = value`: facts about the target go, the truth of a call's result or of a constant stays."""
        text = spell(_bare(value))
        if text in frame.aliases and target.isidentifier():
            frame.aliases.add(target)
        elif target in frame.aliases and text not in frame.aliases and not text.endswith("[0]"):
            raise GivenUp  # the task's name now means something else
        keeps = not target.isidentifier() and self._mentions_task(text, frame)
        result = set()
        for state in states:
            known = {"true": True, "false": False, "NULL": False, "0": False}.get(text, fact(state, text))
            state = forget(state, target)
            if known is not None:
                state = learn(state, target, known)
            result.add(replace(state, kept=True) if keeps else state)
        return result

    def _called(self, call: Call, states: set[State], frame: Frame) -> set[State]:
        name = call.name.split("___")[0]
        if name in INSERTS:
            mine = call.argument(0) in frame.aliases
            return {inserted(state, call.line) for state in states} if mine else states
        if _ENDS.match(name):
            return {replace(state, kept=True) for state in states}
        states = {forget(state, text) for state in states for text in [_addresses(call)]}
        callee = self._unit.functions.get(call.name)
        if callee is not None and not _HARMLESS.match(name):
            return self._inlined(call, callee, states, frame)
        callbacks = [self._unit.functions[a] for a in map(call.argument, range(4)) if a in self._unit.functions]
        if any(_inserts(self._unit, callback) for callback in callbacks):
            return {replace(state, kept=True) for state in states}
        if not _HARMLESS.match(name) and (self._mentions_task(spell(call.node), frame) or name.startswith("bpf_")):
            return {replace(state, kept=True) for state in states}
        return states

    def _inlined(self, call: Call, callee: Function, states: set[State], frame: Frame) -> set[State]:
        passed = {
            parameter
            for index, parameter in enumerate(callee.parameters)
            if call.argument(index) in frame.aliases and parameter
        }
        ends = self.follow(callee, passed, frame.depth + 1)
        text = spell(call.node)
        result = set()
        for state in states:
            for end in ends:
                merged = replace(
                    state,
                    inserts=min(state.inserts + end.state.inserts, 2),
                    kept=state.kept or end.state.kept,
                    excused=state.excused or end.state.excused,
                    second=state.second or (call.line if state.inserts + end.state.inserts > 1 else 0),
                )
                merged = forget_exactly(merged, text)
                result.add(merged if end.returned is None else learn(merged, text, end.returned))
        if len(result) > MAX_STATES:
            raise GivenUp
        return result

    def _mentions_task(self, text: str, frame: Frame) -> bool:
        return any(word in frame.aliases or word == "pid" for word in WORD.findall(text))


def _bare(node: Node) -> Node:
    """Without parentheses and casts."""
    while True:
        if node.type == "parenthesized_expression" and len(node.named_children) == 1:
            node = node.named_children[0]
            continue
        value = node.child_by_field_name("value")
        if node.type == "cast_expression" and value is not None:
            node = value
            continue
        return node


def _inserts(unit: Unit, function: Function) -> bool:
    return any(call.name.split("___")[0] in INSERTS for f in unit.reachable(function) for call in f.calls)


def _addresses(call: Call) -> str:
    """The variables whose addresses a call is given: it may change them."""
    return " ".join(call.argument(i)[1:] for i in range(len(call.arguments)) if call.argument(i).startswith("&"))
