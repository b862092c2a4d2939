# SPDX-License-Identifier: Apache-2.0
"""Deployment: the one object that touches this node's kernel on behalf of the agent.

Life of a scheduler here: everything is made ready, the old one is detached (sched_ext has no atomic replace, so the
node spends a moment on the kernel's own scheduler), the new one is attached and held by this process alone (probation:
if the agent dies the kernel falls back at once), and after probation its link is pinned in bpffs under its ops name
(promotion: the agent may restart, the scheduler stays, the next agent adopts it). `onAgentExit: detach` never pins.

A revision that differs from the attached one in live knobs alone is not attached: its knobs are written into the map of
the scheduler that runs (`tune`), which is on probation again, held by this process alone, without a moment on the
kernel's own scheduler. The kernel goes on showing the name under which the object was loaded.

Nothing is believed that the kernel does not say: `actual` reads sysfs and the kernel log each time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from controller.api import Attachment, ExitReport, NodeEvent, Pulse, Quarantined, now
from controller.deploy import eject as ejecting
from controller.deploy import records
from controller.deploy.actual import Actual, Death
from controller.deploy.gate import Admitted
from controller.deploy.journal import Journal, Record
from controller.errors import InputError, KernelError, LoadRefused
from controller.kernel import knobs, loader, nodefacts, schedext

CGROUP_MAP = "schedctl_cgroups"
"""BPF map of our templates: cgroup id (u64) → one bit a class (four u64); bpf/include/schedctl.bpf.h."""
_FIRST = bytes(4)
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
        self._live: loader.Scheduler | loader.Pinned | None = None
        self._kernel = nodefacts.kernel()
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        if self._journal.unreadable:
            ejecting.hold_file(state).write_text(self._journal.unreadable + "\n")
            self._journal.event("Warning", "JournalUnreadable", self._journal.unreadable)
        record = self._journal.entries.attached
        if record is not None and record.boot_id != self._boot_id:
            self._journal.update(attached=None)
        elif record is not None and record.tuning is not None:
            self._untune(record)

    @property
    def last_exit(self) -> ExitReport | None:
        """Why a scheduler of ours ended unasked, the last time."""
        return self._journal.entries.last_exit

    def pulse(self) -> Pulse | None:
        """Whether the attached scheduler decides: how often so far, and how long ago. Cheap: one lookup in a map."""
        record = self._journal.entries.attached
        if record is None or schedext.ops_name() != record.ops_name:
            return None
        with self._maps(record) as maps:
            return records.pulse(maps) if maps is not None else None

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
                loaded=record.loaded,
            )
        elif state == "enabled":
            attached = Attachment(ops_name=ops, since=now(), phase="Foreign")
        return Actual(
            kernel=self._kernel,
            topology=nodefacts.node_topology(),
            state=state,
            attached=attached,
            pinned=pinned,
            code=record.code if record is not None and ours else "",
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
            self._tell(fresh, cgroups)
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

    def tune(self, admitted: Admitted, cgroups: Cgroups) -> None:
        """Write the knobs of `admitted` into the attached scheduler, and put it on probation with them.

        KernelError, with the old knobs in force, when it is not the same code or the map cannot be written. The journal
        is written before the map, so that an agent that dies in between is followed by one that puts the old values
        back (while the scheduler is still pinned) or finds that the kernel fell back (after that).
        """
        record = self._journal.entries.attached
        code, image = knobs.code_digest(admitted.object), knobs.image(admitted.object)
        if record is None or not code or record.code != code:
            raise KernelError(f"{admitted.revision.name} is not the code that is loaded", remedy="attach it instead")
        self._hold(record)
        assert self._live is not None
        self._journal.update(attached=record.model_copy(update={"tuning": admitted.revision.name}))
        try:
            self._live.map_update(knobs.MAP, _FIRST, image)
            self._tell(self._live, cgroups)
        except BaseException:
            self._untune(record)
            raise
        self._live.unpin()
        self._remember(admitted, "Probation", loaded=record)
        was, name = record.revision, admitted.revision.name
        self._journal.event("Normal", "Tuned", f"{name}: its knobs took the place of those of {was}, without a detach")

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
        record = self._journal.entries.attached
        report = None
        if record is not None:
            with self._maps(record) as maps:
                report = records.exit_report(maps, death.revision) if maps is not None else None
        self._drop_current()
        self._journal.update(attached=None)
        if report is not None and death.fault == "Scheduler":
            self._journal.update(last_exit=report)
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
        if record is None:
            return
        with self._maps(record) as maps:
            if maps is not None:
                self._tell(maps, cgroups)

    def _tell(self, scheduler: loader.Scheduler | loader.Pinned, cgroups: Cgroups) -> None:
        left_out = fill(scheduler, cgroups)
        if left_out:
            message = f"{left_out} cgroups are too many for the scheduler: tasks there go by the cgroups around them"
            self._journal.event("Warning", "CgroupsLeftOut", message)

    def close(self) -> None:
        """Let go. A scheduler on probation goes with us, a promoted one stays pinned."""
        if self._live is not None:
            self._live.close()
            self._live = None

    @contextlib.contextmanager
    def _maps(self, record: Record) -> Iterator[loader.Scheduler | loader.Pinned | None]:
        """The maps of the attached scheduler, or of one that was until now; None when nothing holds them."""
        if self._live is not None:
            yield self._live
        elif (self._pins / record.ops_name / loader.LINK_NAME).exists():
            with loader.adopt(self._pins / record.ops_name) as pinned:
                yield pinned
        else:
            yield None

    def _hold(self, record: Record) -> None:
        """Have this process hold the attached scheduler's link, beside its pin."""
        if self._live is None:
            self._live = loader.adopt(self._pins / record.ops_name)

    def _untune(self, record: Record) -> None:
        """Put back the knobs that were in force before a change that did not come to its end."""
        if self._live is None and not (self._pins / record.ops_name / loader.LINK_NAME).exists():
            return  # the link died with the agent: `_death` says so
        try:
            with self._maps(record) as maps:
                assert maps is not None
                maps.map_update(knobs.MAP, _FIRST, bytes.fromhex(record.knobs))
        except (KernelError, InputError, ValueError) as error:
            self.detach(f"its knobs are half changed and cannot be put back: {error}")
            return
        self._journal.update(attached=record.model_copy(update={"tuning": None}))
        message = f"a change of the knobs was not finished; those of {record.revision} are in force again"
        self._journal.event("Warning", "KnobsRestored", message)

    def _remember(self, admitted: Admitted, phase: str, *, loaded: Record | None = None) -> None:
        """Journal it as attached; `loaded`: into the scheduler of that record."""
        spec = admitted.revision.spec
        record = Record(
            revision=admitted.revision.name,
            object_digest=spec.digests.object,
            passport_digest=spec.digests.passport,
            ops_name=loaded.ops_name if loaded is not None else spec.ops_name,
            since=now(),
            phase="Probation" if phase == "Probation" else "Attaching",
            boot_id=self._boot_id,
            code=knobs.code_digest(admitted.object),
            knobs=knobs.image(admitted.object).hex(),
            loaded=(loaded.loaded or loaded.revision) if loaded is not None else None,
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
        elif self._live is None and (record.phase != "Promoted" or record.tuning is not None):
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


def fill(scheduler: loader.Scheduler | loader.Pinned, cgroups: Cgroups) -> int:
    """Make these the rows of the scheduler's table of cgroups, and have tasks matched anew where that changes it.

    Rows of cgroups that are gone go first, so that a node where they come and go never fills the table. Of more than it
    holds the oldest are kept: ids only grow, so a cgroup is older than those below it, and a task is matched by
    the cgroups around its own too. Returns how many did not fit.
    """
    if CGROUP_MAP not in scheduler.maps and not cgroups:
        return 0  # it asks for no cgroup, or is none of our templates
    table = scheduler.map(CGROUP_MAP)
    wanted = {
        cgroup_id.to_bytes(8, "little"): sum(1 << number for number in numbers).to_bytes(32, "little")
        for cgroup_id, numbers in sorted(cgroups.items())[: table.max_entries]
    }
    gone = [key for key in table.all_keys() if key not in wanted]
    changed = {key: row for key, row in wanted.items() if table.lookup(key) != row}
    for key in gone:
        table.delete(key)
    for key, row in changed.items():
        table.update(key, row)
    if gone or changed:
        seen = int.from_bytes(scheduler.map_lookup(CONTROL_MAP, _FIRST) or b"", "little")
        scheduler.map_update(CONTROL_MAP, _FIRST, ((seen + 1) % (1 << 64)).to_bytes(8, "little"))
    return len(cgroups) - len(wanted)
