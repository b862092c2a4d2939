# SPDX-License-Identifier: Apache-2.0
"""What the benches of the templates share: the filled families, the loads, the scheduler in charge, and the results."""
