# SPDX-License-Identifier: Apache-2.0
"""Lint: what an expert of sched_ext would object to, found in the C text without compiling it.

`run` applies the rules of `rules.all()`; each is a pure function of the parsed text. An `error` rejects the candidate,
a `warn` is told and goes on to the stages that measure.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from controller.api import Finding
from controller.errors import CandidateRejected
from controller.verify.lint import rules
from controller.verify.lint.unit import Unit, parse

MAX_FINDINGS = 100
MAX_SOURCE = 512 << 10
CPU_SECONDS = 5.0
"""After this much the text is refused: a scheduler takes a hundredth, and a text can be made to take for ever."""


def run(source: str, headers: Mapping[str, str] | None = None, *, kernels: Sequence[str] = ()) -> tuple[Finding, ...]:
    """The findings in the C text `source`, by line; `headers` (name → text) are those it may include. About 50 ms.

    `kernels` are the releases it is to run on; without any, rules about what one kernel lacks say nothing.

    CandidateRejected("lint") for a text that is too large or too deeply nested to be judged.
    """
    if len(source) > MAX_SOURCE:
        raise CandidateRejected("lint", f"the source is larger than {MAX_SOURCE >> 10} KiB", remedy="make it shorter")
    try:
        return _apply(parse(source, headers or {}, kernels))
    except RecursionError as error:
        raise CandidateRejected(
            "lint", "the source is nested too deeply to be read", remedy="make it flatter"
        ) from error


def _apply(unit: Unit) -> tuple[Finding, ...]:
    found: dict[tuple[int, str], Finding] = {}
    begun = time.process_time()
    for rule in rules.all():
        if time.process_time() - begun > CPU_SECONDS:
            raise CandidateRejected("lint", "the source is too tangled to be judged", remedy="make it simpler")
        for line, message, *milder in rule.check(unit):
            severity = milder[0] if milder else rule.severity
            finding = Finding(rule=rule.id, severity=severity, message=message[:4096], line=line, fix=rule.fix)
            found.setdefault((line, rule.id), finding)
    return tuple(found[key] for key in sorted(found))[:MAX_FINDINGS]
