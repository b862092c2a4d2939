# SPDX-License-Identifier: Apache-2.0
"""Run: one examination under way, which the stages fill: what was made of the candidate, and what was said of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.api import KernelColumn, Reporter
from controller.kernel.images import KernelImage
from controller.kernel.vmshape import VmShape
from controller.verify.candidate import Candidate
from controller.verify.stages import Record
from controller.verify.trial import TrialSpec


@dataclass
class Run:
    """One examination under way."""

    candidate: Candidate
    wanted: frozenset[str]
    shapes: tuple[VmShape, ...]
    shape: VmShape
    reporter: Reporter
    static: Record
    kernels: tuple[KernelImage, ...] = ()
    columns: list[KernelColumn] = field(default_factory=list)
    tools: dict[str, str] = field(default_factory=dict)
    source: str | None = None
    image: bytes | None = None
    ops_name: str = ""
    attachments: dict[str, bytes] = field(default_factory=dict)
    trial: TrialSpec | None = None
