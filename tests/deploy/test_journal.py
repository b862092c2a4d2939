# SPDX-License-Identifier: Apache-2.0
"""The journal survives the agent, and a damaged one errs on the side of safety."""

from __future__ import annotations

from controller.api import Quarantined
from controller.deploy import is_held, release
from controller.deploy.deployment import Deployment
from controller.deploy.journal import Journal
from tests.builders import BTF, T0, digest


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
        journal.event("Normal", "Tick", f"{number}")
        journal.event("Normal", "Tick", f"{number}")
    assert [e.message for e in journal.entries.events] == [str(n) for n in range(150, 200)]


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
