# SPDX-License-Identifier: Apache-2.0
"""The bench of a search: proposals rendered, linted, built and audited, then run by turns in one micro-VM.

It is the guest, the workloads and the order of runs of the trial (verify.trial), with two or more candidates as its
arms. The guest is booted when the first block is asked for and stays until `close`; after anything that went wrong it
is thrown away, and the next block boots another one (from the snapshot, in about a second). A candidate that is not a
good scheduler is to blame for it, by number; a machine that cannot tell (no image, no QEMU, a guest that dies under
nobody) ends the search with that word.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from controller import verify
from controller.api import Proposal, Reporter, SchedulerPolicy, SchedulerTemplate, Silent, Verdict
from controller.errors import CouldNotTell, DeadlineExceeded, GuestError, SchedctlError
from controller.kernel import microvm
from controller.kernel.images import KernelImage
from controller.kernel.microvm import EmulatorFault, Guest, GuestHung, VmShape
from controller.plan.search.measure import MAX_WHY, Block, Failure
from controller.reconcile.drafts import STATIC
from controller.verify.columns import without_sched_ext
from controller.verify.trial import TrialRejected

if TYPE_CHECKING:
    from controller.verify.trial.arms import GuestArms

ATTEMPTS = 3
"""How often a block is begun anew when the emulator breaks, or the guest hangs or dies."""
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
        self._spec: verify.TrialSpec | None = None
        self._objects: dict[str, bytes] = {}
        self._guest: Guest | None = None
        self._arms: GuestArms | None = None
        self._end = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the guest; may be called again."""
        guest, self._guest, self._arms = self._guest, None, None
        if guest is not None:
            guest.close()

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
        except BaseException:
            self.close()
            raise
        if isinstance(said, Failure):
            self.close()
            self._reporter.failed(f"search: block {block + 1}: {said.why}")
        else:
            self._reporter.step(f"search: block {block + 1}: {said.gains[0]:+.3f} in {said.seconds:.1f} s")
        return said

    def _measured(self, proposals: Sequence[Proposal], block: int, began: float) -> Block:
        if self._spec is None:
            self._spec = self._spec_of(proposals[0])
        objects = {self._arm(p): self._object(which, p) for which, p in enumerate(proposals)}
        hung = 0
        for attempt in range(1, ATTEMPTS + 1):
            arm = 0
            try:
                arms = self._ready(objects)
                setup_s = time.monotonic() - began
                order, seeds = self._plan(len(proposals), block)
                runs = []
                for arm, pair in zip(order, seeds, strict=True):
                    self._in_time()
                    runs.append(self._sampled(arms, arm, self._arm(proposals[arm]), pair))
            except GuestError as error:
                self.close()
                self._in_time()
                if isinstance(error, GuestHung) and error.in_charge:
                    hung += 1
                    if hung > 1:
                        raise _Bad(arm, f"the guest does not answer, {hung} times out of {hung}") from error
                if attempt == ATTEMPTS:
                    raise
                why = "the emulator broke the guest" if isinstance(error, EmulatorFault) else error.message
                self._reporter.step(f"search: {why}; attempt {attempt + 1} of {ATTEMPTS}")
                continue
            return self._block(order, runs, len(proposals), time.monotonic() - began, setup_s)
        raise AssertionError("every attempt returns or raises")

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

    def _ready(self, objects: Mapping[str, bytes]) -> GuestArms:
        """A guest with the proposals as its arms, warmed up under the kernel's own scheduler."""
        from controller.verify.trial.arms import GuestArms
        from controller.verify.trial.design import BASELINE

        assert self._spec is not None
        if self._arms is None:
            kernel, shape = self._where()
            allowed = min(_BOOT_S, max(self._in_time(), 1.0))
            if kernel.has_sched_ext is False:
                raise without_sched_ext(kernel.release)
            self._guest = microvm.boot(kernel.path, shape, deadline_s=allowed, reporter=self._reporter.step)
            if not self._guest.facts.sched_ext:
                raise without_sched_ext(kernel.release)
            self._arms = GuestArms(self._guest, self._spec, {})
            self._in_time()
            self._arms.sample(BASELINE, 0, 0)  # how long a run takes that nothing holds up: what others are allowed
        for arm, image in objects.items():
            self._arms.enter(arm, image)
        return self._arms

    def _plan(self, count: int, block: int) -> tuple[list[int], list[tuple[int, int]]]:
        """Which proposal each run is of, and the seeds of its work and names."""
        from controller.verify.trial import design

        assert self._spec is not None
        order = [int(arm) for arm in design.blocks([str(i) for i in range(count)], block + 1, self._spec.seed)[block]]
        return order, design.run_seeds(self._spec.seed, "search", block, len(order))

    def _sampled(self, arms: GuestArms, which: int, arm: str, seeds: tuple[int, int]) -> dict[str, int]:
        try:
            return arms.sample(arm, *seeds)
        except TrialRejected as rejected:
            if rejected.finding.rule == "trial/detach":  # of whoever ran before: another guest has none of it
                raise GuestError(rejected.message) from rejected
            raise _Bad(which, rejected.message) from rejected

    def _block(
        self, order: Sequence[int], runs: Sequence[dict[str, int]], count: int, seconds: float, setup_s: float
    ) -> Block:
        from controller.verify.trial import analysis

        assert self._spec is not None
        samples = [{"arms": [str(arm) for arm in order], "runs": list(runs)}]
        rails = self._spec.guardrails

        def over_first(metric: str, which: int) -> float:
            return float(analysis.gains(samples, metric, str(which), "0")[0])

        others = range(1, count)
        return Block(
            gains=tuple(over_first(self._spec.objective, which) for which in others),
            guards=tuple(tuple(over_first(rail.key, which) for rail in rails) for which in others),
            margins=tuple(math.log1p(rail.max_regression) for rail in rails),
            seconds=seconds,
            setup_seconds=min(setup_s, seconds),
        )

    def _in_time(self) -> float:
        """The seconds left. DeadlineExceeded when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the time for measuring is over")
        return left


def _short(text: str) -> str:
    return " ".join(text.split())[:MAX_WHY]
