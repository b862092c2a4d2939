# SPDX-License-Identifier: Apache-2.0
"""Plan: profile + intents + policy + templates → Proposal.

select    which planner decides: `propose`
rules     the offline planner, and the prior of the others
claude    roles that a model fills: observer, planner, executor, learner; values is what passes between them
prompt    what a model may be told; taint checks that it is told nothing else
messages  the Messages API; bridge asks by files instead; transport is what they have in common
ledger    what it costs
testing   a Messages API endpoint on loopback for tests
"""

from controller.plan.select import propose

__all__ = ["propose"]
