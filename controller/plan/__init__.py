# SPDX-License-Identifier: Apache-2.0
"""Plan: profile + intents + policy + templates → Proposal.

select    which planner decides: `propose`
rules     the offline planner, and the prior of the others
claude    one call of a model through the Messages API; prompt, messages and ledger serve it
recall    committed revisions that fit a question: exact ones to take, near ones to start from
lookup    committed revisions found by words and by the distance of a load
learning  what a plan is told of the past: lessons of earlier attempts, and a prior
payback   what a plan cost, and what its scheduler saves
tape      what was asked of a model, recorded and played back
testing   a Messages API endpoint on loopback for tests
"""

from controller.plan.learning import Past
from controller.plan.select import propose

__all__ = ["Past", "propose"]
