# SPDX-License-Identifier: Apache-2.0
"""A `git` first in PATH that notes how it was called and with which environment, and is git otherwise."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def git(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of its notes: `# git ARGUMENTS` and the environment, of each call."""
    real = shutil.which("git")
    assert real is not None
    notes, programs = folder / "environments", folder / "bin"
    programs.mkdir()
    (programs / "git").write_text(f'#!/bin/sh\n{{ echo "# git $*"; env; }} >> {notes}\nexec {real} "$@"\n')
    (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return notes
