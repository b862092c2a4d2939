# SPDX-License-Identifier: Apache-2.0
"""Resume: a proposal that was paid for and could not be judged is verified again, and nobody is asked a second time.

An attempt that ended as Error says nothing about its candidate (no kernel image, a guest that died). Its campaign is in
the state folder, so the next attempt with the same inputs goes on with its proposal. What the rules propose costs
nothing and is made anew, from what is measured now.
"""

from __future__ import annotations

from controller.api import PlanOutcome, Proposal
from controller.errors import SchedctlError
from controller.plan import Past
from controller.reconcile import bundle
from controller.reconcile.diff import PlanTask
from controller.reconcile.record import Campaign
from controller.reconcile.replay import campaign_of


def kept(before: PlanOutcome | None, task: PlanTask, past: Past) -> Campaign | None:
    """The campaign to go on with, its proposal in it; None where there is none, or it is not whole any more."""
    if before is None or (before.outcome, before.inputs) != ("Error", task.inputs) or before.campaign is None:
        return None
    try:
        read = bundle.read(bundle.find(before.campaign))
        campaign = campaign_of(read.files)
        proposal = bundle.value(read.files, "proposal.json", Proposal)
    except SchedctlError:
        return None
    named = {t.name for t in campaign.templates}
    whole = not read.problems and campaign.key == task.key and proposal.template in named
    if not whole or proposal.planner.name == "rules" or past.was_refused(proposal):
        return None
    campaign.proposal = proposal
    return campaign
