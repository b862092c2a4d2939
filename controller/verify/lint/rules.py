# SPDX-License-Identifier: Apache-2.0
"""Every lint rule, by id: what `schedctl explain lint/ID` reads and what `lint.run` applies."""

from __future__ import annotations

from controller.verify.lint import rules_cpus, rules_custody, rules_kernels, rules_queues, rules_table, rules_tasks
from controller.verify.lint.registry import Rule, registered

__all__ = ["Rule", "all", "get"]

_MODULES = (
    rules_cpus,
    rules_custody,
    rules_kernels,
    rules_queues,
    rules_table,
    rules_tasks,
)  # importing them registers their rules


def all() -> tuple[Rule, ...]:
    """Every rule, by id."""
    return tuple(registered().values())


def get(id: str) -> Rule | None:
    """The rule `lint/ID` (the prefix may be left out), or None."""
    return registered().get(id if id.startswith("lint/") else f"lint/{id}")
