# SPDX-License-Identifier: Apache-2.0
"""Verify: C text or a BPF object → Passport, by stages that end at the first failure.

lint        rules on the C text             build       clang in a sandbox
audit       what the object holds           load        the target kernel's BPF verifier, in a micro-VM
liveness    everything keeps running        trial       better for the objective, no worse for the rest
examine     the stages in order, and their passport
"""

from controller.verify.candidate import Candidate
from controller.verify.examine import Examination, examine
from controller.verify.trial import TrialSpec, spec_for

__all__ = ["Candidate", "Examination", "TrialSpec", "examine", "spec_for"]
