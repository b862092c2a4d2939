# SPDX-License-Identifier: Apache-2.0
"""An author's answer that is right, as an AUTHORED EXAMPLE: no model wrote it. It is weighted-fair without its hole."""

from __future__ import annotations

import re
from typing import Any

from tests.plan import claude_case as case

NAME = "authored-example"
_FAIR = next(t for t in case.TEMPLATES if t.name == "weighted-fair")
SOURCE = re.sub(r"\{\{ hole\(.*?\) \}\}", "knob(KNOB_SLICE)", _FAIR.text).replace("template weighted-fair", "a draft")


def parameter(**changes: Any) -> dict[str, Any]:
    plain = {
        "name": "slice", "type": "duration", "default": "5ms", "minimum": "500us", "maximum": "20ms", "live": True,
        "description": "How long a task runs before it waits again.",
    }  # fmt: skip
    return plain | changes


PARAMETERS = [
    parameter(),
    parameter(name="lag", default="20ms", minimum="1ms", maximum="200ms", description="How far behind it may come."),
    parameter(name="age", default="1s", minimum="50ms", maximum="2s", description="What waited this long goes first."),
    parameter(
        name="others_weight", type="integer", default="100", minimum="1", maximum="10000", description="Of others."
    ),
]


def draft(**changes: Any) -> dict[str, Any]:
    """Right in everything that `changes` does not change."""
    return {
        "name": NAME,
        "summary": "An authored example: CPU time shared between classes by weight.",
        "suits": ["throughput", "external"],
        "parameters": PARAMETERS,
        "classParameters": [],
        "source": SOURCE,
        "readme": "An authored example for the tests. Suits nothing better than weighted-fair does.",
    } | changes


def gap(**changes: Any) -> dict[str, Any]:
    """A planner's answer that names a gap and leaves the executor nothing to do."""
    return case.strategy(aims=[], holes=[], lacks="order") | changes


def spoilt(old: str, new: str) -> dict[str, Any]:
    """The draft with one place of its source changed."""
    assert old in SOURCE
    return draft(source=SOURCE.replace(old, new, 1))
