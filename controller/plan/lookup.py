# SPDX-License-Identifier: Apache-2.0
"""Lookup: committed revisions found by what they were for and what they say, for `schedctl search`.

A query is words: `FIELD:VALUE` asks of one field (globs; `intent:shop/*`, `metric:makespan`), every other word must be
in the revision's text (its names, template, parameters, planner, reasons, lessons, case ignored). All words must hold;
`!WORD` and `!FIELD:VALUE` must not. With a load to compare, results are ordered by its distance, else by how often and
how prominently the words occur, then the newest first.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controller.api import Fingerprint, SchedulerRevision
from controller.api.fingerprint import OTHERS, apart
from controller.errors import InputError

_WEIGHTS = {"name": 8, "template": 6, "intent": 6, "metric": 4, "policy": 4}
"""How much a word in a field counts; elsewhere it counts once."""


@dataclass(frozen=True)
class Term:
    """One word of a query; `field` "" for the whole text."""

    field: str
    value: str
    wanted: bool


@dataclass(frozen=True)
class Hit:
    """A revision that was found; `distance` only where a load was given and both have a workload to compare."""

    revision: SchedulerRevision
    score: int
    distance: float | None = None


FIELDS = (
    "name", "intent", "metric", "template", "policy", "planner", "kernel", "topology", "parameter", "class", "reason",
    "recalled", "stage", "rule",
)  # fmt: skip


def parse(query: str) -> tuple[Term, ...]:
    """The words of a query. InputError for quotes that do not close, or a field that there is not."""
    try:
        words = shlex.split(query)
    except ValueError as error:
        raise InputError(f"the query cannot be read: {error}", remedy="close the quote") from None
    return tuple(_term(word) for word in words)


def _term(word: str) -> Term:
    wanted = not (word.startswith("!") and len(word) > 1)
    text = word if wanted else word[1:]
    field, colon, value = text.partition(":")
    if not colon or re.fullmatch(r"[A-Za-z]+", field) is None:
        return Term("", text.lower(), wanted)
    singular = field.lower().removesuffix("s") if field.lower() not in FIELDS else field.lower()
    if singular not in FIELDS:
        raise InputError(f'there is no field "{field}" to search', remedy=f"one of {', '.join(FIELDS)}")
    if not value:
        raise InputError(f'nothing is asked of the field "{field}"', remedy=f"write {field}:VALUE, such as {field}:*")
    return Term(singular, value.lower(), wanted)


def search(
    revisions: Iterable[SchedulerRevision],
    terms: Sequence[Term],
    *,
    load: Fingerprint | None = None,
    most: float = 1.0,
) -> list[Hit]:
    """Those for which every term holds, best first; with `load` those at most `most` away that can be compared."""
    found: list[Hit] = []
    for revision in revisions:
        score = _score(fields_of(revision), terms)
        if score is None:
            continue
        away = distance_to(load, revision) if load is not None else None
        if load is None or (away is not None and away <= most):
            found.append(Hit(revision, score, away))
    found.sort(key=lambda h: (h.revision.spec.created_at, h.revision.name), reverse=True)
    return sorted(found, key=lambda h: (h.distance if h.distance is not None else 0.0, -h.score))


def fields_of(revision: SchedulerRevision) -> dict[str, list[str]]:
    """What can be asked of: field → its values, in lower case."""
    spec, proposal = revision.spec, revision.spec.proposal
    values: dict[str, Sequence[str | None]] = {
        "name": [revision.name],
        "intent": [c.intent for c in proposal.classes],
        "metric": [c.metric.value for c in proposal.classes],
        "template": [proposal.template],
        "policy": [spec.policy],
        "planner": [proposal.planner.name, proposal.planner.version, proposal.planner.note],
        "kernel": [spec.target.kernel_release, spec.target.btf_digest],
        "topology": [spec.target.topology_class],
        "parameter": [f"{k}={v}" for k, v in proposal.parameters.items()]
        + [f"{k}={v}" for k, v in proposal.expressions.items()],
        "class": [comm for c in proposal.classes for comm in c.match.comm],
        "reason": list(proposal.reasons),
        "recalled": [spec.recalled.revision] if spec.recalled is not None else [],
        "stage": [one.stage for one in spec.lessons if one.stage],
        "rule": [one.rule for one in spec.lessons if one.rule],
    }
    return {field: [value.lower() for value in found if value] for field, found in values.items()}


def distance_to(load: Fingerprint, revision: SchedulerRevision) -> float | None:
    """How far the revision's load is from `load`: workload by workload where names agree; where none does, the nearest
    pair of workloads (a profile of another node has other names). None without a load to compare.
    """
    theirs = revision.spec.workload
    if theirs is None:
        return None
    mine = {w.name: w for w in load.workloads if w.name != OTHERS}
    named = {w.name: w for w in theirs.workloads if w.name != OTHERS}
    if not mine or not named:
        return None
    common = mine.keys() & named.keys()
    if common:
        return round(sum(apart(mine[name], named[name]) for name in common) / len(common), 4)
    return round(min(apart(one, other) for one in mine.values() for other in named.values()), 4)


def _score(fields: Mapping[str, Sequence[str]], terms: Sequence[Term]) -> int | None:
    """How well the terms fit, None when one does not hold."""
    score = 0
    for term in terms:
        asked: Mapping[str, Sequence[str]] = fields
        if term.field:
            asked = {term.field: fields[term.field]}
        hits = sum(
            _WEIGHTS.get(field, 1) for field, values in asked.items() for value in values if _fits(term, value)
        )  # fmt: skip
        if (hits > 0) != term.wanted:
            return None
        score += hits
    return score


def _fits(term: Term, value: str) -> bool:
    if term.field and any(c in term.value for c in "*?["):
        return fnmatch.fnmatchcase(value, term.value)
    return term.value in value
