# SPDX-License-Identifier: Apache-2.0
"""Liveness: with the candidate in charge of the guest, does everything keep running.

Each scenario runs under the kernel's own scheduler first (once a boot; see baselines.py), then under the candidate,
whose watchdog is short. After each the kernel is asked whether the candidate is still in charge: a stall, an error or
an exit rejects it with the kernel's own words. A complaint about numbers counts only when it is there again after both
were measured anew, because a busy machine can hold up any single measurement; a stall, when it is there three times.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from controller.api import Finding, Reporter
from controller.errors import CandidateRejected, GuestError, KernelError
from controller.kernel.microvm import EmulatorFault, Guest
from controller.kernel.schedext import SchedExtStatus
from controller.verify.baselines import Bench
from controller.verify.load import WATCHDOG_MS, kernel_broke
from controller.verify.scenarios import SCENARIOS, Arena, Complaint, Numbers, Scenario, Stuck

__all__ = ["SCENARIOS", "Bench", "LivenessRejected", "LivenessReport", "liveness"]

EVIDENCE = 16 << 10
_LEAVING_S = 10.0
_SOFT = re.compile(r"\bBUG: |\bWARNING: |soft lockup|rcu: INFO|rcu_preempt detected stalls|hung task")


class LivenessRejected(CandidateRejected):
    """The candidate let something down; `figures` are what was measured until then."""

    def __init__(self, rule: str, message: str, *, evidence: str = "", remedy: str = "") -> None:
        super().__init__("liveness", message, evidence=evidence[-EVIDENCE:], remedy=remedy)
        self.finding = Finding(rule=f"liveness/{rule}", severity="error", message=message[:4096], fix=remedy)
        self.figures: dict[str, float] = {}
        self.warnings: tuple[Finding, ...] = ()


@dataclass
class LivenessReport:
    """All that was measured (`kernel.SCENARIO.figure` under the kernel's own scheduler), and warnings.

    `left_out` has the scenarios that do not apply, with the reason; `seconds` how long each of the others took under
    the candidate.
    """

    figures: dict[str, float] = field(default_factory=dict)
    warnings: list[Finding] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def liveness(bench: Bench, ops_name: str, reporter: Reporter) -> LivenessReport:
    """Run every scenario under the loaded candidate `ops_name`. About 40 s on two emulated CPUs, twice that the first
    time after a boot.

    LivenessRejected for what the candidate did; GuestError (EmulatorFault) when the environment failed.
    """
    report = LivenessReport()
    candidate = _Candidate(bench, ops_name)
    try:
        candidate.attach()  # one that does not even stay needs no measurements
        candidate.detach()
        scenarios = _applicable(bench.guest, report, reporter)
        bench.prepare(scenarios, reporter)
        for scenario in scenarios:
            if scenario.compared:
                _record(report, f"kernel.{scenario.name}", bench.baseline(scenario))
        candidate.attach()
        for scenario in scenarios:
            reporter.step(f"liveness: {scenario.name}: {scenario.asks}?")
            _scenario(candidate, scenario, report)
        _leave(candidate, report)
    except LivenessRejected as error:
        error.figures = report.figures
        error.warnings = tuple(report.warnings)
        raise
    except EmulatorFault:
        raise
    except GuestError as error:
        broken = kernel_broke(error)
        if broken is None or not error.in_charge:
            raise
        raise LivenessRejected("panic", f"the kernel breaks: {broken}", evidence=error.console) from error
    return report


def _applicable(guest: Guest, report: LivenessReport, reporter: Reporter) -> list[Scenario]:
    """The scenarios for a guest of this shape; those that are not are reported, with the reason."""
    found = []
    for scenario in SCENARIOS:
        if reason := scenario.not_here(guest.facts.cpus):
            report.left_out[scenario.name] = reason
            reporter.done(f"liveness: {scenario.name} does not apply: {reason}")
        else:
            found.append(scenario)
    return found


class _Candidate:
    """The loaded candidate, attached and detached with every answer read back from the kernel (scenarios.InCharge)."""

    def __init__(self, bench: Bench, ops_name: str) -> None:
        self.bench = bench
        self.guest = bench.guest
        self.ops_name = ops_name

    def attach(self) -> None:
        """Put it in charge, or reject it."""
        try:
            self.guest.attach()
        except KernelError as error:
            raise LivenessRejected(
                "attach", error.message, evidence="\n".join(self.guest.kmsg()[-40:]), remedy=error.remedy
            ) from error
        self.still_in_charge("right after it was attached")

    def detach(self) -> None:
        """Detach it, which must end on the kernel's own scheduler, or reject it."""
        try:
            self.guest.detach()
        except KernelError as error:
            raise LivenessRejected("detach", error.message, evidence=_kmsg(self.guest)) from error
        self.bench.detached()
        state = self.guest.status().state
        if state != "disabled":
            raise LivenessRejected("detach", f"after detaching the kernel is still {state}", evidence=_kmsg(self.guest))

    def come_back(self) -> bool:
        """Attach it again when the kernel asked it to leave and come back, as a node's loader does."""
        status = self._settled()
        if status.exit is None or not status.exit.wants_restart:
            return False
        self.detach()
        self.attach()
        return True

    def still_in_charge(self, when: str) -> None:
        """Reject it, with the kernel's words, when it is not."""
        status = self.guest.status()
        if status.runs(self.ops_name) and status.exit is None:
            return
        raise LivenessRejected(*_departure(self._settled(), when), evidence=_kmsg(self.guest))

    def _settled(self) -> SchedExtStatus:
        """The kernel's word once the candidate is either in charge or gone: the reason comes with the end."""
        status = self.guest.status()
        end = time.monotonic() + _LEAVING_S
        while status.exit is None and status.state in ("enabling", "disabling") and time.monotonic() < end:
            time.sleep(0.2)
            status = self.guest.status()
        return status


_STALLS = 3
"""A stall rejects when it is there in each of so many attempts: a good one may have one or two on a busy machine."""


def _scenario(candidate: _Candidate, scenario: Scenario, report: LivenessReport) -> None:
    began = time.monotonic()
    mine, complaints = _unstalled(candidate, scenario, report)
    if any(c.severity == "error" for c in complaints):
        # Once more, both: what only a busy machine did will not be there twice.
        candidate.detach()
        _record(report, f"kernel.{scenario.name}", candidate.bench.baseline(scenario, anew=True))
        candidate.attach()
        mine, complaints = _measure(candidate, scenario)
    _record(report, scenario.name, mine)
    report.seconds[scenario.name] = round(time.monotonic() - began, 2)
    for complaint in complaints:
        if complaint.severity == "error":
            raise LivenessRejected(scenario.name, complaint.message, evidence=_kmsg(candidate.guest))
        report.warnings.append(Finding(rule=f"liveness/{scenario.name}", severity="warn", message=complaint.message))


def _unstalled(candidate: _Candidate, scenario: Scenario, report: LivenessReport) -> tuple[Numbers, list[Complaint]]:
    """Where this machine held the guest's CPUs up, a task of low weight pays for that, and waits, but not each time."""
    for attempt in range(1, _STALLS):
        try:
            return _measure(candidate, scenario)
        except LivenessRejected as error:
            if error.finding.rule != "liveness/stall":
                raise
            told = f"stalled in attempt {attempt} of {_STALLS}: {error.message}"
            report.warnings.append(Finding(rule="liveness/stall", severity="warn", message=told[:4096]))
            candidate.detach()
            candidate.attach()
    return _measure(candidate, scenario)


def _measure(candidate: _Candidate, scenario: Scenario) -> tuple[Numbers, list[Complaint]]:
    guest, bench = candidate.guest, candidate.bench
    during = f"in scenario {scenario.name}"
    try:
        mine = scenario.measure(Arena(guest, candidate, bench.detached_at, WATCHDOG_MS / 1000))
    except Stuck as error:
        candidate.still_in_charge(during)
        raise LivenessRejected("stuck", f"{scenario.name}: {error}", evidence=_kmsg(guest)) from error
    except EmulatorFault:
        raise
    except GuestError as error:
        candidate.still_in_charge(during)
        _only_with_it(candidate, scenario, error)
        raise
    candidate.still_in_charge(during)
    return mine, list(scenario.judge(mine, bench.baseline(scenario))) if scenario.compared else []


def _only_with_it(candidate: _Candidate, scenario: Scenario, error: GuestError) -> None:
    """Reject a candidate under which a load fails (nobody can fork, say) that works again once it is detached."""
    if kernel_broke(error) is not None or not scenario.compared:
        return
    evidence = _kmsg(candidate.guest)
    candidate.detach()
    candidate.bench.baseline(scenario, anew=True)
    raise LivenessRejected(
        "stuck", f"{scenario.name}: {error.message}, and only under it", evidence=evidence
    ) from error


def _departure(status: SchedExtStatus, when: str) -> tuple[str, str]:
    left = status.exit
    if left is None:
        return "gone", f"the scheduler is no longer in charge {when} (state {status.state or 'unknown'})"
    said = f"{left.reason}: {left.message}" if left.message else left.reason
    rule = {1026: "stall", 1025: "scx-error", 1024: "runtime-error"}.get(left.kind, "exit")
    return rule, f"the kernel threw the scheduler out {when}: {said}"


def _leave(candidate: _Candidate, report: LivenessReport) -> None:
    """Detach, and look through the log for what the kernel minded."""
    minded = [line for line in candidate.guest.kmsg() if _SOFT.search(line)]
    if minded:
        message = f"the kernel complained {len(minded)} times while it ran: {minded[0].strip()}"
        report.warnings.append(Finding(rule="liveness/kernel-log", severity="warn", message=message[:4096]))
    candidate.detach()


def _record(report: LivenessReport, name: str, numbers: Numbers) -> None:
    report.figures.update({f"{name}.{key}": value for key, value in numbers.items()})


def _kmsg(guest: Guest) -> str:
    return "\n".join(guest.kmsg()[-80:])
