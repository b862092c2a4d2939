# SPDX-License-Identifier: Apache-2.0
"""`make templates-doc`: writes docs/templates.md from the templates' own definitions and from what was measured.

Which families there are, their parameters and holes is read from the catalogue, when each suits from its README, the
loads and topologies from the benches; figures come from bench/results. A person writes none of it. `--check` writes
nothing and exits 1 when the half that comes from the code is not what the file says.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.kit import filled  # noqa: E402
from bench.kit.loads import LOADS  # noqa: E402
from controller.api.template import Hole, Parameter, SchedulerTemplate  # noqa: E402
from controller.paths import data_dir  # noqa: E402
from scripts.doc_pages import Page, table  # noqa: E402
from scripts.templates_figures import COMMANDS, sections  # noqa: E402

__all__ = ["COMMANDS", "PAGE", "document", "from_code", "main"]

_TOP = """\
# What the templates do, when, and what they cost

Written by `make templates-doc`: do not edit. The families come from `templates/`, the figures from `bench/results`;
`make bench-templates` measures for some minutes, goes on where it stopped the last time, and writes this page anew.

A template is a scheduler with typed parameters and holes for expressions. Several intents become classes of tasks in
one scheduler; all else is the class `others`. A parameter that is *live* changes through a map while the scheduler
runs. `schedctl explain hole/TEMPLATE.NAME` says what the names of a hole mean, `schedctl render` prints the C.
"""

_LIMITS = """\
## What the figures cannot show

- Where the accelerator is `tcg` the guest's CPUs are emulated. The order in which tasks run is real; caches,
  frequencies, idle states and siblings are this machine's, shared by all of the guest: what locality and core-pack save
  on hardware does not show, and a switch costs more than it does there. Their timers are on time where QEMU's main
  thread may be real-time; where it may not, latencies have up to 4 ms of this machine's own scheduling in them.
- A guest with more CPUs than the machine has waits for the machine, too: while one of its CPUs has none of those,
  whoever was given it waits for milliseconds, whatever the scheduler in the guest does.
- A run takes about a second at most. What comes of a scheduler after minutes is not in it.
- Of many figures the lowest is low by luck too. A worst case whose interval includes 1 is none that was shown.
- The class is filled with defaults but where its family's section says otherwise; a planner chooses better ones.
"""
_LOADS = """\
## The loads

One class of tasks, `job*`, is the intent's. `pipe` and `hackbench` show what a scheduler costs, `cache` what switching
costs, the others are those of the verifier's trial.
"""


def from_code() -> str:
    """The half that needs no measurement."""
    return "\n".join(_from_code())


def _from_code() -> Iterator[str]:
    yield _TOP
    yield f"## The {len(filled.names())} families\n"
    for template in filled.templates().values():
        yield from _family(template)
    yield _LOADS
    yield table(["load", "what it is"], [[f"`{load.name}`", load.says] for load in LOADS.values()]) + "\n"
    yield _LIMITS


def _family(template: SchedulerTemplate) -> Iterator[str]:
    spec, name = template.spec, template.name
    how = filled.told(name)
    suits = ", ".join(f"`{metric.value}`" for metric in spec.suits)
    yield f"### {name}\n"
    yield _wrapped(
        f"{spec.summary} Kernel {spec.kernel_floor} or later. Objectives: {suits}. Its own load below: "
        f"`{filled.home(name)}`{how and f', its class filled with {how}'}. [More](../templates/{name}/README.md)."
    )
    readme = data_dir("templates") / name / "README.md"
    for what in ("When it suits.", "Worst case."):
        yield from _said(readme, what)
    rows = [_parameter(each) for each in spec.parameters]
    rows += [_parameter(each, "class: ") for each in spec.class_parameters]
    if rows:
        yield table(["parameter", "type", "default", "range", "live", "what it does"], rows) + "\n"
    if spec.holes:
        yield table(["hole", "default", "result", "may use", "decides"], [_hole(each) for each in spec.holes]) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False) + "\n"


def _said(readme: Path, what: str) -> Iterator[str]:
    """The paragraph of a README that begins with these words, when it has one."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    found = re.search(rf"^\*\*{re.escape(what)}\*\* (.+?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    if found:
        yield f"**{what}** {found[1].strip()}\n"


def _range(minimum: object, maximum: object) -> str:
    if minimum is None and maximum is None:
        return ""
    return f"{'' if minimum is None else minimum}..{'' if maximum is None else maximum}"


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parameter(each: Parameter, of: str = "") -> list[object]:
    limits = _range(each.minimum, each.maximum)
    live = "yes" if each.live else "no"
    return [f"{of}`{each.name}`", each.type, _shown(each.default), limits, live, each.description]


def _hole(each: Hole) -> list[object]:
    names = ", ".join(f"`{name}`" for name in each.names)
    limits = _range(each.minimum, each.maximum)
    return [f"`{each.name}`", f"`{each.default}`", limits, names, each.description]


PAGE = Page("templates", from_code, sections)
document, main = PAGE.document, PAGE.main


if __name__ == "__main__":
    sys.exit(main())
