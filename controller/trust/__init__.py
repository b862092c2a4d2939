# SPDX-License-Identifier: Apache-2.0
"""Who may vouch for a scheduler: signing keys, and passports in signed envelopes."""
