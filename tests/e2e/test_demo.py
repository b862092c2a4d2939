# SPDX-License-Identifier: Apache-2.0
"""The demo is a test: it fails by itself if one of the things it shows does not happen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from controller.errors import ToolMissing
from controller.kernel import images, qemu
from tests.conftest import missing

pytestmark = pytest.mark.kernel
DEMO = Path(__file__).parents[2] / "scripts" / "demo.py"


def test_the_demo_shows_everything_and_leaves_nothing():
    try:
        images.resolve("newest")
        qemu.find()
    except ToolMissing as error:
        missing(str(error), error.remedy)
    before = _machines()
    done = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    for shown in ("enabled", "Stalled=True NoPlan", "all of it happened"):
        assert shown in done.stdout
    assert _machines() <= before, "a virtual machine was left behind"


def _machines() -> set[str]:
    """Process ids of virtual machines of the demo."""
    listed = subprocess.run(["pgrep", "-f", "schedctl-demo-"], capture_output=True, text=True, check=False).stdout
    return set(listed.split())
