# SPDX-License-Identifier: Apache-2.0
"""The key of the Messages API, taken out of the environment before anything is started.

A program inherits the environment of the one that starts it, and git hands it on to ssh and to credential helpers. So
`schedctl` takes the key away first thing, whatever the verb, and holds it for the planner. This module uses the
standard library alone: every verb imports it.
"""

from __future__ import annotations

import os

VARIABLE = "ANTHROPIC_API_KEY"

_held = ""


def hold() -> str:
    """Take the key, if there is one, out of the environment; what is held then ("": none).

    What this process starts from now on does not get it.
    """
    global _held
    _held = os.environ.pop(VARIABLE, "").strip() or _held
    return _held


def forget() -> None:
    """Hold no key any more."""
    global _held
    _held = ""
