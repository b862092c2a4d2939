# SPDX-License-Identifier: Apache-2.0
"""A proposal beside the kernel's own scheduler in a real guest, which stays for the next one."""

from __future__ import annotations

import pytest

from bench.kit import contenders
from bench.kit.beside import Beside, Stays
from bench.kit.scenarios import SCENARIOS
from controller.errors import ToolMissing
from controller.kernel import clang, leftovers
from controller.kernel.images import KernelImage, release_of
from controller.verify.trial import workloads
from tests.conftest import missing
from tests.kernel.conftest import kernel_image


@pytest.mark.kernel
def test_blocks_are_paired_and_the_guest_stays_for_the_next_proposal(monkeypatch):
    try:
        clang.find()
    except ToolMissing as error:
        missing(str(error))
    monkeypatch.setattr(workloads, "RUN_S", 0.08)
    path = kernel_image("newest")
    kernel = KernelImage(release_of(path), path, "file")
    scenario = SCENARIOS["messages"]
    proposal = contenders.by_rules(scenario, kernel.release, 2)
    before = set(leftovers._undo)
    with Beside(scenario.trial, kernel, 2) as beside:
        found = beside.blocks(proposal, 2, "one")
        guest = beside._kept.guest
        assert guest is not None
        assert set(found) == {scenario.trial.objective, *(rail.key for rail in scenario.trial.guardrails)}
        for blocks in found.values():
            assert [[len(side) for side in block] for block in blocks] == [[2, 2]] * 2
            assert all(value > 0 for block in blocks for side in block for value in side)
        with pytest.raises(Stays, match=r"^schema: |^render: "):
            beside.blocks(proposal.model_copy(update={"template_digest": "sha256:" + "0" * 64}), 1, "one")
        beside.blocks(proposal, 1, "two")
        assert beside._kept.guest is guest
    assert beside._kept.guest is None
    assert set(leftovers._undo) == before
