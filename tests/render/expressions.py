# SPDX-License-Identifier: Apache-2.0
"""Random hole expressions, what they are worth, and BPF objects that hold many of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from controller.api import SchedulerTemplate
from controller.api.template import Hole
from controller.errors import TemplateError
from controller.render import builtin_templates, holes
from controller.render.expression import Name, Node, Number
from controller.render.interval import Proven

_BINARY = ("+", "-", "*", "/", "%", "<<", ">>", "<", "<=", ">", ">=", "==", "!=", "&&", "||")
_NUMBERS = (0, 1, 2, 3, 7, 10, 63, 64, 100, 1000, 4096, 10**6, 10**9, 2**32, 2**62, 2**63 - 1)


@dataclass(frozen=True)
class Case:
    """An accepted expression of a hole, with a value for each name and the C that the template would hold."""

    text: str
    hole: Hole
    proven: Proven
    values: Mapping[str, int]
    c: str
    bounds: tuple[int, int] | None
    """What the C clamps the result to."""

    @property
    def expected(self) -> int:
        """What the C is worth."""
        value = worth(self.proven.tree, self.values)
        return value if self.bounds is None else min(max(value, self.bounds[0]), self.bounds[1])


def any_expression(rng: random.Random, names: Sequence[str], depth: int) -> str:
    """Text of the language: often accepted, often just too large."""
    if depth == 0 or rng.random() < 0.15:
        return rng.choice(names) if rng.random() < 0.6 else str(rng.choice(_NUMBERS))
    form = rng.random()
    parts = [any_expression(rng, names, depth - 1) for _ in range(3)]
    if form < 0.55:
        return f"({parts[0]} {rng.choice(_BINARY)} {parts[1]})"
    if form < 0.7:
        return f"({parts[0]} ? {parts[1]} : {parts[2]})"
    if form < 0.85:
        return f"{rng.choice(('min', 'max'))}({parts[0]}, {parts[1]})"
    return f"clamp({parts[0]}, {parts[1]}, {parts[2]})" if form < 0.95 else f"!{parts[0]}"


def accepted(count: int, seed: int) -> list[Case]:
    """`count` accepted expressions over the holes of the built-in templates; values of names lean to their ends."""
    rng = random.Random(seed)
    places = [(template, hole) for template in builtin_templates() for hole in template.spec.holes]
    cases: list[Case] = []
    while len(cases) < count:
        template, hole = places[len(cases) % len(places)]
        text = any_expression(rng, hole.names, rng.randint(1, 6))
        try:
            cases.append(_case(rng, template, hole, text, len(cases)))
        except TemplateError:
            continue
    return cases


def _case(rng: random.Random, template: SchedulerTemplate, hole: Hole, text: str, number: int) -> Case:
    proven = holes.check(template, hole, text)
    ranges = {each.name: each.range for each in holes.hole_names(template, hole)}
    values = {
        name: rng.choice((r.low, r.high, min(r.low + 1, r.high), rng.randint(r.low, r.high)))
        for name, r in ranges.items()
    }
    reads = {name: f"in[{number}][{k}]" for k, name in enumerate(hole.names)}
    c = holes.filler(template, {hole.name: text}, {})(hole.name, **reads)
    allowed = holes.result_range(template, hole)
    return Case(text, hole, proven, values, c, None if allowed is None else (allowed.low, allowed.high))


def worth(node: Node, values: Mapping[str, int]) -> int:
    """The value, by the language's rules."""
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Name):
        return values[node.name]
    got = [worth(argument, values) for argument in node.arguments]
    a, b = got[0], got[1] if len(got) > 1 else 0
    match node.operator:
        case "?":
            return got[1] if a else got[2]
        case "!":
            return int(not a)
        case "clamp":
            return min(max(a, b), got[2])
        case "min" | "max":
            return min(a, b) if node.operator == "min" else max(a, b)
        case "-":
            return max(0, a - b)
        case "&&" | "||":
            return int(bool(a and b) if node.operator == "&&" else bool(a or b))
        case _:
            return int(eval(f"{a} {node.operator.replace('/', '//')} {b}"))  # noqa: S307  (two numbers and an operator)


def inside(node: Node, values: Mapping[str, int]) -> Iterator[int]:
    """The values of the node and of all below it."""
    yield worth(node, values)
    if not isinstance(node, Number | Name):
        for argument in node.arguments:
            yield from inside(argument, values)


def bundle(cases: Sequence[Case], *, per_program: int = 250) -> str:
    """A scheduler whose ops.init works out each case into out[]; the expressions stand inline, as in a template."""
    widest = max(len(case.hole.names) for case in cases)
    lines = [
        "#define NR_CLASSES 1", "#define NR_QUEUES 1", "#define NR_COMM_RULES 0", "#define NR_UID_RULES 0",
        "#define MATCH_CGROUPS 0", '#include "schedctl.bpf.h"', 'char _license[] SEC("license") = "Dual BSD/GPL";',
        "const u64 fair_lag_ns = 1;", "const u64 fair_age_ns = 1;",
        "const struct schedctl_class classes[NR_CLASSES] = { [0] = { .weight = 100 } };",
        "struct schedctl_queue queues[NR_QUEUES] = { [0] = { .weight = 100 } };",
        f'u64 out[{len(cases)}] SEC(".data.out");', f"u64 in[{len(cases)}][{widest}] = {{",
    ]  # fmt: skip
    lines += [f"\t{{ {', '.join(f'{case.values[n]}ULL' for n in case.hole.names)} }}," for case in cases]
    lines += ["};", ""]
    parts = range(0, len(cases), per_program)
    for start in parts:
        lines.append(f"__noinline int part_{start}(void)\n{{")
        lines += [f"\tout[{start + k}] = {case.c};" for k, case in enumerate(cases[start : start + per_program])]
        lines.append("\treturn 0;\n}\n")
    calls = " + ".join(f"part_{start}()" for start in parts)
    lines += [
        f"s32 BPF_STRUCT_OPS_SLEEPABLE(holes_init)\n{{\n\treturn {calls};\n}}",
        "void BPF_STRUCT_OPS(holes_exit, struct scx_exit_info *info)\n{\n\trecord_exit(info);\n}",
        'SEC(".struct_ops.link")\nstruct sched_ext_ops holes_ops = {',
        '\t.init = (void *)holes_init,\n\t.exit = (void *)holes_exit,\n\t.timeout_ms = 5000,\n\t.name = "holes",\n};\n',
    ]
    return "\n".join(lines)
