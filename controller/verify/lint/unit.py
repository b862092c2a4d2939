# SPDX-License-Identifier: Apache-2.0
"""A scheduler's C as the lint rules see it: functions, calls, constants, and which function is which operation.

The text is parsed as written, before preprocessing, because a rule speaks of what the author wrote. What a C grammar
alone cannot read is made readable first, keeping every line and column: section and attribute macros become spaces and
BPF's loop macros become `while`. Functions of schedctl's own headers that the text includes are known too, so that a
call of theirs counts for what it does; no rule ever complains about a header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node, Tree

    from controller.verify.lint.states import Outcome

_BLANKED = re.compile(
    r"\b(?:SEC\s*\(\s*\"[^\"\n]*\"\s*\)|__(?:always_inline|noinline|weak|ksym|hidden|kptr|kptr_untrusted|percpu|rcu|"
    r"contains|bpf_kfunc|noreturn|unused|maybe_unused|arg_\w+)\b(?:\([^()\n]*\))?|_Pragma\s*\(\s*\"(?:\\.|[^\"\n\\])*\"\s*\))"
)
_LOOPS = re.compile(r"\b(?:bpf_for_each|bpf_for|bpf_repeat)\b(?=\s*\()")
_STRUCT_OPS = re.compile(r"\b(\w*STRUCT_OPS\w*|BPF_PROG\w*)\s*\(\s*(\w+)")
_SECTION = re.compile(r"\bSEC\s*\(\s*\"(struct_ops[^\"\n]*)\"\s*\)\s*(?:[A-Za-z_]\w*[\s*]+)+([A-Za-z_]\w*)\s*\(")
_TABLE = re.compile(r"\bstruct\s+sched_ext_ops(?:___\w+)?\s+(\w+)\s*=\s*\{|\b\w*OPS_DEFINE\s*\(\s*(\w+)\s*,")
_MEMBER = re.compile(r"\.\s*(\w+)\s*=\s*")
_CAST = re.compile(r"^\([\w\s]{1,80}\*?\s?\)\s*")
_DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+(.+?)[ \t]*$", re.MULTILINE)
_NUMBER = re.compile(r"^\(*\s*(0[xX][0-9a-fA-F]+|\d+)[uUlL]*\s*\)*$")
_COMMENT = re.compile(r'/\*.*?(?:\*/|\Z)|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|["\'][^\n]*', re.DOTALL)
_NUMBERS = frozenset(
    (
        *("u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "__u32", "__u64", "__s32", "__s64"),
        *("int", "long", "short", "char", "unsigned", "signed", "bool", "_Bool", "size_t", "enum"),
    )
)
SLEEPABLE_OPS = frozenset(
    ("init", "exit", "init_task", "cgroup_init", "cgroup_exit", "cpu_online", "cpu_offline", "cgroup_prep_move")
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the callee's name, the arguments' nodes, and where."""

    name: str
    arguments: tuple[Node, ...]
    node: Node

    @property
    def line(self) -> int:
        """1-based."""
        return self.node.start_point[0] + 1

    def argument(self, index: int) -> str:
        """The text of one argument in one spelling, "" when there is none."""
        return spell(self.arguments[index]) if index < len(self.arguments) else ""


@dataclass(frozen=True)
class Function:
    """One function definition; `parameters` are names in order, `own` is False for a header's."""

    name: str
    parameters: tuple[str, ...]
    body: Node
    node: Node
    own: bool

    @property
    def line(self) -> int:
        """1-based."""
        return self.node.start_point[0] + 1

    @cached_property
    def text(self) -> str:
        """The body's text."""
        return text_of(self.body)

    @cached_property
    def words(self) -> frozenset[str]:
        """Every identifier in the body."""
        return frozenset(re.findall(r"[A-Za-z_]\w*", self.text))

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        """Every call in the body, in the order of the text."""
        return tuple(calls_in(self.body))

    @cached_property
    def pointers(self) -> frozenset[str]:
        """Local names that are no numbers: being 0 means for them that there was nothing to find."""
        declared = re.findall(r"\b(\w+)[\s*]+(\w+)\s*(?:=(?!=)|;|,)", self.text)
        words = {name for kind, name in declared if kind not in _NUMBERS and kind not in ("return", "goto", "else")}
        return frozenset(words | set(re.findall(r"\*\s*(?:const\s+)?(\w+)\s*(?:=(?!=)|;|,)", self.text)))

    @cached_property
    def task(self) -> str | None:
        """The name of the task an operation is about: its first parameter, or what it unpacks from ctx[0]."""
        match = re.search(r"\bstruct\s+task_struct\s*\*\s*(?:const\s+)?(\w+)\s*=\s*\([^;]*?\)\s*\(?\w+\[0\]", self.text)
        if match:
            return match[1]
        return self.parameters[0] if self.parameters else None


