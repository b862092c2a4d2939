# SPDX-License-Identifier: Apache-2.0
"""The arms in one guest: puts the scheduler of the arm asked for in charge, makes one run, looks whether it still is.

The kernel's own scheduler is what is there when nothing is attached. There is no atomic replacement in sched_ext, so
each switch goes through it; an arm that is already in charge stays. A candidate that the kernel throws out, that does
not finish a run, or that breaks the kernel is rejected for it; whatever else goes wrong is nobody's verdict.
"""

from __future__ import annotations

import struct
import time
from typing import NoReturn

from controller.errors import CandidateRejected, CouldNotTell, GuestError, KernelError
from controller.kernel.microvm import EmulatorFault, Guest
from controller.kernel.schedext import SchedExtStatus
from controller.verify.load import kernel_broke, load
from controller.verify.trial import workloads
from controller.verify.trial.design import CANDIDATE, INCUMBENT
from controller.verify.trial.outcome import TrialRejected
from controller.verify.trial.spec import TrialSpec
from controller.verify.trial.workloads import RunStuck, Sample

_LEAVING_S = 10.0
_LEAST_TIMEOUT_S = 15.0
_PATIENCE = 12.0
_CGROUP_MAP = "schedctl_cgroups"
_CLASS_SET_BYTES = 32


class GuestArms:
    """Samples by arm, from one guest (a `runner.Sampler`)."""

    def __init__(self, guest: Guest, spec: TrialSpec, candidates: dict[str, bytes]) -> None:
        self._guest = guest
        self._spec = spec
        self._images = dict(candidates)
        if spec.incumbent is not None:
            self._images[INCUMBENT] = spec.incumbent
        self._loaded, self._ops, self._attached = "", "", ""
        self._slowest_s = 0.0
        self._detach()
        self.sizes = workloads.calibrate(guest, spec.workload)

    @property
    def loaded(self) -> str:
        """The arm whose scheduler the guest holds ("" before the first): whatever was in charge, it was that one."""
        return self._loaded

    def enter(self, arm: str, image: bytes) -> None:
        """Have one more candidate as an arm; its name begins with `candidate`, and stays that of this object."""
        self._images[arm] = image

    def sample(self, arm: str, work_seed: int, name_seed: int) -> Sample:
        """One run under `arm`. TrialRejected for what a candidate does; CouldNotTell and GuestError for all else."""
        try:
            self._switch(arm)
            return self._run(arm, work_seed, name_seed)
        except EmulatorFault:
            raise
        except GuestError as error:
            broken = kernel_broke(error)
            if broken is None or not self._is_candidate(arm):
                raise
            raise TrialRejected("panic", f"the kernel breaks: {broken}", evidence=error.console, arm=arm) from error

    def finish(self) -> None:
        """Leave the guest to the kernel's own scheduler."""
        self._detach()

    def _run(self, arm: str, work_seed: int, name_seed: int) -> Sample:
        foreign = arm in self._images
        timeout = max(_LEAST_TIMEOUT_S, _PATIENCE * self._slowest_s) if foreign else workloads.RUN_TIMEOUT_S
        began = time.monotonic()
        try:
            sample = workloads.run(self._guest, self._spec, self.sizes, work_seed, name_seed, timeout)
        except RunStuck as error:
            self._check_in_charge(arm)
            message = f"{error} within {timeout:.0f} s, {self._slowest_s:.1f} s with the kernel's own scheduler"
            self._fail(arm, "stuck", message, error)
        except GuestError:
            self._check_in_charge(arm)
            raise
        if foreign:
            self._check_in_charge(arm)
        else:
            self._slowest_s = max(self._slowest_s, time.monotonic() - began)
        return sample

    def _switch(self, arm: str) -> None:
        wanted = arm if arm in self._images else ""
        if self._attached == wanted:
            return
        self._detach()
        if not wanted:
            return
        if self._loaded != arm:
            self._load(arm)
        try:
            self._guest.attach()
        except KernelError as error:
            self._fail(arm, "attach", error.message, error)
        self._attached = arm
        self._check_in_charge(arm)

    def _load(self, arm: str) -> None:
        self._loaded = ""
        try:
            self._ops = load(self._guest, self._images[arm]).ops_name
        except CandidateRejected as error:
            self._fail(arm, "load", error.message, error)
        self._loaded = arm
        if self._spec.cgroup_class is not None:
            self._enter_cgroup(self._spec.cgroup_class)

    def _enter_cgroup(self, number: int) -> None:
        """Tell the scheduler, as a node does, which class the workload's cgroup is."""
        made = self._guest.run(
            ["sh", "-c", f"mkdir -p {workloads.CGROUP} && busybox stat -c %i {workloads.CGROUP}"], timeout_s=20
        )
        if made.rc != 0 or not made.stdout.strip().isdigit():
            raise GuestError(f"cannot make a cgroup in the guest: {made.stderr.strip()[:200]}")
        key = struct.pack("<Q", int(made.stdout))
        try:
            self._guest.map_update(_CGROUP_MAP, key, (1 << number).to_bytes(_CLASS_SET_BYTES, "little"))
        except KernelError as error:
            raise CouldNotTell(f"the trial's cgroup cannot be told to the scheduler: {error.message}") from error

    def _detach(self) -> None:
        attached, self._attached = self._attached, ""
        self._guest.detach()
        status = self._settled()
        if status.state != "disabled":
            self._fail(attached, "detach", f"after detaching the kernel is still {status.state}", None)

    def _check_in_charge(self, arm: str) -> None:
        if arm not in self._images:
            return
        status = self._guest.status()
        if status.runs(self._ops) and status.exit is None:
            return
        left = self._settled().exit
        said = f"{left.reason}: {left.message}" if left and left.message else left.reason if left else "no reason given"
        self._fail(arm, "exit", f"the kernel threw the scheduler out: {said}", None)

    def _settled(self) -> SchedExtStatus:
        """The kernel's word once a scheduler is in charge or gone."""
        status = self._guest.status()
        end = time.monotonic() + _LEAVING_S
        while status.state in ("enabling", "disabling") and time.monotonic() < end:
            time.sleep(0.1)
            status = self._guest.status()
        return status

    def _is_candidate(self, arm: str) -> bool:
        return arm.startswith(CANDIDATE)

    def _fail(self, arm: str, rule: str, message: str, cause: Exception | None) -> NoReturn:
        """The candidate is to blame for what happens under it; under another arm there is just no verdict."""
        evidence = "\n".join(self._guest.kmsg()[-60:])
        if self._is_candidate(arm):
            raise TrialRejected(rule, f"in the trial: {message}", evidence=evidence, arm=arm) from cause
        who = "the incumbent" if arm == INCUMBENT else "the kernel's own scheduler"
        raise CouldNotTell(f"the trial under {who} failed: {message}", remedy="run it again") from cause
