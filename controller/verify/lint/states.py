# SPDX-License-Identifier: Apache-2.0
"""What is known at one point of one path through an operation, and how it changes.

A state counts the inserts of the task so far, whether something else may have taken charge of it, and which plain
conditions are known to be true or false, so that two tests of one condition agree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

WORD = re.compile(r"[A-Za-z_]\w*")

Facts = frozenset[tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class State:
    """One path so far. `inserts` counts to 2; `second` is the line of the insert that was one too many.

    `excused`: the path was taken because a pointer was null, mostly a lookup that in practice always finds something.
    """

    inserts: int = 0
    kept: bool = False
    facts: Facts = frozenset()
    second: int = 0
    excused: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """One way a function ends: its state, the truth of what it returns (None: unknown), and the line where."""

    state: State
    returned: bool | None
    line: int


def inserted(state: State, line: int) -> State:
    """One insert more, on this line."""
    return replace(state, inserts=min(state.inserts + 1, 2), second=state.second or (line if state.inserts else 0))


def fact(state: State, text: str) -> bool | None:
    """Is the condition known to be true or false?"""
    if (text, True) in state.facts:
        return True
    return False if (text, False) in state.facts else None


def learn(state: State, text: str, value: bool) -> State:
    """The condition is known from here on."""
    return replace(state, facts=state.facts - {(text, not value)} | {(text, value)})


def forget_exactly(state: State, text: str) -> State:
    """This condition is no longer known."""
    return replace(state, facts=state.facts - {(text, True), (text, False)})


def forget(state: State, target: str) -> State:
    """Drop the facts that a change of `target` (names in it) may have made untrue."""
    names = set(WORD.findall(target))
    if not names or not state.facts:
        return state
    return replace(state, facts=frozenset(f for f in state.facts if not names & set(WORD.findall(f[0]))))