@dataclass
class Unit:
    """The whole text."""

    source: str
    kernels: tuple[str, ...] = ()
    """Releases of the kernels asked for."""
    functions: dict[str, Function] = field(default_factory=dict)
    ops: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Operation or other member of the ops table → (text of its value, 1-based line)."""
    has_table: bool = False
    table_line: int = 1
    sleepable: frozenset[str] = frozenset()
    constants: Mapping[str, str] = field(default_factory=dict)
    keep: list[Tree] = field(default_factory=list)
    reached: dict[str, tuple[Function, ...]] = field(default_factory=dict)
    followed: dict[str, list[Outcome]] = field(default_factory=dict)
    """What `paths.outcomes` found, by function."""

    def operation(self, name: str) -> Function | None:
        """The function behind an operation of the table, if it is defined in this text."""
        value, _line = self.ops.get(name, ("", 0))
        return self.functions.get(value)

    def reachable(self, function: Function) -> tuple[Function, ...]:
        """The function and all that it calls, directly, through others or as a callback."""
        if function.name not in self.reached:
            found = {function.name: function}
            waiting = [function]
            while waiting:
                for word in waiting.pop().words:
                    callee = self.functions.get(word)
                    if callee is not None and word not in found:
                        found[word] = callee
                        waiting.append(callee)
            self.reached[function.name] = tuple(found.values())
        return self.reached[function.name]

    @property
    def own_functions(self) -> list[Function]:
        """Those of the candidate itself."""
        return [f for f in self.functions.values() if f.own]

    def own_calls(self) -> Iterator[tuple[Function, Call]]:
        """Every call in the candidate's own functions."""
        for function in self.own_functions:
            for call in function.calls:
                yield function, call

    def all_calls(self) -> Iterator[Call]:
        """Every call, headers' functions included."""
        for function in self.functions.values():
            yield from function.calls

    def value(self, text: str) -> int | None:
        """The number that a constant expression stands for, None when it is no plain constant."""
        for _ in range(8):
            match = _NUMBER.match(text)
            if match:
                return int(match[1], 0) if not match[1].startswith("0") or "x" in match[1].lower() else int(match[1], 8)
            text = self.constants.get(text.strip("() "), "")
        return None

    @cached_property
    def code(self) -> str:
        """The text without comments, literals kept."""
        return without_comments(self.source)


def parse(source: str, headers: Mapping[str, str], kernels: Sequence[str] = ()) -> Unit:
    """The candidate `source`, with those of `headers` (name → text) that it includes, directly or through others."""
    unit = Unit(source, kernels=tuple(kernels))
    texts = [unit.code, *(without_comments(text) for text in _included(source, headers))]
    constants: dict[str, str] = {}
    for index, text in enumerate(texts):
        _functions(unit, text, own=index == 0)
        for match in _DEFINE.finditer(text):
            constants.setdefault(match[1], match[2])
        constants = {**_enumerators(text), **_const_variables(text), **constants}
    unit.constants = constants
    unit.sleepable = frozenset(_sleepable(texts))
    _table(unit)
    return unit


def text_of(node: Node) -> str:
    """A node's text as written."""
    return (node.text or b"").decode("utf-8", "replace")


def spell(node: Node) -> str:
    """A node's text in one spelling: no comments, single spaces, no outer parentheses."""
    text = " ".join(text_of(node).split())
    while text.startswith("(") and text.endswith(")") and _balanced(text[1:-1]):
        text = text[1:-1].strip()
    return text


def calls_in(node: Node) -> Iterator[Call]:
    """Every call below `node` in the order of evaluation as far as the text tells: arguments before their call."""
    for child in node.children:
        yield from calls_in(child)
    if node.type == "call_expression":
        call = as_call(node)
        if call is not None:
            yield call


def as_call(node: Node) -> Call | None:
    """The call that `node` is, when the callee is a plain name."""
    callee = node.child_by_field_name("function")
    arguments = node.child_by_field_name("arguments")
    if callee is None or arguments is None or callee.type != "identifier":
        return None
    given = tuple(child for child in arguments.named_children if child.type != "comment")
    return Call(text_of(callee), given, node)


def walk(node: Node) -> Iterator[Node]:
    """`node` and everything below it."""
    yield node
    for child in node.children:
        yield from walk(child)


def without_comments(text: str) -> str:
    """Comments as spaces; literals stay; same lines and columns."""

    def blank(match: re.Match[str]) -> str:
        found = match.group()
        return re.sub(r"[^\n]", " ", found) if found.startswith("/") else found

    return _COMMENT.sub(blank, text)


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


