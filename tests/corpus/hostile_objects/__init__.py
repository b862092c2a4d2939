# SPDX-License-Identifier: Apache-2.0
"""Malformed and hostile BPF objects, each made from a good one by one change that has a name, and random ones.

    CASES[name](good) -> bytes          objects that the audit must refuse
    fuzz(count, seed) -> dict           random mutations through the audit, in processes that may crash or hang

10,000 mutations take about 5 s on two CPUs.
"""

from tests.corpus.hostile_objects.cases import CASES
from tests.corpus.hostile_objects.fuzz import fuzz, good_object

__all__ = ["CASES", "fuzz", "good_object"]
