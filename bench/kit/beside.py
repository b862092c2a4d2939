# SPDX-License-Identifier: Apache-2.0
"""Proposals measured beside the kernel's own scheduler: blocks of four runs (ABBA or BAAB) in one guest of the trial.

The guest stays from proposal to proposal (`verify.trial.kept`). What a proposal is refused for before it schedules
anything is `Stays`: on a node nothing would change. What it does once it is in charge is TrialRejected, and everything
else CouldNotTell: nobody's verdict.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from bench.kit.scenarios import templates
from bench.kit.store import Blocks
from controller.api import Proposal
from controller.kernel import guests
from controller.kernel.images import KernelImage
from controller.kernel.vmshape import VmShape
from controller.reconcile.measuring import Refused, built
from controller.verify.trial import TrialRejected, TrialSpec, design, workloads
from controller.verify.trial.arms import GuestArms
from controller.verify.trial.design import BASELINE, CANDIDATE
from controller.verify.trial.kept import KeptArms
from controller.verify.trial.workloads import Sample

_BEFORE_IT_RUNS = ("trial/load", "trial/attach")


class Stays(Exception):
    """The proposal comes to no node, so the kernel's own scheduler stays. The text is why."""


class Beside:
    """Measures what is proposed for one scenario; use it in a `with`."""

    def __init__(self, spec: TrialSpec, kernel: KernelImage, cpus: int) -> None:
        shape = VmShape.parse(str(cpus))
        self._spec = spec
        self._metrics = (spec.objective, *(rail.key for rail in spec.guardrails))
        self._kept = KeptArms(spec, lambda: guests.boot(kernel, shape))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._kept.close()

    def blocks(self, proposal: Proposal, count: int, phase: str) -> Blocks:
        """The objective and each guardrail in `count` blocks; another `phase` has other work, equal for all proposals.

        About 3 s a block. Raises as the module says.
        """
        try:
            image = built(proposal, templates()[proposal.template])
        except Refused as refused:
            raise Stays(str(refused)) from refused
        found: Blocks = {}
        arm = f"{CANDIDATE}-{proposal.substance()[-16:]}"
        for index, order in enumerate(design.blocks((CANDIDATE, BASELINE), count, self._spec.seed)):
            seeds = design.run_seeds(self._spec.seed, phase, index, len(order))
            for metric, values in self._block(arm, image, order, seeds).items():
                found.setdefault(metric, []).append(values)
        return found

    def _block(
        self, arm: str, image: bytes, order: tuple[str, ...], seeds: list[tuple[int, int]]
    ) -> dict[str, list[list[float]]]:
        """Metric → [two values under the proposal, two under the kernel's own]."""

        def runs(arms: GuestArms) -> list[tuple[str, Sample]]:
            arms.enter(arm, image)
            return [
                (which, arms.sample(arm if which == CANDIDATE else which, *pair))
                for which, pair in zip(order, seeds, strict=True)
            ]

        try:
            made = self._kept.block(runs)
        except TrialRejected as rejected:
            if rejected.finding.rule in _BEFORE_IT_RUNS:
                raise Stays(rejected.message) from rejected
            raise
        return {
            metric: [
                [float(f"{workloads.value(metric, run):.6g}") for which, run in made if which == side]
                for side in (CANDIDATE, BASELINE)
            ]
            for metric in self._metrics
        }
