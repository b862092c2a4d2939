# SPDX-License-Identifier: Apache-2.0
"""A key in the environment reaches no git. `schedctl` has taken it away before; another program need not."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller import apikey
from controller.source import GitStore
from tests import noting
from tests.source.conftest import Git

KEY = "sk-ant-authored-key-4711"


def test_neither_our_git_nor_gitpython_s_gets_the_key(
    repo: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = GitStore(repo.folder)
    monkeypatch.setenv(apikey.VARIABLE, KEY)
    notes = noting.git(tmp_path, monkeypatch)
    assert store.read().reason == "Verified"
    noted = notes.read_text()
    assert "# git cat-file --batch" in noted, "GitPython's"
    assert "# git --git-dir=" in noted, "ours"
    assert KEY not in noted
