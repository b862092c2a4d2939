# SPDX-License-Identifier: Apache-2.0
"""The reporter: how a step says what it is doing. A reporter watches and never steers."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives progress; the CLI prints it on stderr when that is a terminal, the agent logs it."""

    def step(self, text: str) -> None:
        """Something began."""
        ...

    def done(self, text: str) -> None:
        """Something went well."""
        ...

    def failed(self, text: str) -> None:
        """Something did not."""
        ...


class Silent:
    """A reporter that says nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    def done(self, text: str) -> None:
        """Nothing."""

    def failed(self, text: str) -> None:
        """Nothing."""
