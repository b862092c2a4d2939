# SPDX-License-Identifier: Apache-2.0
"""How a question gets to whoever answers it: the Messages API, the file bridge, or a recording of either.

A transport takes the arguments of `messages.create` and gives a Reply; it neither makes nor judges them. What it is
given has passed the taint check (controller.plan.taint).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from controller.plan import messages
from controller.plan.messages import Reply, Settings


class Transport(Protocol):
    """Asks. `model` is the one that answers whatever the role, "" if the roles choose; `billed`: a call costs us money;
    `patience_s`: how long an answer may take, None for what is usual for the role.
    """

    @property
    def model(self) -> str: ...

    @property
    def billed(self) -> bool: ...

    @property
    def patience_s(self) -> float | None: ...

    def send(self, role: str, request: Mapping[str, Any], timeout_s: float) -> Reply:
        """The answer, within `timeout_s`. Raises messages.CallFailed."""
        ...


@dataclass(frozen=True)
class Api:
    """The Messages API."""

    settings: Settings
    billed: bool = True
    patience_s: float | None = None

    @property
    def model(self) -> str:
        """The one pinned by the environment, if any."""
        return self.settings.model

    def send(self, role: str, request: Mapping[str, Any], timeout_s: float) -> Reply:  # noqa: ARG002 - is in the request
        """As `messages.send`."""
        return messages.send(self.settings, request, timeout_s)
