# SPDX-License-Identifier: Apache-2.0
"""`init` starts a repository from the sample; templates come with schedctl and from the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller import paths
from controller.api.decode import decode
from controller.errors import RepositoryError, TemplateError
from controller.source import GitStore, all_templates, builtin_templates, init
from tests.source.conftest import Git, intent


@pytest.mark.parametrize("existing", [False, True])
def test_init_makes_a_repository_that_is_valid(tmp_path: Path, existing: bool) -> None:
    folder = tmp_path / "a" / "policies"
    if existing:
        folder.mkdir(parents=True)
    made = init(folder)
    git = Git(folder)
    assert (made.created, made.path, made.commit) == (True, folder, git("rev-parse", "main"))
    state = GitStore(folder).read()
    assert state.problems == ()
    assert state.desired is not None
    assert [i.key[1:] for i in state.desired.intents] == [("batch", "nightly"), ("shop", "checkout")]
    assert [i.spec.objective.metric.value for i in state.desired.intents] == ["makespan", "wakeupLatency"]
    assert [p.name for p in state.desired.policies] == ["default"]
    assert git("status", "--porcelain") == ""
    assert (folder / "README.md").read_bytes() == (paths.data_dir("policies.git") / "README.md").read_bytes()
    again = init(folder)
    assert (again.created, again.commit) == (False, made.commit)
    assert git("rev-list", "--count", "main") == "1"


def test_init_fills_a_git_repository_without_commits(make_git) -> None:
    git = make_git()
    assert init(git.folder).created
    assert GitStore(git.folder).read().reason == "Verified"


def test_init_without_an_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    init(tmp_path / "r")
    assert Git(tmp_path / "r")("log", "-1", "--format=%ce") == "schedctl@localhost"


@pytest.mark.parametrize("kind", ["files", "a file", "other repository", "files, not committed", "invalid manifests"])
def test_init_refuses_what_is_not_a_policy_repository(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "x"
    if kind == "a file":
        folder.write_text("x")
    else:
        folder.mkdir()
        (folder / "main.c").write_text("int main;")
        if kind != "files":
            git = Git(folder)
            git("init", "-q", "-b", "main")
            if kind == "other repository":
                git.commit()
            if kind == "invalid manifests":
                git.put("docker-compose.yaml", "services: {}\n")
                git.commit()
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    with pytest.raises(RepositoryError, match="nothing was done") as told:
        init(folder)
    assert told.value.remedy
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_the_sample_says_only_what_decodes() -> None:
    files = sorted(paths.data_dir("policies.git").rglob("*.yaml"))
    assert len(files) == 3
    for file in files:
        assert decode(file.read_text(), str(file)).errors == []


def test_shipped_templates_have_their_text() -> None:
    shipped = builtin_templates()
    assert [t.name for t in shipped] == sorted(
        f.parent.name for f in paths.data_dir("templates").glob("*/template.yaml")
    )
    assert all("SPDX-License-Identifier" in t.text for t in shipped)
    assert set(all_templates(None)) == {t.name for t in shipped}


def test_a_template_of_the_repository_stands_before_a_shipped_one(repo: Git) -> None:
    name = builtin_templates()[0].name
    repo.put(
        "t.yaml",
        f"apiVersion: schedctl.dev/v1alpha1\nkind: SchedulerTemplate\nmetadata: {{name: {name}}}\n"
        "spec: {summary: s, suits: [makespan], source: {inline: ours}}\n",
    )
    repo.commit()
    found = all_templates(GitStore(repo.folder).read().desired)
    assert found[name].text == "ours"
    assert len(found) == len(builtin_templates())


@pytest.mark.parametrize("text", ["broken: [", "", intent(), "missing source"])
def test_a_damaged_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    if text == "missing source":
        text = (
            "apiVersion: schedctl.dev/v1alpha1\nkind: SchedulerTemplate\nmetadata: {name: t}\n"
            "spec: {summary: s, suits: [makespan], source: {path: gone.j2}}\n"
        )
    (tmp_path / "t").mkdir()
    (tmp_path / "t/template.yaml").write_text(text)
    monkeypatch.setattr(paths, "data_dir", lambda _: tmp_path)
    with pytest.raises(TemplateError, match=r"template\.yaml") as told:
        builtin_templates()
    assert told.value.remedy
