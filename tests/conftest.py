# SPDX-License-Identifier: Apache-2.0
"""What every test shares: a missing tool is named, and under CI=true it is a failure, never a silent skip."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import hypothesis
import pytest

from controller import apikey
from tests.again import pytest_runtest_makereport, pytest_runtest_protocol

__all__ = ["missing", "pytest_runtest_makereport", "pytest_runtest_protocol"]

# On a busy machine any single example can take long: time decides no test.
hypothesis.settings.register_profile("schedctl", deadline=None)
hypothesis.settings.load_profile("schedctl")


def missing(what: str, remedy: str = "make setup") -> NoReturn:
    """Skip naming `what`; fail instead when CI=true, where everything must be there."""
    text = f"missing: {what}; mend it with: {remedy}"
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(autouse=True)
def _no_key_is_left() -> Iterator[None]:
    """A planner holds the key that it took out of the environment: the next test has none."""
    yield
    apikey.forget()
