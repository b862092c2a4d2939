# SPDX-License-Identifier: Apache-2.0
"""The bench of a search: proposals rendered, linted, built and audited, then run by turns in one micro-VM.

It is the guest, the workloads and the order of runs of the trial (verify.trial), with two or more candidates as its
arms. The guest stays from block to block until `close` (`verify.trial.kept`). A candidate that is not a good scheduler
is to blame for it, by number; a machine that cannot tell (no image, no QEMU, a guest that dies under nobody) ends the
search with that word.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from controller import verify
from controller.api import Proposal, Reporter, SchedulerPolicy, SchedulerTemplate, Silent, Verdict
from controller.errors import CouldNotTell, DeadlineExceeded, GuestError, SchedctlError
from controller.kernel import guests
from controller.kernel.images import KernelImage
from controller.kernel.microvm import Guest, VmShape
from controller.plan.search.measure import MAX_WHY, Block, Failure
from controller.reconcile.drafts import STATIC
from controller.verify.trial import TrialRejected, design
from controller.verify.trial.arms import GuestArms
from controller.verify.trial.kept import KeptArms
from controller.verify.trial.workloads import Sample

_BOOT_S = 90.0


class Refused(Exception):
    """A stage before the kernel refuses the proposal. The text is the stage and why."""


def built(proposal: Proposal, template: SchedulerTemplate) -> bytes:
    """The proposal's object. Refused by a stage that needs no kernel; CouldNotTell when that cannot be told here."""
    made = verify.examine(verify.Candidate.from_proposal(proposal, template), stages=STATIC)
    failed = next((s for s in made.passport.stages if s.verdict in (Verdict.REJECTED, Verdict.ERROR)), None)
    if failed is not None and failed.verdict is Verdict.REJECTED:
        raise Refused(f"{failed.stage}: {failed.summary}")
    if failed is not None or made.object is None:
        raise CouldNotTell(failed.summary if failed is not None else "the build gave no object")
    return made.object


class _Bad(Exception):
    """Proposal number `which` is to blame. The text is why."""

    def __init__(self, which: int, why: str) -> None:
        super().__init__(why)
        self.which = which


