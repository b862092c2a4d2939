# SPDX-License-Identifier: Apache-2.0
"""Proposals measured beside the kernel's own scheduler: blocks of four runs (ABBA or BAAB) in one guest of the trial.

A guest is booted when the first block is asked for, and stays until `close` or until something goes wrong; a block is
always of one boot. What a proposal is refused for before it schedules anything is `Stays`: on a node nothing would
change. What it does once it is in charge is TrialRejected, and everything else GuestError: nobody's verdict.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from bench.kit.scenarios import templates
from bench.kit.store import Blocks
from controller.api import Proposal
from controller.errors import GuestError
from controller.kernel import microvm
from controller.kernel.images import KernelImage
from controller.kernel.microvm import Guest, GuestHung
from controller.kernel.vmshape import VmShape
from controller.reconcile.measuring import ATTEMPTS, Refused, built
from controller.verify.columns import without_sched_ext
from controller.verify.trial import TrialRejected, TrialSpec, design, workloads
from controller.verify.trial.arms import GuestArms
from controller.verify.trial.design import BASELINE, CANDIDATE

_BEFORE_IT_RUNS = ("trial/load", "trial/attach")


class Stays(Exception):
    """The proposal comes to no node, so the kernel's own scheduler stays. The text is why."""


class Beside:
    """Measures what is proposed for one scenario; use it in a `with`."""

    def __init__(self, spec: TrialSpec, kernel: KernelImage, cpus: int) -> None:
        self._spec, self._kernel, self._shape = spec, kernel, VmShape.parse(str(cpus))
        self._metrics = (spec.objective, *(rail.key for rail in spec.guardrails))
        self._guest: Guest | None = None
        self._arms: GuestArms | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the guest; the next block boots another one."""
        guest, self._guest, self._arms = self._guest, None, None
        if guest is not None:
            guest.close()

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
        """Metric → [two values under the proposal, two under the kernel's own], after at most ATTEMPTS boots."""
        hung = 0
        for attempt in range(1, ATTEMPTS + 1):
            try:
                arms = self._ready()
                arms.enter(arm, image)
                runs = [
                    (which, arms.sample(arm if which == CANDIDATE else which, *pair))
                    for which, pair in zip(order, seeds, strict=True)
                ]
            except TrialRejected as rejected:
                self.close()
                if rejected.finding.rule in _BEFORE_IT_RUNS:
                    raise Stays(rejected.message) from rejected
                if rejected.finding.rule != "trial/detach" or attempt == ATTEMPTS:  # maybe of who ran before
                    raise
            except GuestError as error:
                self.close()
                hung += isinstance(error, GuestHung) and error.in_charge
                if hung > 1:
                    raise TrialRejected("hung", f"the guest does not answer, {hung} times out of {hung}") from error
                if attempt == ATTEMPTS:
                    raise
            else:
                return {
                    metric: [
                        [float(f"{workloads.value(metric, run):.6g}") for which, run in runs if which == side]
                        for side in (CANDIDATE, BASELINE)
                    ]
                    for metric in self._metrics
                }
        raise AssertionError("every attempt returns or raises")

    def _ready(self) -> GuestArms:
        """A guest, warmed up: how long a run takes that nothing holds up is what candidates are allowed."""
        if self._arms is None:
            self._guest = microvm.boot(self._kernel.path, self._shape)
            if not self._guest.facts.sched_ext:  # everything would fail to load, and that is no proposal's fault
                raise without_sched_ext(self._kernel.release)
            self._arms = GuestArms(self._guest, self._spec, {})
            self._arms.sample(BASELINE, 0, 0)
        return self._arms
