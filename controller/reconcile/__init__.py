# SPDX-License-Identifier: Apache-2.0
"""The loop: a pure `diff(desired, actual) → actions`, and executors that journal what they do.

`diff` decides, `node` and `planner` carry out their halves, `agent` runs them. Only this package strings the steps
together; the steps do not know each other.
"""
