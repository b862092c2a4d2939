# SPDX-License-Identifier: Apache-2.0
"""What an operation does with its task on each path: inserts it, keeps it for later, or loses it.

A small abstract interpreter over the syntax tree. A state counts the inserts of the task so far, whether something else
may have taken charge of it, and which plain conditions are known to be true or false on this path, so that two tests of
one condition agree. Functions of the text are followed with the truth of what they return. Where the text goes beyond
that (backward gotos, too many paths), it gives up and says nothing: these paths are there to find certain mistakes, and
the micro-VM finds the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from controller.verify.lint.unit import Call, Function, Unit, as_call, spell, text_of

if TYPE_CHECKING:
    from tree_sitter import Node

MAX_STATES = 400
MAX_DEPTH = 8
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
_WORD = re.compile(r"[A-Za-z_]\w*")

Facts = frozenset[tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class State:
    """One path so far. `inserts` counts to 2; `second` is the line of the insert that was one too many.

    `excused`: the path was taken because a pointer was null, mostly a lookup that in practice always finds something.
    """

    inserts: int = 0
    kept: bool = False
    facts: Facts = frozenset()
    second: int = 0
    excused: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """One way a function ends: its state, the truth of what it returns (None: unknown), and the line where."""

    state: State
    returned: bool | None
    line: int


class _GivenUp(Exception):
    """The text is beyond this analysis."""


@dataclass
class _Frame:
    """One function being followed."""

    function: Function
    aliases: set[str]
    depth: int
    ends: list[Outcome] = field(default_factory=list)
    jumps: dict[str, set[State]] = field(default_factory=dict)
    breaks: list[set[State]] = field(default_factory=list)
    continues: list[set[State]] = field(default_factory=list)


def outcomes(unit: Unit, function: Function) -> list[Outcome]:
    """How each path of an operation ends, for its own task. Empty when the analysis gives up."""
    if function.task is None:
        return []
    try:
        return _Follower(unit).follow(function, {function.task}, 0)
    except (_GivenUp, RecursionError):
        return []


class _Follower:
    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._known: dict[tuple[str, frozenset[str]], list[Outcome]] = {}

    def follow(self, function: Function, aliases: set[str], depth: int) -> list[Outcome]:
        key = (function.name, frozenset(aliases))
        if key not in self._known:
            if depth > MAX_DEPTH:
                raise _GivenUp
            frame = _Frame(function, set(aliases), depth)
            falls = self._block(function.body.named_children, {State()}, frame)
            end = function.body.end_point[0] + 1
            frame.ends.extend(Outcome(state, None, end) for state in falls)
            if frame.jumps:
                raise _GivenUp  # a goto backwards, or to a label this walk does not see
            self._known[key] = frame.ends
        return self._known[key]

    # ---- statements: states in, states that fall through out ----

    def _block(self, nodes: Iterable[Node], states: set[State], frame: _Frame) -> set[State]:
        for node in nodes:
            states = self._statement(node, states, frame)
            if len(states) > MAX_STATES:
                raise _GivenUp
        return states

    def _statement(self, node: Node, states: set[State], frame: _Frame) -> set[State]:
        if node.type == "comment":
            return states
        if node.type in ("break_statement", "continue_statement"):
            leaving = frame.breaks if node.type == "break_statement" else frame.continues
            if not leaving:
                raise _GivenUp
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

    def _do_expression_statement(self, node: Node, states: set[State], frame: _Frame) -> set[State]:
        return self._block_expressions(node.named_children, states, frame)

    def _do_declaration(self, node: Node, states: set[State], frame: _Frame) -> set[State]:
        for declarator in node.named_children:
            value = declarator.child_by_field_name("value")
            if declarator.type == "init_declarator" and value is not None:
                states = self._evaluate(value, states, frame)
                target = declarator.child_by_field_name("declarator")
                name = text_of(target).lstrip("* ").removeprefix("const ") if target is not None else ""
                states = self._assigned(name, value, states, frame)
        return states

    def _do_if_statement(self, node: Node, states: set[State], frame: _Frame) -> set[State]:
        condition = node.child_by_field_name("condition")
        then = node.child_by_field_name("consequence")
        otherwise = node.child_by_field_name("alternative")
        if condition is None or then is None:
            raise _GivenUp
        yes, no = self._branch(condition, states, frame)
        after = self._statement(then, yes, frame)
        return after | (self._statement(otherwise, no, frame) if otherwise is not None else no)

    def _do_return_statement(self, node: Node, states: set[State], frame: _Frame) -> set[State]:
        line = node.start_point[0] + 1
        values = [child for child in node.named_children if child.type != "comment"]
        if not values:
            frame.ends.extend(Outcome(state, None, line) for state in states)
            return set()
        yes, no = self._branch(values[0], states, frame)
        frame.ends.extend(Outcome(state, None if state in no else True, line) for state in yes)
        frame.ends.extend(Outcome(state, False, line) for state in no - yes)
        return set()

    def _do_while_statement(self, node: Node, states: set[State], frame: _Frame) -> set[State]:
        condition = node.child_by_field_name("condition")
        body = node.child_by_field_name("body")
        if condition is None or body is None:
            raise _GivenUp
        yes, no = self._branch(condition, states, frame)
        return no | self._loop(body, yes, frame)

    def _do_for_statement(self, node: Node, states: set[State], frame: _Frame) -> set[State]:
        first = node.child_by_field_name("initializer")
        condition = node.child_by_field_name("condition")
        body = node.child_by_field_name("body")
        if body is None:
            raise _GivenUp
        if first is not None:
            states = self._statement(first, states, frame)
        # The counter changes in the loop: no fact about it may be taken from the first test.
        skipped = set() if condition is None else states
        return skipped | self._loop(body, states, frame)

    def _do_do_statement(self, node: Node, states: set[State], frame: _Frame) -> set[State]:
        body = node.child_by_field_name("body")
        if body is None:
            raise _GivenUp
        return self._loop(body, states, frame)

    def _loop(self, body: Node, states: set[State], frame: _Frame) -> set[State]:
        """One round; a second one changes nothing that a rule asks for."""
        frame.breaks.append(set())
        frame.continues.append(set())
        after = self._statement(body, states, frame)
        return after | frame.breaks.pop() | frame.continues.pop()

    def _do_switch_statement(self, node: Node, states: set[State], frame: _Frame) -> set[State]:
        condition = node.child_by_field_name("condition")
        body = node.child_by_field_name("body")
        if condition is None or body is None:
            raise _GivenUp
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

    def _do_goto_statement(self, node: Node, states: set[State], frame: _Frame) -> set[State]:
        label = node.child_by_field_name("label")
        if label is None:
            raise _GivenUp
        frame.jumps.setdefault(text_of(label), set()).update(states)
        return set()

    def _do_labeled_statement(self, node: Node, states: set[State], frame: _Frame) -> set[State]:
        label = node.child_by_field_name("label")
        arrived = frame.jumps.pop(text_of(label), set()) if label is not None else set()
        inner = [n for n in node.named_children if label is None or n.id != label.id]
        return self._block(inner, states | arrived, frame)

    def _preprocessor(self, node: Node, states: set[State], frame: _Frame) -> set[State]:
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

    # ---- expressions ----

    def _block_expressions(self, nodes: Iterable[Node], states: set[State], frame: _Frame) -> set[State]:
        for node in nodes:
            states = self._evaluate(node, states, frame)
        return states

    def _branch(self, node: Node, states: set[State], frame: _Frame) -> tuple[set[State], set[State]]:
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

    def _split(self, node: Node, states: set[State], frame: _Frame) -> tuple[set[State], set[State]]:
        text = spell(node)
        number = {"true": 1, "false": 0, "NULL": 0}.get(text, self._unit.value(text))
        if number is not None:
            return (states, set()) if number else (set(), states)
        yes: set[State] = set()
        no: set[State] = set()
        repeatable = "(" not in text and "++" not in text and "--" not in text
        for state in states:
            known = _fact(state, text)
            if known is not False:
                yes.add(_learn(state, text, True) if repeatable else state)
            if known is not True:
                null = replace(state, excused=state.excused or text in frame.function.pointers)
                no.add(_learn(null, text, False) if repeatable else null)
        return yes, no

    def _evaluate(self, node: Node, states: set[State], frame: _Frame) -> set[State]:
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
            return {_forget(state, spell(argument) if argument is not None else "") for state in states}
        if node.type == "call_expression":
            call = as_call(node)
            if call is not None:
                for argument in call.arguments:
                    states = self._evaluate(argument, states, frame)
                return self._called(call, states, frame)
        return self._block_expressions(node.named_children, states, frame)

    def _conditional(self, node: Node, states: set[State], frame: _Frame) -> set[State]:
        parts = [node.child_by_field_name(name) for name in ("condition", "consequence", "alternative")]
        condition, then, otherwise = parts
        if condition is None or otherwise is None:
            raise _GivenUp
        yes, no = self._branch(condition, states, frame)
        return (self._evaluate(then, yes, frame) if then is not None else yes) | self._evaluate(otherwise, no, frame)

    def _assigned(self, target: str, value: Node, states: set[State], frame: _Frame) -> set[State]:
        """`target = value`: facts about the target go, the truth of a call's result or of a constant stays."""
        text = spell(_bare(value))
        if text in frame.aliases and target.isidentifier():
            frame.aliases.add(target)
        elif target in frame.aliases and text not in frame.aliases and not text.endswith("[0]"):
            raise _GivenUp  # the task's name now means something else
        keeps = not target.isidentifier() and self._mentions_task(text, frame)
        result = set()
        for state in states:
            known = {"true": True, "false": False, "NULL": False, "0": False}.get(text, _fact(state, text))
            state = _forget(state, target)
            if known is not None:
                state = _learn(state, target, known)
            result.add(replace(state, kept=True) if keeps else state)
        return result

    def _called(self, call: Call, states: set[State], frame: _Frame) -> set[State]:
        name = call.name.split("___")[0]
        if name in INSERTS:
            mine = call.argument(0) in frame.aliases
            return {_inserted(state, call.line) for state in states} if mine else states
        if _ENDS.match(name):
            return {replace(state, kept=True) for state in states}
        states = {_forget(state, text) for state in states for text in [_addresses(call)]}
        callee = self._unit.functions.get(call.name)
        if callee is not None and not _HARMLESS.match(name):
            return self._inlined(call, callee, states, frame)
        callbacks = [self._unit.functions[a] for a in map(call.argument, range(4)) if a in self._unit.functions]
        if any(_inserts(self._unit, callback) for callback in callbacks):
            return {replace(state, kept=True) for state in states}
        if not _HARMLESS.match(name) and (self._mentions_task(spell(call.node), frame) or name.startswith("bpf_")):
            return {replace(state, kept=True) for state in states}
        return states

    def _inlined(self, call: Call, callee: Function, states: set[State], frame: _Frame) -> set[State]:
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
                merged = _forget_exactly(merged, text)
                result.add(merged if end.returned is None else _learn(merged, text, end.returned))
        if len(result) > MAX_STATES:
            raise _GivenUp
        return result

    def _mentions_task(self, text: str, frame: _Frame) -> bool:
        return any(word in frame.aliases or word == "pid" for word in _WORD.findall(text))


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


def _inserted(state: State, line: int) -> State:
    return replace(state, inserts=min(state.inserts + 1, 2), second=state.second or (line if state.inserts else 0))


def _inserts(unit: Unit, function: Function) -> bool:
    return any(call.name.split("___")[0] in INSERTS for f in unit.reachable(function) for call in f.calls)


def _fact(state: State, text: str) -> bool | None:
    if (text, True) in state.facts:
        return True
    return False if (text, False) in state.facts else None


def _learn(state: State, text: str, value: bool) -> State:
    return replace(state, facts=state.facts - {(text, not value)} | {(text, value)})


def _forget_exactly(state: State, text: str) -> State:
    return replace(state, facts=state.facts - {(text, True), (text, False)})


def _forget(state: State, target: str) -> State:
    """Drop the facts that a change of `target` (names in it) may have made untrue."""
    names = set(_WORD.findall(target))
    if not names or not state.facts:
        return state
    return replace(state, facts=frozenset(f for f in state.facts if not names & set(_WORD.findall(f[0]))))


def _addresses(call: Call) -> str:
    """The variables whose addresses a call is given: it may change them."""
    return " ".join(call.argument(i)[1:] for i in range(len(call.arguments)) if call.argument(i).startswith("&"))
