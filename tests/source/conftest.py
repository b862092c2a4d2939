# SPDX-License-Identifier: Apache-2.0
"""Policy repositories made with the git program itself, as their users make them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

INTENT = """\
apiVersion: schedctl.dev/v1alpha1
kind: SchedulingIntent
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  workload: {{comm: ["{name}"]}}
  objective: {{metric: wakeupLatency, goal: minimize}}
  weight: {weight}
"""

POLICY = """\
apiVersion: schedctl.dev/v1alpha1
kind: SchedulerPolicy
metadata: {name: default}
spec: {suspend: false}
"""


def intent(name: str = "web", namespace: str = "shop", weight: int = 100) -> str:
    """The manifest of one intent."""
    return INTENT.format(name=name, namespace=namespace, weight=weight)


class Git:
    """The git program in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, given: str | bytes = b"") -> str:
        data = given.encode() if isinstance(given, str) else given
        done = subprocess.run(["git", "-C", self.folder, *arguments], input=data, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def write(self, **files: str) -> None:
        """Write files; `__` in a keyword is a slash and `_y` at its end is .yaml."""
        for name, text in files.items():
            self.put(name.replace("__", "/").removesuffix("_y") + (".yaml" if name.endswith("_y") else ""), text)

    def put(self, path: str, content: str | bytes) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    def commit(self, message: str = "change") -> str:
        """Commit everything in the work tree and return the commit."""
        self("add", "--all")
        self("commit", "--quiet", "--allow-empty", "-m", message)
        return self("rev-parse", "HEAD")

    def tree(self, *lines: str) -> str:
        """Commit a tree made of `ls-tree` lines on top of HEAD, past everything that git add would refuse."""
        tree = self("mktree", "--missing", given="\n".join(lines) + "\n")
        commit = self("commit-tree", tree, "-p", "HEAD", "-m", "made by hand")
        self("update-ref", "refs/heads/main", commit)
        return commit

    def blob(self, content: str | bytes) -> str:
        return self("hash-object", "-w", "--stdin", given=content)


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts from a git that nobody has configured."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (home / ".gitconfig").write_text("[user]\n\tname = Pat Operator\n\temail = pat@example.org\n")


@pytest.fixture
def make_git(tmp_path: Path) -> Callable[..., Git]:
    def make(name: str = "policies", *, bare: bool = False) -> Git:
        folder = tmp_path / name
        options = ["--bare"] if bare else []
        subprocess.run(["git", "init", "-q", "-b", "main", *options, folder], check=True, timeout=60)
        return Git(folder)

    return make


@pytest.fixture
def repo(make_git: Callable[..., Git]) -> Git:
    """A work tree with one commit: the intent shop/web and the policy default."""
    git = make_git()
    git.write(intents__shop__web_y=intent(), policies__default_y=POLICY)
    git.commit("first")
    return git
