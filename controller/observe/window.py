# SPDX-License-Identifier: Apache-2.0
"""One window of observation → WorkloadProfile: bcc where it can trace, /proc where it cannot, saying which and why."""

from __future__ import annotations

import os
from collections.abc import Sequence

from controller.api.base import now
from controller.api.intent import SchedulingIntent, sought_digest
from controller.api.profile import IntentMatch, WorkloadProfile
from controller.api.report import Reporter, Silent
from controller.errors import InputError
from controller.kernel import nodefacts
from controller.observe import facts, grouping, meters, procfs, selectors, tracer, workloadcgroups
from controller.observe.classify import classified
from controller.observe.sample import Observation, Unavailable

MIN_SECONDS, MAX_SECONDS = 0.01, 3600
_SILENT = Silent()
_BLIND = (
    "no histograms, wakeups, wake edges, run-queue depths, forks, execs or exits, migrations without cache and node, "
    "and short-lived tasks are unseen"
)


def profile(
    seconds: float,
    *,
    node: str | None = None,
    intents: Sequence[SchedulingIntent] = (),
    reporter: Reporter = _SILENT,
    force_procfs: bool = False,
    because: str = "reading /proc was asked for",
    probes: tracer.Probes | None = None,
) -> WorkloadProfile:
    """Watch this host for `seconds` and say what ran, by workload; returns when the window has closed.

    `probes` are kept from one window to the next; without them a window compiles its own. `node` is the name in the
    profile (the host's own otherwise); `intents` in order of precedence; `because` is why /proc is forced. Without
    root, bcc, kernel headers or BTF the figures come from /proc and `degraded` says what is missing and how to
    mend it.
    Raises InputError for a window that is not between 10 ms and an hour.
    """
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:  # NaN is in no range
        raise InputError(f"cannot observe for {seconds:g}s", remedy="give at least 10ms and at most 1h")
    observer, degraded, seen = _observe(seconds, reporter, because if force_procfs else "", probes)
    at = now()
    topology = nodefacts.node_topology()
    grouped = grouping.group(seen, intents, topology.cpus)
    result = WorkloadProfile(
        node=(node or os.uname().nodename)[:253],
        taken_at=at,
        window_ns=seen.window_ns,
        observer="bcc" if observer == "bcc" else "procfs",
        degraded=degraded,
        topology=topology,
        kernel=nodefacts.kernel(),
        abilities=facts.abilities(),
        pressure=facts.pressure(),
        workloads=classified(
            workloadcgroups.describe(grouped, seen.opened.cgroups, seen.closed.cgroups), seen.window_ns, topology.cpus
        ),
        matches=_matches(intents),
        sought=sought_digest(intents),
        cpus=meters.cpus(seen.opened, seen.closed, seen.depth),
        wake_edges=grouped.edges,
        dropped=seen.dropped,
    )
    reporter.done(f"observed {len(result.workloads)} workloads with {observer}")
    return result


def _observe(
    seconds: float, reporter: Reporter, why: str, probes: tracer.Probes | None
) -> tuple[str, str, Observation]:
    """The observer that worked, why it is not bcc, and what it saw."""
    if not why:
        reporter.step("compiling the probes")
        try:
            trace = probes.observe if probes is not None else tracer.observe
            traced = trace(seconds, ready=lambda: reporter.step(f"tracing for {seconds:g}s"))
        except Unavailable as error:
            why = str(error)
            reporter.failed(f"bcc cannot trace: {why}")
        else:
            return "bcc", "", traced
    sampled = procfs.observe(seconds, lambda: reporter.step(f"reading /proc for {seconds:g}s"))
    return "procfs", f"{why}; from /proc: {_BLIND} ({sampled.created} were created)"[:1024], sampled


def _matches(intents: Sequence[SchedulingIntent]) -> tuple[IntentMatch, ...]:
    return tuple(
        IntentMatch(intent=found.intent, tasks=len(found.tasks), unresolved=found.unresolved[:1024])
        for found in selectors.match(intents[: grouping.MOST])
    )
