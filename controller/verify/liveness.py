# SPDX-License-Identifier: Apache-2.0
"""Liveness: with the candidate in charge of the guest, does everything keep running.

Each scenario runs under the kernel's own scheduler first (once a boot), then under the candidate, whose watchdog is
short. After each the kernel is asked whether the candidate is still in charge: a stall, an error or an exit rejects it
with the kernel's own words. A complaint about numbers counts only when it is there again after both were measured anew,
because a busy machine can hold up any single measurement.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field

from controller.api import Finding, Reporter
from controller.errors import CandidateRejected, GuestError, KernelError
from controller.kernel.microvm import EmulatorFault, Guest
from controller.kernel.schedext import SchedExtStatus
from controller.verify.load import kernel_broke
from controller.verify.scenarios import SCENARIOS, Complaint, Numbers, Scenario, Stuck

EVIDENCE = 16 << 10
_LEAVING_S = 10.0
_AUTOGROUP = "/proc/sys/kernel/sched_autogroup_enabled"
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
    """All that was measured, and warnings."""

    figures: dict[str, float] = field(default_factory=dict)
    warnings: list[Finding] = field(default_factory=list)


class Bench:
    """A guest, and what the kernel's own scheduler makes of each scenario in it: measured once, unless asked anew."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._baselines: dict[str, Numbers] = {}
        with contextlib.suppress(KernelError):  # a kernel without autogroups needs none switched off
            guest.write_file(_AUTOGROUP, "0")  # with them, nice values count only within one session

    def baseline(self, scenario: Scenario, *, anew: bool = False) -> Numbers:
        """The kernel's own scheduler on this scenario; no candidate may be attached. GuestError if even that fails."""
        if anew or scenario.name not in self._baselines:
            try:
                self._baselines[scenario.name] = scenario.measure(self.guest)
            except Stuck as error:
                raise GuestError(
                    f"the kernel's own scheduler did not get through {scenario.name}: {error}",
                    console=self.guest.console_tail(),
                    remedy="run it again when this machine is less busy",
                ) from error
        return self._baselines[scenario.name]


def liveness(bench: Bench, ops_name: str, reporter: Reporter) -> LivenessReport:
    """Run every scenario under the loaded candidate `ops_name`. About 35 s on two emulated CPUs.

    LivenessRejected for what the candidate did; GuestError (EmulatorFault) when the environment failed.
    """
    report = LivenessReport()
    try:
        _attach(bench.guest, ops_name)  # one that does not even stay needs no measurements
        bench.guest.detach()
        for scenario in SCENARIOS:
            reporter.step(f"liveness: {scenario.name} under the kernel's own scheduler")
            _record(report, f"kernel.{scenario.name}", bench.baseline(scenario))
        _attach(bench.guest, ops_name)
        for scenario in SCENARIOS:
            reporter.step(f"liveness: {scenario.name}: {scenario.asks}?")
            _scenario(bench, scenario, ops_name, report)
        _leave(bench.guest, report)
    except LivenessRejected as error:
        error.figures = report.figures
        error.warnings = tuple(report.warnings)
        raise
    except EmulatorFault:
        raise
    except GuestError as error:
        broken = kernel_broke(error)
        if broken is None:
            raise
        raise LivenessRejected("panic", f"the kernel breaks: {broken}", evidence=error.console) from error
    return report


def _attach(guest: Guest, ops_name: str) -> None:
    try:
        guest.attach()
    except KernelError as error:
        raise LivenessRejected(
            "attach", error.message, evidence="\n".join(guest.kmsg()[-40:]), remedy=error.remedy
        ) from error
    _still_in_charge(guest, ops_name, "right after it was attached")


def _scenario(bench: Bench, scenario: Scenario, ops_name: str, report: LivenessReport) -> None:
    mine, complaints = _measure(bench, scenario, ops_name)
    if any(c.severity == "error" for c in complaints):
        # Once more, both: what only a busy machine did will not be there twice.
        bench.guest.detach()
        _record(report, f"kernel.{scenario.name}", bench.baseline(scenario, anew=True))
        _attach(bench.guest, ops_name)
        mine, complaints = _measure(bench, scenario, ops_name)
    _record(report, scenario.name, mine)
    for complaint in complaints:
        if complaint.severity == "error":
            raise LivenessRejected(scenario.name.replace("_", "-"), complaint.message, evidence=_kmsg(bench.guest))
        report.warnings.append(
            Finding(rule=f"liveness/{scenario.name.replace('_', '-')}", severity="warn", message=complaint.message)
        )


def _measure(bench: Bench, scenario: Scenario, ops_name: str) -> tuple[Numbers, list[Complaint]]:
    kernel = bench.baseline(scenario)
    try:
        mine = scenario.measure(bench.guest)
    except Stuck as error:
        _still_in_charge(bench.guest, ops_name, f"in scenario {scenario.name}")
        raise LivenessRejected("stuck", f"{scenario.name}: {error}", evidence=_kmsg(bench.guest)) from error
    except GuestError:
        _still_in_charge(bench.guest, ops_name, f"in scenario {scenario.name}")
        raise
    _still_in_charge(bench.guest, ops_name, f"in scenario {scenario.name}")
    return mine, list(scenario.judge(mine, kernel))


def _still_in_charge(guest: Guest, ops_name: str, when: str) -> None:
    status = guest.status()
    if status.runs(ops_name) and status.exit is None:
        return
    end = time.monotonic() + _LEAVING_S
    while status.exit is None and status.state in ("enabling", "disabling") and time.monotonic() < end:
        time.sleep(0.2)  # it is on its way out: the reason comes with the end
        status = guest.status()
    raise LivenessRejected(*_departure(status, when), evidence=_kmsg(guest))


def _departure(status: SchedExtStatus, when: str) -> tuple[str, str]:
    left = status.exit
    if left is None:
        return "gone", f"the scheduler is no longer in charge {when} (state {status.state or 'unknown'})"
    said = f"{left.reason}: {left.message}" if left.message else left.reason
    rule = {1026: "stall", 1025: "scx-error", 1024: "runtime-error"}.get(left.kind, "exit")
    return rule, f"the kernel threw the scheduler out {when}: {said}"


def _leave(guest: Guest, report: LivenessReport) -> None:
    """Detach, which must end on the kernel's own scheduler; and look through the log for what the kernel minded."""
    minded = [line for line in guest.kmsg() if _SOFT.search(line)]
    if minded:
        message = f"the kernel complained {len(minded)} times while it ran: {minded[0].strip()}"
        report.warnings.append(Finding(rule="liveness/kernel-log", severity="warn", message=message[:4096]))
    guest.detach()
    state = guest.status().state
    if state != "disabled":
        raise LivenessRejected("detach", f"after detaching the kernel is still {state}", evidence=_kmsg(guest))


def _record(report: LivenessReport, name: str, numbers: Numbers) -> None:
    report.figures.update({f"{name}.{key}": value for key, value in numbers.items()})


def _kmsg(guest: Guest) -> str:
    return "\n".join(guest.kmsg()[-80:])
