# SPDX-License-Identifier: Apache-2.0
"""What bench/planner.py counts: dollars, what a model that refuses comes to, campaigns for a thousand nodes, planners
that race, and planners that are killed."""
