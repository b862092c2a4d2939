# SPDX-License-Identifier: Apache-2.0
"""Expressions worth trying, written by hand, by the name of the hole that they are for.

Holes of one name decide the same thing in every template, over nearly the same names. A template's hole is offered
those that its checker accepts (render.holes), so a committed template with a hole called `slice` gets what fits it.
What an expression gives is clamped to the hole's range in C, whatever it says here.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.api import Hole, SchedulerTemplate
from controller.errors import TemplateError
from controller.render import holes


@dataclass(frozen=True, slots=True)
class Entry:
    """An expression, and what it is for."""

    text: str
    why: str


CATALOGUE: dict[str, tuple[Entry, ...]] = {
    "slice": (
        Entry("slice", "the same slice for all"),
        Entry("slice / max(queued, 1)", "a round through all who wait takes one slice"),
        Entry("clamp(4 * slice / max(queued, 1), slice / 4, slice)", "shorter once more than four wait"),
        Entry("clamp(2 * burst, slice / 4, slice)", "room for a burst, and less for those with short ones"),
        Entry("burst < slice ? slice : slice / 2", "who computes without pause goes more often, for shorter"),
        Entry("burst < slice ? slice : 2 * slice", "who computes without pause is interrupted less often"),
        Entry("slice * class_weight / 100", "heavier classes run longer in one go"),
        Entry("slice * weight / 100", "heavier tasks run longer in one go"),
        Entry("wait > 4 * slice ? 2 * slice : slice", "who waited long runs longer"),
        Entry("turn", "an equal part of the round"),
        Entry("turn * class_weight / 100", "heavier classes have a larger part of the round"),
        Entry("turn * weight / 100", "heavier tasks have a larger part of the round"),
        Entry("max(turn, min(burst, round))", "a burst is not cut"),
        Entry("queued > 8 ? turn / 2 : turn", "two rounds in the time of one when many wait"),
        Entry("round", "as long as may be"),
    ),
    "deadline": (
        Entry("deadline", "the class's deadline for all"),
        Entry("deadline * 100 / class_weight", "heavier classes sooner"),
        Entry("deadline * 100 / weight", "heavier tasks sooner"),
        Entry("min(burst, deadline)", "who needs little goes first"),
        Entry("deadline / 2 + burst", "sooner, and later by what one needs"),
        Entry("deadline / max(queued, 1)", "in order of arrival when many wait"),
        Entry("burst > deadline ? 2 * deadline : deadline", "who needs more than the deadline can wait for it"),
    ),
    "lead": (
        Entry("length", "the longest job first"),
        Entry("length * class_weight / 100", "the longest first, heavier classes before"),
        Entry("min(length, ageing / 2)", "beyond half the ageing time, long is long"),
        Entry("length + wait", "the longest first, and who waited since it woke"),
        Entry("length / 2 + wait / 2", "length and wait count alike"),
        Entry("ageing - length", "the shortest job first"),
        Entry("0", "in order of arrival"),
    ),
}


def choices(template: SchedulerTemplate, hole: Hole) -> tuple[str, ...]:
    """The hole's default and every expression of the catalogue that its checker accepts, in this order."""
    fitting = (entry.text for entry in CATALOGUE.get(hole.name, ()) if _fits(template, hole, entry.text))
    return tuple(dict.fromkeys((hole.default, *fitting)))


def _fits(template: SchedulerTemplate, hole: Hole, text: str) -> bool:
    try:
        holes.check(template, hole, text)
    except TemplateError:
        return False
    return True
