# SPDX-License-Identifier: Apache-2.0
"""Hostile C: each case tries one way to read files, to use up the compiler, to lie, or to be more than a scheduler.

    CASES[name] = Case(stage, source)       the stage that must stop it; `@` in the source stands for the canary's path
    judge(names, canary, token) -> list     what the verifier says of each, with what it cost; in this process

Cases lie around a good scheduler (tests/verify/sources.py), so that nothing but the hostile part is there to object to.
"""

from tests.corpus.hostile_sources import compiler, files, objects, texts
from tests.corpus.hostile_sources.case import Case
from tests.corpus.hostile_sources.judge import Judged, judge

CASES: dict[str, Case] = {**files.CASES, **texts.CASES, **compiler.CASES, **objects.CASES}

assert len(CASES) == sum(len(module.CASES) for module in (files, texts, compiler, objects))

__all__ = ["CASES", "Case", "Judged", "judge"]
