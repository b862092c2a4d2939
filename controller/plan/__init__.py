# SPDX-License-Identifier: Apache-2.0
"""Plan: profile + intents + policy + templates → Proposal.

select    which planner decides: `propose`
rules     the offline planner, and the prior of the others
search    the offline planner that measures, by a bench that is handed in
claude    roles that a model fills: observer, planner, executor, learner, author; values is what passes between them
prompt    what a model may be told; taint checks that it is told nothing else
drafting  what it wrote as a new template, held to what a person may be asked to review
messages  the Messages API; bridge asks by files instead; transport is what they have in common
ledger    what it costs
recall    committed revisions that fit a question: exact ones to take, near ones to start from
lookup    committed revisions found by words and by the distance of a load
learning  what a plan is told of the past: lessons of earlier attempts, and a prior
payback   what a plan cost, and what its scheduler saves
tape      what was asked of a model, recorded and played back
testing   a Messages API endpoint on loopback for tests
"""

from controller.plan.learning import Past
from controller.plan.search.measure import Bench
from controller.plan.select import insist, propose

__all__ = ["Bench", "Past", "insist", "propose"]
