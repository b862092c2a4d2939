# SPDX-License-Identifier: Apache-2.0
"""Campaign: one plan with everything that went into it, recorded so that anybody can make it again.

    campaign.json   version, plan key, inputs, when; the error when nothing was proposed
    profile.json, intents.json, policy.json, templates.json, past.json   what the planners were given
    measured.json   what was measured for mode search, in order
    model.json      who there was to ask, requests and answers in order, and what the clock said
    ledger.jsonl    what had been spent by then
    proposal.json, scheduler.bpf.c, scheduler.bpf.o, passport.json, evidence/   what came of it, raw trial data included
    drafting.json, draft/   where new templates may be written: what they were judged, and the one that passed

`replay` makes it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from controller import __version__, plan, verify
from controller.api import (
    Passport,
    Proposal,
    SchedulerPolicy,
    SchedulerTemplate,
    SchedulingIntent,
    WorkloadProfile,
    now,
)
from controller.errors import InputError
from controller.plan import tape
from controller.plan.drafting import Desk
from controller.plan.ledger import Ledger
from controller.plan.search.measure import Exchange, Recorder
from controller.plan.transport import Transport
from controller.reconcile import drafts

MAX_LEDGER_BYTES = 4 << 20


@dataclass
class Campaign:
    """What a planner is given, and, as it goes on, what was asked of a model and what came of it."""

    profile: WorkloadProfile
    intents: tuple[SchedulingIntent, ...]
    policy: SchedulerPolicy
    templates: tuple[SchedulerTemplate, ...]
    past: plan.Past = field(default_factory=plan.Past)
    key: str = ""
    tape: tape.Tape = field(default_factory=tape.Tape)
    bench: plan.Bench | None = None
    measured: list[Exchange] | None = None
    ledger: bytes = b""
    day: str = ""
    proposal: Proposal | None = None
    error: str = ""
    source: bytes | None = None
    object: bytes | None = None
    passport: Passport | None = None
    evidence: dict[str, bytes] = field(default_factory=dict)
    desk: Desk | None = None

    def propose(self, ledger: Ledger | None = None, transport: Transport | None = None) -> Proposal:
        """Plan, noting everything; `transport`, if given, is asked.

        Raises as plan.propose does; what it raised is noted too.
        """
        bench = self.bench
        if not self.tape.playing:
            self.ledger, self.day = _ledger(), f"{now():%Y-%m-%d}"
            if bench is not None and self.policy.spec.planner.mode == "search":
                self.measured = []
                bench = Recorder(bench, self.measured)
        with tape.opened(self.tape):
            try:
                self.proposal = plan.propose(
                    self.profile, self.intents, self.policy, self.templates, self.past,
                    transport=transport, ledger=ledger, desk=self.desk, bench=bench,
                )  # fmt: skip
            except InputError as error:
                self.error = str(error)
                raise
        return self.proposal

    def examined(self, examination: verify.Examination) -> None:
        """Take in what verification made of the proposal."""
        self.source, self.object = examination.source, examination.object
        self.passport, self.evidence = examination.passport, dict(examination.attachments)

    def files(self) -> dict[str, bytes]:
        """The files of its bundle."""
        about = {"schedctl": __version__, "planKey": self.key, "error": self.error, "day": self.day}
        made: dict[str, bytes] = {
            "campaign.json": _json(about),
            "profile.json": _json(self.profile.wire()),
            "intents.json": _json([i.wire() for i in self.intents]),
            "policy.json": _json(self.policy.model_copy(update={"status": None}).wire()),
            "templates.json": _json([t.wire() for t in self.templates]),
            "past.json": _json(_past_wire(self.past)),
            "model.json": _json(self.tape.contents().wire()),
            "ledger.jsonl": self.ledger,
        }
        if self.measured is not None:
            made["measured.json"] = _json([e.wire() for e in self.measured])
        made |= {"proposal.json": self.proposal.canonical()} if self.proposal is not None else {}
        made |= {"scheduler.bpf.c": self.source} if self.source is not None else {}
        made |= {"scheduler.bpf.o": self.object} if self.object is not None else {}
        made |= {"passport.json": self.passport.canonical()} if self.passport is not None else {}
        made |= drafts.files_of(self.desk)
        return made | {f"evidence/{name}": data for name, data in self.evidence.items()}


def _ledger() -> bytes:
    """What the ledger holds now, its end if it is long."""
    try:
        data = Ledger().path.read_bytes()
    except OSError:
        return b""
    return data if len(data) <= MAX_LEDGER_BYTES else data[-MAX_LEDGER_BYTES:].partition(b"\n")[2]


def _past_wire(past: plan.Past) -> dict[str, Any]:
    prior = past.prior
    told = None
    if prior is not None:
        told = {
            "revision": prior.revision, "proposal": prior.proposal.wire(), "distance": prior.distance,
            "names": dict(prior.names),
        }  # fmt: skip
    return {"inputs": past.inputs, "lessons": [one.wire() for one in past.lessons], "prior": told}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1).encode() + b"\n"
