# SPDX-License-Identifier: Apache-2.0
"""revision ↔ this kernel: admit, attach, probation, pin, guard, eject.

`gate.admit` decides whether a committed revision may be attached here (DESIGN rule 1). `Deployment` is the only thing
that touches the kernel: it reports what the kernel says (`actual`), and attaches, promotes and detaches. `journal`
is what must survive the agent: what was attached, what is quarantined, what happened. `eject` needs none of them.
"""

from controller.deploy.actual import Actual
from controller.deploy.deployment import Deployment
from controller.deploy.eject import eject, is_held, release
from controller.deploy.gate import Admitted, admit, prove

__all__ = ["Actual", "Admitted", "Deployment", "admit", "eject", "is_held", "prove", "release"]
