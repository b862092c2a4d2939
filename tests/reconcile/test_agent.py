# SPDX-License-Identifier: Apache-2.0
"""When `agent run --once` may end."""

from __future__ import annotations

from controller.reconcile.agent import _unfinished
from tests.builders import actual, attachment, revision, source
from tests.reconcile.test_diff_node import INTENT, POLICY, WANTED, decide, quarantined


def test_once_waits_for_a_probation_also_after_a_roll_back():
    newer = revision("default-2", POLICY, (INTENT,), made=10, object_="1")
    bad = {"quarantine": (quarantined("1"),), "last_good": "default-1"}
    sources = source(POLICY, INTENT, WANTED, newer)
    assert _unfinished(decide(sources, actual(**bad, attached=attachment(WANTED, "Probation"))))
    assert not _unfinished(decide(sources, actual(**bad, attached=attachment(WANTED, "Promoted"))))


def test_once_does_not_wait_for_what_others_owe():
    assert not _unfinished(decide(source(POLICY, INTENT), actual()))
    assert not _unfinished(decide(source(POLICY, INTENT, WANTED), actual(ejected=True)))
    assert _unfinished(decide(source(POLICY, INTENT, WANTED), actual()))
    assert not _unfinished(None)
