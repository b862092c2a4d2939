# SPDX-License-Identifier: Apache-2.0
"""One hostile source, and the ways to put a hostile part into a good scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from tests.verify.sources import fifo

INSERT = "    scx_bpf_dsq_insert(p, SHARED, SCX_SLICE_DFL, ctx[1]);"
PASTE = "#define GLUE(a, b) GLUE_(a, b)\n#define GLUE_(a, b) a##b\n"


@dataclass(frozen=True, slots=True)
class Case:
    """`stage` is the one that must stop `source`."""

    stage: str
    source: str


def top(part: str, stage: str = "build") -> Case:
    """The part stands before the scheduler's functions."""
    return Case(stage, fifo(top=part + "\n"))


def body(part: str, stage: str = "build", before: str = "") -> Case:
    """The part stands in ops.enqueue, before the insert."""
    return Case(stage, fifo(f"    {part}\n{INSERT}", top=before))