def _included(source: str, headers: Mapping[str, str]) -> list[str]:
    found: dict[str, str] = {}
    waiting = [source]
    while waiting:
        for name in re.findall(r'^[ \t]*#[ \t]*include[ \t]*["<]([^">\n]+)[">]', waiting.pop(), re.MULTILINE):
            if name in headers and name not in found:
                found[name] = headers[name]
                waiting.append(headers[name])
    return list(found.values())


def _functions(unit: Unit, text: str, *, own: bool) -> None:
    import tree_sitter_c
    from tree_sitter import Language, Parser

    readable = _BLANKED.sub(lambda m: " " * len(m.group()), text)
    readable = _LOOPS.sub(lambda m: "while".ljust(len(m.group())), readable)
    tree = Parser(Language(tree_sitter_c.language())).parse(readable.encode("utf-8", "replace"))
    unit.keep.append(tree)
    for node in walk(tree.root_node):
        if node.type == "function_definition":
            function = _function(node, own)
            if function is not None:
                unit.functions.setdefault(function.name, function)


def _function(node: Node, own: bool) -> Function | None:
    body = node.child_by_field_name("body")
    declarator = node.child_by_field_name("declarator")
    while declarator is not None and declarator.type != "function_declarator":
        declarator = declarator.child_by_field_name("declarator")
    if body is None or declarator is None:
        return None
    named = declarator.child_by_field_name("declarator")
    parameters = declarator.child_by_field_name("parameters")
    if named is None or parameters is None:
        return None
    name = text_of(named)
    names = [_parameter(p) for p in parameters.named_children if p.type != "comment"]
    if _STRUCT_OPS.match(f"{name}({names[0] if names else ''}"):
        name, names = names[0], names[1:]
    return Function(name, tuple(names), body, node, own)


def _parameter(node: Node) -> str:
    """A parameter's name: its last identifier (`struct task_struct *p`, or the bare name in a macro's first place)."""
    words = re.findall(r"[A-Za-z_]\w*", re.sub(r"\[[^\]]*\]", "", text_of(node)))
    return words[-1] if words else ""


def _enumerators(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for body in re.findall(r"\benum\b[^;{}()]{0,200}\{([^{}]*)\}", text):
        following = 0
        for item in body.split(","):
            name, _, given = item.partition("=")
            if not name.strip().isidentifier():
                continue
            number = _NUMBER.match(given.strip())
            if given.strip() and number is None:
                found[name.strip()] = given.strip()
                continue
            following = int(number[1], 0) if number else following
            found[name.strip()] = str(following)
            following += 1
    return found


def _const_variables(text: str) -> dict[str, str]:
    """`const u64 SHARED = 1;`; a `const volatile` one is set by user space and has no value here."""
    pattern = re.compile(r"^(?:static\s+)?const\s+(?!volatile)\w[\w\s]{0,200}?\b(\w+)\s*=\s*([^;{}\n]+);", re.MULTILINE)
    return {m[1]: m[2].strip() for m in pattern.finditer(text)}


def _sleepable(texts: list[str]) -> Iterator[str]:
    for text in texts:
        for match in _STRUCT_OPS.finditer(text):
            if "SLEEPABLE" in match[1]:
                yield match[2]
        for match in _SECTION.finditer(text):
            if match[1].startswith("struct_ops.s"):
                yield match[2]


def _table(unit: Unit) -> None:
    """Fill in the ops table. Its members are read from the text: inside SCX_OPS_DEFINE they are no C."""
    match = _TABLE.search(unit.code)
    if match is None:
        return
    unit.has_table = True
    unit.table_line = unit.code.count("\n", 0, match.start()) + 1
    depth = 1
    position = start = match.end()
    while position < len(unit.code) and depth:
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(unit.code[position], 0)
        position += 1
    for part_start, part in _split(unit.code, start, position - 1):
        member = _MEMBER.search(part)
        if member is None:
            continue
        value = part[member.end() :].strip()
        value = _CAST.sub("", value).lstrip("&").strip("() ") if not value.startswith('"') else value
        line = unit.code.count("\n", 0, part_start + member.start()) + 1
        unit.ops[member[1]] = (value, line)


def _split(text: str, start: int, end: int) -> Iterator[tuple[int, str]]:
    """The parts between top-level commas of text[start:end], with their offsets."""
    depth = 0
    last = start
    for position in range(start, end):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(text[position], 0)
        if text[position] == "," and depth == 0:
            yield last, text[last:position]
            last = position + 1
    yield last, text[last:end]