class Measuring:
    """A `plan.Bench` for one search. `where` tells kernel and shape when they are needed; use it in a `with`.

    About 5 s a block on two emulated CPUs, and 30 s at first when there is no snapshot of the kernel yet.
    """

    def __init__(
        self,
        where: Callable[[], tuple[KernelImage, VmShape]],
        templates: Mapping[str, SchedulerTemplate],
        policy: SchedulerPolicy,
        reporter: Reporter | None = None,
    ) -> None:
        self._where, self._templates, self._policy = where, templates, policy
        self._reporter = reporter or Silent()
        self._objects: dict[str, bytes] = {}
        self._kept: KeptArms | None = None
        self._end = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the guest; may be called again."""
        if self._kept is not None:
            self._kept.close()

    def measure(self, proposals: Sequence[Proposal], block: int, within_s: float) -> Block | Failure:
        """One block of all of them, each once forth and once back. A run that began in time may end after it."""
        began = time.monotonic()
        self._end = began + within_s
        said: Block | Failure
        try:
            said = self._measured(proposals, block, began)
        except _Bad as bad:
            said = Failure(kind="candidate", which=bad.which, why=_short(str(bad)), seconds=time.monotonic() - began)
        except DeadlineExceeded as late:
            said = Failure(kind="time", why=_short(late.message), seconds=time.monotonic() - began)
        except (SchedctlError, OSError, MemoryError) as error:
            said = Failure(kind="bench", why=_short(str(error)), seconds=time.monotonic() - began)
        if isinstance(said, Failure):
            self._reporter.failed(f"search: block {block + 1}: {said.why}")
        else:
            self._reporter.step(f"search: block {block + 1}: {said.gains[0]:+.3f} in {said.seconds:.1f} s")
        return said

    def _measured(self, proposals: Sequence[Proposal], block: int, began: float) -> Block:
        kept = self._kept_for(proposals[0])
        names = [self._arm(p) for p in proposals]
        objects = {name: self._object(which, p) for which, (name, p) in enumerate(zip(names, proposals, strict=True))}
        order, seeds = _plan(kept.spec, len(proposals), block)

        def runs(arms: GuestArms) -> tuple[float, list[Sample]]:
            for name, image in objects.items():
                arms.enter(name, image)
            setup_s = time.monotonic() - began
            made: list[Sample] = []
            for which, pair in zip(order, seeds, strict=True):
                self._in_time()
                made.append(arms.sample(names[which], *pair))
            return setup_s, made

        try:
            setup_s, made = kept.block(runs)
        except TrialRejected as rejected:
            raise _Bad(names.index(rejected.arm), rejected.message) from rejected
        except GuestError:
            self._in_time()
            raise
        return _block(kept.spec, order, made, time.monotonic() - began, setup_s)

    def _kept_for(self, proposal: Proposal) -> KeptArms:
        """The arms of all blocks, their guest not booted yet."""
        if self._kept is None:
            spec = self._spec_of(proposal)
            self._kept = KeptArms(spec, self._boot, lambda text: self._reporter.step(f"search: {text}"))
        return self._kept

    def _boot(self) -> Guest:
        kernel, shape = self._where()
        allowed = min(_BOOT_S, max(self._in_time(), 1.0))
        return guests.boot(kernel, shape, deadline_s=allowed, reporter=self._reporter.step)

    def _spec_of(self, proposal: Proposal) -> verify.TrialSpec:
        """The trial that any of the proposals would have to stand: they differ in nothing that it depends on."""
        settings = self._policy.spec.planner.search
        spec = verify.spec_for(proposal, self._policy.spec.verification)
        workload = spec.workload if settings.workload == "auto" else settings.workload
        return dataclasses.replace(spec, workload=workload, seed=settings.seed)

    def _arm(self, proposal: Proposal) -> str:
        return f"candidate-{proposal.substance()[-16:]}"

    def _object(self, which: int, proposal: Proposal) -> bytes:
        """The candidate's object, built once. _Bad with the stage that refuses it."""
        known = self._objects.get(self._arm(proposal))
        if known is not None:
            return known
        self._in_time()
        try:
            image = built(proposal, self._templates[proposal.template])
        except Refused as refused:
            raise _Bad(which, str(refused)) from refused
        self._objects[self._arm(proposal)] = image
        return image

    def _in_time(self) -> float:
        """The seconds left. DeadlineExceeded when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the time for measuring is over")
        return left


def _plan(spec: verify.TrialSpec, count: int, block: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Which proposal each run is of, and the seeds of its work and names."""
    order = [int(arm) for arm in design.blocks([str(i) for i in range(count)], block + 1, spec.seed)[block]]
    return order, design.run_seeds(spec.seed, "search", block, len(order))


def _block(spec: verify.TrialSpec, order: Sequence[int], runs: list[Sample], seconds: float, setup_s: float) -> Block:
    """Every proposal's gains over the first, from one block's runs."""
    from controller.verify.trial import analysis  # with numpy, which nothing else here needs

    samples = [{"arms": [str(arm) for arm in order], "runs": runs}]

    def over_first(metric: str, which: int) -> float:
        return float(analysis.gains(samples, metric, str(which), "0")[0])

    others = range(1, max(order) + 1)
    return Block(
        gains=tuple(over_first(spec.objective, which) for which in others),
        guards=tuple(tuple(over_first(rail.key, which) for rail in spec.guardrails) for which in others),
        margins=tuple(math.log1p(rail.max_regression) for rail in spec.guardrails),
        seconds=seconds,
        setup_seconds=min(setup_s, seconds),
    )


def _short(text: str) -> str:
    return " ".join(text.split())[:MAX_WHY]
