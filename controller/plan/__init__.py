# SPDX-License-Identifier: Apache-2.0
"""Plan: profile + intents + policy + templates → Proposal.

select    which planner decides: `propose`
rules     the offline planner, and the prior of the others
claude    one call of a model through the Messages API; prompt, messages and ledger serve it
testing   a Messages API endpoint on loopback for tests
"""

from controller.plan.select import propose

__all__ = ["propose"]
