# SPDX-License-Identifier: Apache-2.0
"""The journal survives the agent, and a damaged one errs on the side of safety."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.api import Passport, Quarantined, Verdict
from controller.deploy import Admitted, is_held, release
from controller.deploy.deployment import Deployment
from controller.deploy.journal import Journal, Record
from controller.errors import KernelError
from tests.builders import BTF, T0, digest, intent, policy, revision
from tests.templates import cases


def entry(letter: str) -> Quarantined:
    return Quarantined(
        object_digest=digest(letter), btf_digest=BTF, passport_digest=digest("d"), reason="stalled", at=T0
    )


def test_quarantine_and_events_survive_a_restart(tmp_path):
    journal = Journal(tmp_path)
    journal.quarantine(entry("1"))
    journal.quarantine(entry("2"))
    journal.event("Warning", "Quarantined", "one")
    again = Journal(tmp_path)
    assert [q.object_digest for q in again.entries.quarantine] == [digest("1"), digest("2")]
    assert [e.message for e in again.entries.events] == ["one"]


def test_repeated_events_are_written_once_and_the_list_is_bounded(tmp_path):
    journal = Journal(tmp_path)
    for number in range(200):
        journal.event("Normal", f"Tick{number % 7}", f"{number}")
        journal.event("Normal", f"Tick{number % 7}", f"{number}")
    assert [e.message for e in journal.entries.events] == [str(n) for n in range(150, 200)]


def test_events_of_a_load_that_goes_to_and_fro_leave_the_others(tmp_path):
    journal = Journal(tmp_path)
    journal.event("Normal", "Attached", "a")
    for number in range(100):
        for reason in ("LoadChanged", "LoadReturned"):
            journal.event("Normal", reason, f"{number}")
    journal.event("Normal", "Promoted", "a")
    events = journal.entries.events
    assert [e.reason for e in events] == ["Attached", *("LoadChanged", "LoadReturned") * 10, "Promoted"]
    assert [e.message for e in events[1:-1]] == [str(n) for n in range(90, 100) for _ in range(2)]
    assert [e.at for e in events] == sorted(e.at for e in events)


def test_an_unreadable_journal_is_kept_aside_and_holds_the_node(tmp_path):
    (tmp_path / "journal.json").write_text('{"attached": 7')
    deployment = Deployment(tmp_path)
    assert is_held(tmp_path)
    assert deployment.actual().ejected
    assert (tmp_path / "journal.unreadable").read_text() == '{"attached": 7'
    assert deployment.events[-1].reason == "JournalUnreadable"
    assert release(tmp_path)
    assert not Deployment(tmp_path).actual().ejected


def test_a_half_written_journal_is_never_seen(tmp_path):
    journal = Journal(tmp_path)
    journal.event("Normal", "Attached", "x")
    (tmp_path / "journal.new").write_text("{half")
    assert Journal(tmp_path).entries.events[-1].message == "x"


def attached(**changes: object) -> Record:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record = Record(
        revision="a", object_digest=digest("1"), passport_digest=digest("2"), ops_name="schedctl_gone", since=T0,
        phase="Promoted", boot_id=boot_id, code=digest("c"), knobs="00",
    )  # fmt: skip
    return record.model_copy(update=changes)


def test_an_agent_that_died_with_the_scheduler_while_it_changed_knobs_is_to_blame_and_not_the_scheduler(tmp_path):
    Journal(tmp_path).update(attached=attached(tuning="b"))
    died = Deployment(tmp_path, pins=tmp_path / "pins").actual().died
    assert died is not None
    assert (died.revision, died.fault) == ("a", "Agent")


def test_a_promoted_scheduler_that_is_gone_without_a_change_of_knobs_was_taken_away_by_somebody(tmp_path):
    Journal(tmp_path).update(attached=attached())
    died = Deployment(tmp_path, pins=tmp_path / "pins").actual().died
    assert died is not None
    assert died.fault == "Operator"


def test_knobs_of_other_code_are_never_written(tmp_path):
    Journal(tmp_path).update(attached=attached())
    deployment = Deployment(tmp_path, pins=tmp_path / "pins")
    other = cases.compiled("weighted-fair", *cases.mixed(1)).object
    plain = Passport(
        verdict=Verdict.PASS, object_digest=digest("1"), ops_name="x", stages=(), kernels=(), issued_at=T0,
        expires_at=T0,
    )  # fmt: skip
    with pytest.raises(KernelError, match="is not the code that is loaded"):
        deployment.tune(Admitted(revision("b", policy(), (intent(),)), other, plain), {})
    assert Journal(tmp_path).entries.attached == attached()
