# SPDX-License-Identifier: Apache-2.0
"""Why an answer was not taken, as data that may go back, and the end of a plan by models.

What goes back are words of ours, handles and numbers: the text of an answer does not, unless it is a plain quantity.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from controller.errors import SchedctlError

_NUMERIC = re.compile(r"-?[0-9]{1,19}(\.[0-9]{1,9})?(ns|us|ms|s|m|h|d|%)?", re.ASCII)
Rule = Literal[
    "form", "length", "whole", "oneOf", "once", "range", "side", "language", "autonomy", "fit", "name", "plain",
    "jinja", "clean",
]  # fmt: skip
RULES: dict[Rule, str] = {
    "form": "one JSON object of the given schema",
    "length": "a shorter answer",
    "whole": "an answer that ends before your tokens do",
    "oneOf": "one of allowed",
    "once": "each only once",
    "range": "allowed holds the type and the smallest and largest value, ends included",
    "side": "on the side of the default that the aim says",
    "language": "in the expression language over the names in allowed, with no overflow over their ranges",
    "autonomy": "the policy does not allow it: leave it empty",
    "fit": "values and expressions that fit together",
    "name": "a new name of 3 to 40 characters: a-z, 0-9 and single hyphens between them, and none that is taken",
    "plain": "ASCII in the source, one readable line in a description, and no control or format characters anywhere",
    "jinja": "Jinja as described, that renders with every parameter at its default; given is the line of the text",
    "clean": "C without this finding; given is the line of what was rendered",
}
"""What would be taken, by its word."""
MAX_SHOWN = 16


class NoAnswer(SchedctlError):
    """The models made no usable proposal. The message says why, in our words, and may be stored."""


@dataclass(frozen=True)
class Refusal:
    """Which check did not take an answer, at which place (in handles and names of ours), and what would be taken."""

    stage: str
    place: tuple[str, ...]
    rule: Rule
    allowed: tuple[str, ...] = ()
    given: str = ""

    def shown(self) -> dict[str, object]:
        """As it goes into the next request."""
        said: dict[str, object] = {"stage": self.stage, "place": list(self.place), "rule": self.rule}
        said |= {"allowed": list(self.allowed)} if self.allowed else {}
        return said | ({"given": self.given} if _NUMERIC.fullmatch(self.given) else {})

    def __str__(self) -> str:
        return f"{self.stage} of {'.'.join(self.place)}"


# fmt: off
WORDS = frozenset((
    "stage", "place", "rule", "allowed", "given", "schema", "handles", "range", "strategy", "autonomy",
    "expression", "render", "answer", "template", "parameters", "classes", "expressions", "holes", "reasons",
    "findings", "lessons", "unknown", "name", "source", "readme", "summary", "classParameters", "lint", "build",
    "audit", "lacks",
)) | set(RULES)
# fmt: on
"""Every word of ours in a refusal, beside handles, names from the catalogue, and numbers."""


class Refused(Exception):
    """An answer is not taken, for all of these reasons."""

    def __init__(self, *refusals: Refusal) -> None:
        super().__init__(refusals)
        self.refusals = refusals
