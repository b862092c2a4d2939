# SPDX-License-Identifier: Apache-2.0
"""No malformed object passes the audit, breaks it or keeps it busy; the corpus is in tests/corpus/hostile_objects."""

from __future__ import annotations

import time

import pytest

from controller.errors import ToolMissing
from controller.verify.audit import AuditRejected, audit
from tests.conftest import missing
from tests.corpus.hostile_objects import CASES, fuzz, good_object

MUTATIONS = 10_000
"""About 5 s on two CPUs."""


@pytest.fixture(scope="module")
def good() -> bytes:
    try:
        return good_object()
    except ToolMissing as error:
        missing(error.message, error.remedy)


def test_the_object_they_are_made_from_is_good(good):
    assert audit(good).maps == ("m",)


@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_a_malformed_object_is_refused_in_a_sentence(make, good):
    image = make(good)
    begun = time.process_time()
    with pytest.raises(AuditRejected) as caught:
        audit(image)
    assert time.process_time() - begun < 10
    assert caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.evidence) <= 65536


def test_random_mutations_are_read_or_refused(good):
    said = fuzz(MUTATIONS, 20_000, (good,))
    assert said["bad"] == []
    assert said["passed"] + said["rejected"] == MUTATIONS
    assert said["rejected"] > MUTATIONS // 2
    assert said["peak_mib"] < 512
