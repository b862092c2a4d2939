# SPDX-License-Identifier: Apache-2.0
"""The Jinja environment that templates run in: so small that no template can use much time or memory.

Jinja's sandbox keeps a template from Python's internals but not from building a gigabyte of text. So the parsed
template is checked first against a list of the constructs a scheduler needs: text, values, conditions, one level of
loops, sums of numbers, the filters below and `hole(…)`. What is left has no repetition but its loops, so time and
output are bounded by the template's length times the number of rows, and the output once more when it is gathered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.exceptions import TemplateSyntaxError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from controller.api.base import format_duration, format_percent
from controller.errors import TemplateError

MAX_TEMPLATE = 262_144
MAX_OUTPUT = 1_048_576
MAX_LOOPS = 64
_ALLOWED = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Getattr,
    nodes.Const,
    nodes.Tuple,
    nodes.Filter,
    nodes.Test,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Add,
    nodes.Sub,
    nodes.If,
    nodes.For,
    nodes.Assign,
    nodes.Call,
    nodes.Keyword,
    nodes.CondExpr,
)
_TESTS = frozenset({"equalto", "eq", "ne", "lt", "gt", "le", "ge", "in", "defined", "true", "false"})
_JINJA_FILTERS = frozenset({"length", "int", "list", "selectattr", "rejectattr", "first", "last", "sum"})


def ns(value: object) -> str:
    """A duration as a C literal in nanoseconds: 5000000 → `5000000ULL`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"filter ns needs a duration, not {value!r}")
    return f"{value}ULL"


def permille(value: object) -> str:
    """A percentage as a whole number of thousandths: 0.8 → `800`."""
    if not isinstance(value, float):
        raise ValueError(f"filter permille needs a percentage, not {value!r}")
    return str(round(value * 1000))


def duration(value: object) -> str:
    """A duration as people write it, for comments: `5ms`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"filter duration needs a duration, not {value!r}")
    return format_duration(value)


def percentage(value: object) -> str:
    """A percentage as people write it, for comments: `80%`."""
    if not isinstance(value, float):
        raise ValueError(f"filter percentage needs a percentage, not {value!r}")
    return format_percent(value)


def comment(value: object) -> str:
    """Text that may stand in a C comment: plain ASCII, no way out of the comment, one line."""
    text = re.sub(r"[^A-Za-z0-9 _.,:;/()<>=+%-]", "_", str(value))
    return text.replace("*/", "_").replace("/*", "_")


def cstring(value: object) -> str:
    """A C string literal: everything that could end it, start a trigraph or be misread is an octal escape."""
    text = str(value)
    return '"' + "".join(c if re.fullmatch(r"[A-Za-z0-9 _.,:;/*+=@%<>()\[\]-]", c) else _octal(c) for c in text) + '"'


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode())


_FILTERS: dict[str, Callable[[object], str]] = {
    f.__name__: f for f in (ns, permille, duration, percentage, comment, cstring)
}


class _Sandbox(ImmutableSandboxedEnvironment):
    """Adds numbers only: `+` on texts or lists could double them without end."""

    intercepted_binops = frozenset({"+", "-"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if not (isinstance(left, int) and isinstance(right, int)):
            raise ValueError(f"{operator} takes whole numbers")
        return super().call_binop(context, operator, left, right)


def _environment() -> _Sandbox:
    env = _Sandbox(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    env.globals.clear()
    env.filters = {name: f for name, f in env.filters.items() if name in _JINJA_FILTERS} | dict(_FILTERS)
    env.tests = {name: test for name, test in env.tests.items() if name in _TESTS}
    return env


def holes_used(text: str, where: str) -> frozenset[str]:
    """Names of the holes that the template calls; TemplateError when it is not an acceptable template."""
    return _check(_parse(_environment(), text, where), where)


def fill(text: str, values: Mapping[str, object], where: str) -> str:
    """The template's output with `values`. `where` names the template in errors, which give its line."""
    env = _environment()
    _check(_parse(env, text, where), where)
    pieces, size = [], 0
    try:
        for piece in env.from_string(text).generate(dict(values)):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise TemplateError(f"{where}: the output is longer than {MAX_OUTPUT} characters", remedy="shorten it")
            pieces.append(piece)
    except TemplateError:
        raise
    except (RecursionError, MemoryError, SyntaxError):  # of Jinja's and of Python's compiler
        raise TemplateError(f"{where}: the template is nested too deeply", remedy="simplify it") from None
    except (JinjaError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        line = error.lineno if isinstance(error, TemplateSyntaxError) else _line(error.__traceback__)
        raise TemplateError(
            f"{where}, line {line}: {error}", remedy="a template may use the values that controller.render documents"
        ) from None
    return "".join(pieces)


def _parse(env: _Sandbox, text: str, where: str) -> nodes.Template:
    if len(text) > MAX_TEMPLATE:
        raise TemplateError(f"{where}: the template is longer than {MAX_TEMPLATE} characters", remedy="shorten it")
    try:
        return env.parse(text)
    except TemplateSyntaxError as error:
        raise TemplateError(f"{where}, line {error.lineno}: {error.message}", remedy="mend the Jinja syntax") from None
    except RecursionError:
        raise TemplateError(f"{where}: the template is nested too deeply", remedy="simplify it") from None


def _check(tree: nodes.Template, where: str) -> frozenset[str]:
    """Refuse every construct that is not on the list; the names of the holes called."""
    holes: set[str] = set()
    loops = 0
    pending: list[tuple[nodes.Node, bool]] = [(tree, False)]
    while pending:
        node, looping = pending.pop()
        if not isinstance(node, _ALLOWED):
            raise _refused(where, node, type(node).__name__.lower())
        if isinstance(node, nodes.For):
            loops += 1
            if looping or node.recursive or loops > MAX_LOOPS:
                raise _refused(where, node, "loops inside loops, recursive loops, or more than 64 of them")
        if isinstance(node, nodes.Call):
            holes.add(_hole_name(node, where))
        inner = looping or isinstance(node, nodes.For)
        children = node.iter_child_nodes(exclude=("node",) if isinstance(node, nodes.Call) else None)
        pending.extend((child, inner) for child in children)
    return frozenset(holes)


def _hole_name(node: nodes.Call, where: str) -> str:
    called_hole = isinstance(node.node, nodes.Name) and node.node.name == "hole"
    texts = [*node.args, *(keyword.value for keyword in node.kwargs)]
    literal = all(isinstance(t, nodes.Const) and isinstance(t.value, str) for t in texts)
    if not called_hole or len(node.args) != 1 or not literal or node.dyn_args or node.dyn_kwargs:
        raise _refused(where, node, 'calls other than hole("NAME", name="C expression", …)')
    first = node.args[0]
    return str(first.value) if isinstance(first, nodes.Const) else ""


def _refused(where: str, node: nodes.Node, what: str) -> TemplateError:
    return TemplateError(
        f"{where}, line {node.lineno}: a template may not use {what}",
        remedy="use values, if, for, sums, the documented filters and hole(…)",
    )


def _line(traceback: TracebackType | None) -> int:
    """Line of the template at which an error arose: Jinja rewrites tracebacks to point into `<template>`."""
    line = 0
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
