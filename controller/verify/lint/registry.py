# SPDX-License-Identifier: Apache-2.0
"""The registry of lint rules: one function a rule, with what a person needs to know to believe it and to mend it.

A rule's examples are its tests: its `bad` must be found by it and its `good` must not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from controller.verify.lint.unit import Unit

Severity = Literal["error", "warn"]
Found = tuple[int, str] | tuple[int, str, Severity]
Check = Callable[[Unit], Iterable[Found]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `check` yields (1-based line, sentence about this place[, a severity milder than the rule's]).

    `warn` is for what cannot be certain: it is told and does not reject.
    """

    id: str
    severity: Severity
    sentence: str
    fix: str
    bad: str
    good: str
    check: Check
    kernels: tuple[str, ...] = ()
    """Releases that its examples are about."""

    @property
    def what(self) -> str:
        """The sentence's first half: what is the matter."""
        return self.sentence.partition(": ")[0] + "."

    @property
    def why(self) -> str:
        """Its second half: what comes of it."""
        after = self.sentence.partition(": ")[2]
        return after[:1].upper() + after[1:]


_RULES: dict[str, Rule] = {}


def rule(
    id: str, severity: Severity, sentence: str, *, fix: str, bad: str, good: str, kernels: tuple[str, ...] = ()
) -> Callable[[Check], Check]:
    """Register the decorated function as rule `lint/ID`. The sentence is "what is the matter: what comes of it."."""

    def register(check: Check) -> Check:
        name = f"lint/{id}"
        assert name not in _RULES, name
        _RULES[name] = Rule(name, severity, sentence, fix, bad.strip() + "\n", good.strip() + "\n", check, kernels)
        return check

    return register


def registered() -> dict[str, Rule]:
    """Every rule by its id."""
    return dict(sorted(_RULES.items()))
