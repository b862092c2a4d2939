# SPDX-License-Identifier: Apache-2.0
"""apply and delete: one commit a call, checked as a whole, nothing half-written and nobody's work lost."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.api import SchedulerPolicy, SchedulerTemplate
from controller.api.decode import Document, decode, encode
from controller.errors import ManifestError, RepositoryError
from controller.source import GitStore
from controller.source.repository import Repository
from tests import strategies
from tests.source.conftest import POLICY, Git, intent


def documents(text: str, file: str = "given.yaml") -> list[tuple[str, Document]]:
    decoded = decode(text, file)
    assert decoded.errors == []
    return [(text, document) for document in decoded.documents]


def actions(applied: list) -> list[str]:
    return [a.action for a in applied]


def count(repo: Git) -> int:
    return int(repo("rev-list", "--count", "HEAD"))


def test_created_configured_unchanged(repo: Git) -> None:
    store = GitStore(repo.folder)
    text = intent(weight=300) + "---\n# mine\n" + intent("new") + "---\n" + POLICY
    assert actions(store.apply(documents(text), "tune")) == ["configured", "created", "unchanged"]
    assert count(repo) == 2
    assert repo("log", "-1", "--format=%s|%an|%cn") == "tune|Pat Operator|Pat Operator"
    assert (repo.folder / "intents/shop/new.yaml").read_text() == "# mine\n" + intent("new")
    assert repo("status", "--porcelain") == ""
    desired = store.read().desired
    assert desired is not None
    assert {i.name: i.spec.weight for i in desired.intents} == {"web": 300, "new": 100}
    assert actions(store.apply(documents(text))) == ["unchanged"] * 3
    assert count(repo) == 2


def test_dry_run_says_the_same_and_does_nothing(repo: Git) -> None:
    store = GitStore(repo.folder)
    assert actions(store.apply(documents(intent(weight=9) + "---\n" + intent("n")), dry_run=True)) == [
        "configured",
        "created",
    ]
    assert store.delete([("SchedulingIntent", "shop", "web")], dry_run=True)[0].action == "deleted"
    assert count(repo) == 1
    assert repo("status", "--porcelain") == ""


def test_a_resource_is_replaced_where_it_stands(repo: Git) -> None:
    before = f"# house rules\n{intent('a')}# after a\n---\n# about b\n{intent('b')}\n# after b\n---\n{intent('c')}"
    repo.put("team/all.yaml", before)
    repo.commit()
    store = GitStore(repo.folder)
    assert actions(store.apply(documents("# gone\n" + intent("b", weight=7)))) == ["configured"]
    assert (repo.folder / "team/all.yaml").read_text() == before.replace(intent("b"), intent("b", weight=7))
    assert store.delete([("SchedulingIntent", "shop", "a")])[0].action == "deleted"
    left = (repo.folder / "team/all.yaml").read_text()
    assert "# house rules" in left
    assert "# after a" in left
    assert [d.resource.name for d in decode(left, "x").documents] == ["b", "c"]
    store.delete([("SchedulingIntent", "shop", "b"), ("SchedulingIntent", "shop", "c"), ("SchedulerPolicy", "", "no")])
    assert not (repo.folder / "team").exists()
    assert repo("log", "-1", "--format=%s") == "Delete SchedulingIntent shop/b, SchedulingIntent shop/c"


def test_what_get_printed_can_be_applied(repo: Git) -> None:
    store = GitStore(repo.folder)
    desired = store.read().desired
    assert desired is not None
    text = encode(desired.intents[0]) + "status: {matchedTasks: 3}\n"
    assert actions(store.apply(documents(text))) == ["unchanged"]
    store.apply(documents(text.replace("weight: 100", "weight: 5")))
    assert "status" not in (repo.folder / "intents/shop/web.yaml").read_text()


def test_namespaces_filled_in_by_the_caller_are_written(repo: Git) -> None:
    text = intent().replace(", namespace: shop", "")
    (pair,) = documents(text)
    moved = pair[1].resource.model_copy(
        update={"metadata": pair[1].resource.metadata.model_copy(update={"namespace": "other"})}
    )
    GitStore(repo.folder).apply([(text, Document(moved, "x", 1, 1))])
    assert "namespace: other" in (repo.folder / "intents/other/web.yaml").read_text()


def test_an_empty_list_that_means_something_is_written(repo: Git) -> None:
    store = GitStore(repo.folder)
    text = POLICY.replace("suspend: false", "templates: {allow: []}") + "status: {nodes: 1}\n"
    store.apply(documents(text))
    desired = store.read().desired
    assert desired is not None
    assert desired.policies[0].spec.templates.allow == ()
    assert actions(store.apply(documents(text))) == ["unchanged"]


def test_text_that_yaml_would_change_is_refused(repo: Git) -> None:
    policy = SchedulerPolicy.model_validate({"metadata": {"name": "p", "annotations": {"a": "x\x85y"}}, "spec": {}})
    with pytest.raises(RepositoryError, match="YAML cannot carry"):
        GitStore(repo.folder).apply([("", Document(policy, "x", 1, 1))])
    assert count(repo) == 1


@pytest.mark.parametrize("message", ["\x00", "\n\n x", " ", "a\x00b\nmore", "-m", "\ud800", "x" * 100_000])
def test_any_message_is_a_message(repo: Git, message: str) -> None:
    GitStore(repo.folder).apply(documents(intent(weight=8)), message)
    assert count(repo) == 2
    repo("fsck", "--strict")


def test_a_place_that_is_taken_is_shared(repo: Git) -> None:
    repo.put("intents/shop/new.yaml", "# somebody's\n" + intent("else"))
    repo.commit()
    GitStore(repo.folder).apply(documents(intent("new")))
    text = (repo.folder / "intents/shop/new.yaml").read_text()
    assert text == "# somebody's\n" + intent("else") + "---\n" + intent("new")


def test_names_given_twice_are_refused(repo: Git) -> None:
    with pytest.raises(ManifestError, match=r"given twice.*given.yaml:1 \(document 1\)"):
        GitStore(repo.folder).apply(documents(intent() + "---\n" + intent(weight=2)))
    assert count(repo) == 1


def test_a_result_that_would_not_be_valid_is_not_committed(repo: Git) -> None:
    store = GitStore(repo.folder)
    template = (
        "apiVersion: schedctl.dev/v1alpha1\nkind: SchedulerTemplate\nmetadata: {name: t}\n"
        "spec: {summary: s, suits: [makespan], source: {path: nowhere.j2}}\n"
    )
    with pytest.raises(RepositoryError, match=r"templates/t/nowhere\.j2 is not a file"):
        store.apply(documents(template + "---\n" + intent("fine")))
    assert count(repo) == 1
    repo.put("bad.yaml", "broken: [")
    repo.commit()
    with pytest.raises(RepositoryError, match=r"bad\.yaml"):
        store.apply(documents(intent("fine")))
    assert repo("status", "--porcelain") == ""


def test_a_template_comes_and_goes_with_its_text(repo: Git) -> None:
    repo.put("templates/t/scheduler.bpf.c.j2", "text")
    repo.put(
        "templates/t/template.yaml",
        "apiVersion: schedctl.dev/v1alpha1\nkind: SchedulerTemplate\nmetadata: {name: t}\n"
        "spec: {summary: s, suits: [makespan], source: {path: scheduler.bpf.c.j2}}\n",
    )
    repo.commit()
    store = GitStore(repo.folder)
    same = (repo.folder / "templates/t/template.yaml").read_text()
    assert actions(store.apply(documents(same))) == ["unchanged"]
    (pair,) = documents(same)
    assert isinstance(pair[1].resource, SchedulerTemplate)
    inline = pair[1].resource.with_text("text")
    assert actions(store.apply([(encode(inline), Document(inline, "x", 1, 1))])) == ["unchanged"]
    store.delete([("SchedulerTemplate", "", "t")])
    assert not (repo.folder / "templates").exists()


def test_a_node_cannot_be_applied(repo: Git) -> None:
    with pytest.raises(RepositoryError, match="written by its node"):
        GitStore(repo.folder).apply(
            documents("apiVersion: schedctl.dev/v1alpha1\nkind: NodeScheduler\nmetadata: {name: n}\n")
        )


def test_the_first_commit_of_an_empty_repository(make_git) -> None:
    git = make_git()
    store = GitStore(git.folder)
    assert actions(store.apply(documents(intent()))) == ["created"]
    assert store.read().reason == "Verified"
    assert git("status", "--porcelain") == ""


def test_a_bare_repository(repo: Git, make_git) -> None:
    bare = make_git("bare", bare=True)
    repo("push", "-q", str(bare.folder), "main")
    store = GitStore(bare.folder)
    assert actions(store.apply(documents(intent(weight=8)))) == ["configured"]
    assert "weight: 8" in bare("show", "main:intents/shop/web.yaml")


def test_another_branch_leaves_the_work_tree_alone(repo: Git) -> None:
    repo("branch", "staging")
    repo.write(intents__shop__web_y="dirty")
    GitStore(repo.folder, "staging").apply(documents(intent(weight=8)))
    assert (repo.folder / "intents/shop/web.yaml").read_text() == "dirty"
    assert "weight: 8" in repo("show", "staging:intents/shop/web.yaml")


@pytest.mark.parametrize("how", ["edited", "staged", "removed", "untracked", "replaced by a link", "folder is a link"])
def test_uncommitted_work_stops_the_commit_and_is_kept(repo: Git, tmp_path: Path, how: str) -> None:
    file = repo.folder / "intents/shop/web.yaml"
    new = repo.folder / "intents/shop/new.yaml"
    if how == "edited":
        file.write_text("my work")
    elif how == "staged":
        file.write_text("my work")
        repo("add", "--all")
        file.write_text(intent())
    elif how == "removed":
        file.unlink()
    elif how == "untracked":
        new.write_text("my work")
    elif how == "replaced by a link":
        file.unlink()
        file.symlink_to(tmp_path / "elsewhere.yaml")
        (tmp_path / "elsewhere.yaml").write_text("my work")
    else:
        (repo.folder / "intents/shop").rename(tmp_path / "shop")
        (repo.folder / "intents/shop").symlink_to(tmp_path / "shop")
    before = {f: f.read_bytes() for f in (*repo.folder.rglob("*.yaml"), *tmp_path.glob("*.yaml")) if f.is_file()}
    with pytest.raises(RepositoryError):
        GitStore(repo.folder).apply(documents(intent(weight=8) + "---\n" + intent("new")))
    assert count(repo) == 1
    assert {f: f.read_bytes() for f in before} == before
    assert not (tmp_path / "shop/new.yaml").exists()


def test_uncommitted_work_elsewhere_is_no_hindrance(repo: Git) -> None:
    repo.write(policies__default_y="my work", notes="mine")
    GitStore(repo.folder).apply(documents(intent(weight=8)))
    assert repo("status", "--porcelain").splitlines() == ["M policies/default.yaml", "?? notes"]
    assert (repo.folder / "policies/default.yaml").read_text() == "my work"


def test_hooks_are_not_run(repo: Git, tmp_path: Path) -> None:
    for hook in ("reference-transaction", "post-commit", "pre-commit", "post-checkout"):
        file = repo.folder / ".git/hooks" / hook
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
        file.chmod(0o755)
    GitStore(repo.folder).apply(documents(intent(weight=8)))
    assert not (tmp_path / "ran").exists()


def test_variables_of_a_calling_hook_are_not_followed(repo: Git, make_git, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_git("other")
    monkeypatch.setenv("GIT_DIR", str(other.folder / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.folder))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other.folder / "index"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other.folder / ".git/objects"))
    store = GitStore(repo.folder)
    assert actions(store.apply(documents(intent(weight=8)))) == ["configured"]
    assert store.read().reason == "Verified"
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.delenv(name)
    assert count(repo) == 2
    assert other("for-each-ref") == ""


def test_without_an_identity_schedctl_commits(repo: Git) -> None:
    repo("config", "--global", "--unset", "user.name")
    repo("config", "--global", "--unset", "user.email")
    GitStore(repo.folder).apply(documents(intent(weight=8)))
    assert repo("log", "-1", "--format=%an <%ae>") == "schedctl <schedctl@localhost>"


def test_a_death_between_objects_and_ref_leaves_the_old_commit(repo: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> bool:
        raise Killed

    store = GitStore(repo.folder)
    head = repo("rev-parse", "HEAD")
    with monkeypatch.context() as patch:
        patch.setattr(Repository, "move_ref", die)
        for call in (
            lambda: store.apply(documents(intent(weight=8))),
            lambda: store.delete([("SchedulingIntent", "shop", "web")]),
            lambda: store.put_status("planner", []),
        ):
            with pytest.raises(Killed):
                call()
    assert repo("rev-parse", "HEAD") == head
    assert repo("status", "--porcelain") == ""
    assert repo("for-each-ref", "refs/schedctl") == ""
    repo("fsck", "--strict")
    assert actions(store.apply(documents(intent(weight=8)))) == ["configured"]


def test_a_kill_of_the_whole_process_leaves_old_or_new(repo: Git) -> None:
    """A process that applies without end is killed at random moments; every commit that exists is whole."""
    script = (
        "import sys\nfrom controller.source import GitStore\nfrom controller.api.decode import decode\n"
        "store = GitStore(sys.argv[1])\ntext = sys.stdin.read()\nprint('ready', flush=True)\n"
        "for n in range(10**6):\n"
        "    t = text.replace('weight: 100', f'weight: {n % 5000 + 1}')\n"
        "    store.apply([(t, decode(t, 'x').documents[0])])\n"
    )
    import sys

    for wait in (0.05, 0.2, 0.4):
        process = subprocess.Popen(
            [sys.executable, "-c", script, repo.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(intent())
        process.stdin.close()
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(wait)
        process.kill()
        process.wait(30)
        process.stdout.close()
        repo("fsck", "--strict")
        state = GitStore(repo.folder).read()
        assert (state.reason, len(state.desired.intents if state.desired else ())) == ("Verified", 1)
        (repo.folder / ".git/refs/heads/main.lock").unlink(missing_ok=True)
        (repo.folder / ".git/HEAD.lock").unlink(missing_ok=True)
        (repo.folder / ".git/index.lock").unlink(missing_ok=True)
        repo("reset", "-q", "--hard")


def test_two_writers_at_once_both_get_their_way(repo: Git, make_git) -> None:
    bare = make_git("bare", bare=True)
    repo("push", "-q", str(bare.folder), "main")
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            store = GitStore(bare.folder)
            for i in range(8):
                store.apply(documents(intent(f"{name}{i}")))
        except RepositoryError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    desired = GitStore(bare.folder).read().desired
    assert desired is not None
    assert len(desired.intents) == 17
    assert int(bare("rev-list", "--count", "main")) == 17


@settings(max_examples=20, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(strategies.committable, min_size=1, max_size=3, unique_by=lambda r: r.key), strategies.hostile_text)
def test_whatever_is_valid_is_applied_and_deleted_again(repo: Git, resources: list, message: str) -> None:
    plain = [r for r in resources if r.kind != "SchedulerRevision"]
    store = GitStore(repo.folder)
    given_now = [(encode(r), Document(r, "x", 1, 1)) for r in plain]
    applied = store.apply(given_now, message)
    assert {a.action for a in applied} <= {"created", "configured", "unchanged"}
    assert {a.action for a in store.apply(given_now)} <= {"unchanged"}
    assert store.read().problems == ()
    store.delete([r.key for r in plain], message)
    state = store.read()
    assert state.problems == ()
    assert repo("status", "--porcelain") == ""
