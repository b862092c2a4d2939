# SPDX-License-Identifier: Apache-2.0
"""Twin: a profile → an rt-app document that does the same on the CPUs, and how near its replay comes to the original.

`rtapp` writes the document, `replay` runs one on this host and profiles it, `rehearse` does both for a profile, and
`fidelity` compares the two profiles by the features of their fingerprints. In the micro-VM the trial's workload `twin`
runs the same document.
"""

from controller.observe.twin.document import rtapp
from controller.observe.twin.fidelity import FeatureDifference, Fidelity, fidelity
from controller.observe.twin.replay import SETTLE_S, calibrate, rehearse, replay

__all__ = ["SETTLE_S", "FeatureDifference", "Fidelity", "calibrate", "fidelity", "rehearse", "replay", "rtapp"]
