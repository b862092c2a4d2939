# SPDX-License-Identifier: Apache-2.0
"""Deployment: the one object that touches this node's kernel on behalf of the agent.

Life of a scheduler here: everything is made ready, the old one is detached (sched_ext has no atomic replace, so the
node spends a moment on the kernel's own scheduler), the new one is attached and held by this process alone (probation:
if the agent dies the kernel falls back at once), and after probation its link is pinned in bpffs under its ops name
(promotion: the agent may restart, the scheduler stays, the next agent adopts it). `onAgentExit: detach` never pins.

Nothing is believed that the kernel does not say: `actual` reads sysfs and the kernel log each time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from controller.api import Attachment, NodeEvent, Quarantined, now
from controller.deploy import eject as ejecting
from controller.deploy.actual import Actual, Death
from controller.deploy.gate import Admitted
from controller.deploy.journal import Journal, Record
from controller.errors import KernelError, LoadRefused
from controller.kernel import loader, nodefacts, schedext

CGROUP_MAP = "schedctl_cgroups"
"""BPF map of our templates: cgroup id (u64) → one bit a class (four u64); bpf/include/schedctl.bpf.h."""
CONTROL_MAP = "schedctl_control"
"""BPF map whose one u64 is counted up to have every task matched anew."""
Cgroups = Mapping[int, Collection[int]]
"""cgroup id → numbers of the classes that its tasks may belong to."""


class Deployment:
    """This kernel. Holds the link of a scheduler on probation; close() drops it."""

    def __init__(self, state: Path, *, pins: Path = ejecting.PINS) -> None:
        self._state = state
        self._pins = pins
        self._journal = Journal(state)
        self._live: loader.Scheduler | None = None
        self._kernel = nodefacts.kernel()
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        if self._journal.unreadable:
            ejecting.hold_file(state).write_text(self._journal.unreadable + "\n")
            self._journal.event("Warning", "JournalUnreadable", self._journal.unreadable)
        record = self._journal.entries.attached
        if record is not None and record.boot_id != self._boot_id:
            self._journal.update(attached=None)

    @property
    def events(self) -> tuple[NodeEvent, ...]:
        """What happened here, oldest first."""
        return self._journal.entries.events

    def event(self, kind: str, reason: str, message: str) -> None:
        """Remember that something happened."""
        self._journal.event("Warning" if kind == "Warning" else "Normal", reason, message)

    def actual(self) -> Actual:
        """What the kernel says now."""
        state = schedext.state() or "unsupported"
        ops = schedext.ops_name()
        entries = self._journal.entries
        record = entries.attached
        ours = record is not None and state == "enabled" and ops == record.ops_name
        pinned = bool(ops) and (self._pins / ops / "link").exists()
        attached = None
        if state == "enabled" and record is not None and ours:
            phase = "Promoted" if record.phase == "Promoted" else "Probation"
            attached = Attachment(
                ops_name=ops,
                revision=record.revision,
                object_digest=record.object_digest,
                since=record.since,
                phase=phase,
            )
        elif state == "enabled":
            attached = Attachment(ops_name=ops, since=now(), phase="Foreign")
        return Actual(
            kernel=self._kernel,
            topology=nodefacts.node_topology(),
            state=state,
            attached=attached,
            pinned=pinned,
            died=self._death(record) if record is not None and not ours else None,
            ejected=ejecting.is_held(self._state),
            last_good=entries.last_good,
            quarantine=entries.quarantine,
        )

    def attach(self, admitted: Admitted, cgroups: Cgroups) -> None:
        """Put the revision on probation. KernelError if the kernel would not run it; then nothing of ours is attached.

        `cgroups` is what the node knows of its cgroups. The object is loaded before the old scheduler goes, so
        that a refusal costs nothing.
        """
        spec = admitted.revision.spec
        fresh = loader.Scheduler.load(admitted.object)
        try:
            _fill(fresh, cgroups)
        except BaseException:
            fresh.close()
            raise
        self._drop_current()
        self._remember(admitted, "Attaching")
        try:
            fresh.attach()
        except BaseException:
            fresh.close()
            self._journal.update(attached=None)
            raise
        self._live = fresh
        self._remember(admitted, "Probation")
        self._journal.event("Normal", "Attached", f"{admitted.revision.name} ({spec.ops_name}) is on probation")

    def promote(self, *, pin: bool) -> None:
        """End the probation; with `pin` the scheduler outlives this process."""
        record = self._journal.entries.attached
        if record is None or self._live is None:
            raise KernelError("there is no scheduler on probation to promote")
        if pin:
            self._pins.mkdir(parents=True, exist_ok=True)
            self._live.pin(self._pins / record.ops_name)
        self._journal.update(
            attached=record.model_copy(update={"phase": "Promoted"}),
            last_good=record.revision,
        )
        how = "pinned; it outlives the agent" if pin else "kept by the agent alone (onAgentExit: detach)"
        self._journal.event("Normal", "Promoted", f"{record.revision} passed its probation and is {how}")

    def detach(self, reason: str) -> None:
        """Back to the kernel's own scheduler, on purpose. Does nothing when nothing of ours is attached."""
        record = self._journal.entries.attached
        self._drop_current()
        self._journal.update(attached=None)
        if record is not None:
            self._journal.event("Normal", "Detached", f"{record.revision}: {reason}")

    def bury(self, death: Death) -> None:
        """Take note that a scheduler died; quarantine its digest if that was its own fault."""
        self._drop_current()
        self._journal.update(attached=None)
        self._journal.event("Warning", f"{death.fault}Exit", f"{death.revision}: {death.reason}")
        if death.fault == "Scheduler" and self._kernel.btf_digest is not None:
            self.quarantine(death.object_digest, death.passport_digest, death.reason)

    def quarantine(self, object_digest: str, passport_digest: str, reason: str) -> None:
        """Never attach this digest here again without a new passport."""
        if self._kernel.btf_digest is None:
            return
        entry = Quarantined(
            object_digest=object_digest,
            btf_digest=self._kernel.btf_digest,
            passport_digest=passport_digest,
            reason=reason,
            at=now(),
        )
        self._journal.quarantine(entry)
        self._journal.event("Warning", "Quarantined", f"{object_digest[:19]}: {reason}")

    def refresh_cgroups(self, cgroups: Cgroups) -> None:
        """Tell the attached scheduler which cgroups belong to which class now; an adopted one through its pins."""
        record = self._journal.entries.attached
        if not cgroups or record is None:
            return
        if self._live is not None:
            _fill(self._live, cgroups)
        elif (self._pins / record.ops_name / loader.LINK_NAME).exists():
            with loader.adopt(self._pins / record.ops_name) as pinned:
                _fill(pinned, cgroups)

    def close(self) -> None:
        """Let go. A scheduler on probation goes with us, a promoted one stays pinned."""
        if self._live is not None:
            self._live.close()
            self._live = None

    def _remember(self, admitted: Admitted, phase: str) -> None:
        spec = admitted.revision.spec
        record = Record(
            revision=admitted.revision.name,
            object_digest=spec.digests.object,
            passport_digest=spec.digests.passport,
            ops_name=spec.ops_name,
            since=now(),
            phase="Probation" if phase == "Probation" else "Attaching",
            boot_id=self._boot_id,
        )
        self._journal.update(attached=record)

    def _drop_current(self) -> None:
        # On 6.12 dropping the link of an already dead scheduler kills its successor: all old links go first.
        if self._live is not None:
            self._live.detach()
            self._live.close()
            self._live = None
        loader.eject_all(self._pins)

    def _death(self, record: Record) -> Death | None:
        """Why the scheduler that the journal calls attached is not."""
        reader = schedext.KmsgReader(from_start=True)
        try:
            left = schedext.parse_exit(reader.lines(), record.ops_name)
        finally:
            reader.close()
        if left is not None and (left.is_error or left.kind_name == "SCX_EXIT_SYSRQ"):
            fault, reason = "Scheduler", f"{left.reason}: {left.message}".rstrip(": ")
        elif self._live is None and record.phase != "Promoted":
            fault, reason = "Agent", "the agent went away during probation, and the kernel fell back"
        else:
            fault, reason = "Operator", (left.reason if left else "") or "it is no longer attached"
        return Death(
            revision=record.revision,
            object_digest=record.object_digest,
            passport_digest=record.passport_digest,
            fault=fault,
            reason=reason,
        )


def why_refused(error: KernelError) -> str:
    """One line of an attach failure: the last line of a verifier log says what the kernel minded."""
    if isinstance(error, LoadRefused) and error.log:
        lines = [line.strip() for line in error.log.splitlines() if line.strip()]
        return f"{error.message}: {lines[-1][:300]}" if lines else error.message
    return error.message


def _fill(scheduler: loader.Scheduler | loader.Pinned, cgroups: Cgroups) -> None:
    """Write the rows, then have tasks matched anew. Rows of cgroups that are gone do no harm."""
    for cgroup_id, numbers in cgroups.items():
        bits = sum(1 << number for number in numbers)
        scheduler.map_update(CGROUP_MAP, cgroup_id.to_bytes(8, "little"), bits.to_bytes(32, "little"))
    if cgroups:
        first = bytes(4)
        seen = int.from_bytes(scheduler.map_lookup(CONTROL_MAP, first) or b"", "little")
        scheduler.map_update(CONTROL_MAP, first, ((seen + 1) % (1 << 64)).to_bytes(8, "little"))
