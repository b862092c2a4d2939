# SPDX-License-Identifier: Apache-2.0
"""The order of runs. A block has every arm once in one order and once in the reverse (ABBA, with three arms ABCCBA):
what drifts linearly through it cancels in every pair of arms. Which order a block begins with is drawn by the seed, in
rounds that have every order once, so that no arm is first more often than another.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

CANDIDATE, INCUMBENT, BASELINE = "candidate", "incumbent", "baseline"
AGAIN = "baseline-again"
"""The kernel's own scheduler under a second name: the other side of an A/A trial."""


def blocks(arms: Sequence[str], count: int, seed: int) -> list[tuple[str, ...]]:
    """`count` blocks of 2 × len(arms) runs each. The same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - an order that anybody may know
    made: list[tuple[str, ...]] = []
    while len(made) < count:
        orders = list(itertools.permutations(arms))
        chance.shuffle(orders)
        made += [(*order, *reversed(order)) for order in orders]
    return made[:count]


def run_seeds(seed: int, phase: str, block: int, runs: int) -> list[tuple[int, int]]:
    """For each run of a block: the seed of its work (the same in the whole block) and of its names (its own)."""
    chance = random.Random(f"{seed}/{phase}/{block}")  # noqa: S311
    work = chance.getrandbits(31)
    return [(work, chance.getrandbits(31)) for _ in range(runs)]
