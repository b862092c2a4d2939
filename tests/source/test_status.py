# SPDX-License-Identifier: Apache-2.0
"""Statuses live in one ref a writer, beside the branch and never on it."""

from __future__ import annotations

import threading

import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from controller.api import NodeScheduler, SchedulerPolicy, SchedulingIntent
from controller.errors import RepositoryError
from controller.source import GitStore
from tests import strategies
from tests.source.conftest import Git


def node(name: str, commit: str = "c") -> NodeScheduler:
    return NodeScheduler.model_validate(
        {"metadata": {"name": name}, "kind": "NodeScheduler", "status": {"commit": commit}}
    )


def intent(message: str) -> SchedulingIntent:
    condition = {"type": "Ready", "status": "True", "reason": "Served", "message": message}
    return SchedulingIntent.model_validate(
        {
            "kind": "SchedulingIntent",
            "metadata": {"name": "web", "namespace": "shop", "generation": 3},
            "spec": {"workload": {"comm": ["web"]}, "objective": {"metric": "makespan", "goal": "minimize"}},
            "status": {"conditions": [condition]},
        }
    )


def refs(repo: Git) -> dict[str, str]:
    lines = repo("for-each-ref", "--format=%(refname) %(objectname)", "refs/schedctl").splitlines()
    return dict(line.split() for line in lines)


def test_each_writer_replaces_what_it_said(repo: Git) -> None:
    store, reader = GitStore(repo.folder), GitStore(repo.folder)
    head = repo("rev-parse", "HEAD")
    assert reader.statuses() == {}
    store.put_status(
        "planner", [intent("a"), SchedulerPolicy.model_validate({"metadata": {"name": "p"}, "status": {}})]
    )
    store.put_status("node-1", [node("node-1")])
    assert list(reader.statuses()) == [
        ("NodeScheduler", "", "node-1"),
        ("SchedulerPolicy", "", "p"),
        ("SchedulingIntent", "shop", "web"),
    ]
    assert reader.statuses()["SchedulingIntent", "shop", "web"] == intent("a")
    assert [n.name for n in reader.nodes()] == ["node-1"]
    store.put_status("planner", [intent("b")])
    assert list(reader.statuses()) == [("NodeScheduler", "", "node-1"), ("SchedulingIntent", "shop", "web")]
    assert reader.statuses()["SchedulingIntent", "shop", "web"] == intent("b")
    assert repo("rev-parse", "HEAD") == head
    assert repo("status", "--porcelain") == ""
    assert list(refs(repo)) == ["refs/schedctl/status/node-1", "refs/schedctl/status/planner"]
    text = repo("show", "refs/schedctl/status/planner:SchedulingIntent/shop/web.yaml")
    assert yaml.safe_load(text)["status"]["conditions"][0]["message"] == "b"
    assert "NodeScheduler/_/node-1.yaml" in repo("ls-tree", "-r", "--name-only", "refs/schedctl/status/node-1")


def test_saying_the_same_makes_no_commit(repo: Git) -> None:
    store = GitStore(repo.folder)
    store.put_status("n", [node("n"), node("m")])
    before = refs(repo)
    store.put_status("n", [node("m"), node("n")])
    GitStore(repo.folder).put_status("n", [node("n"), node("m")])
    assert refs(repo) == before
    store.put_status("n", [])
    assert refs(repo) != before
    assert store.statuses() == {}


def test_the_history_of_a_ref_stays_short(repo: Git) -> None:
    store = GitStore(repo.folder)
    lengths = []
    for n in range(110):
        store.put_status("n", [node("n", str(n))])
        if n % 10 == 9:
            lengths.append(int(repo("rev-list", "--count", "refs/schedctl/status/n")))
    assert max(lengths) <= 50
    assert min(lengths[5:]) >= 10
    assert repo("rev-list", "--max-parents=0", "refs/schedctl/status/n") != repo("rev-list", "--max-parents=0", "main")


def test_writers_at_once_lose_nothing(repo: Git) -> None:
    failures: list[Exception] = []

    def work(writer: str) -> None:
        try:
            store = GitStore(repo.folder)
            for n in range(6):
                store.put_status(writer, [node(writer, str(n))])
        except RepositoryError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(writer,)) for writer in ("a", "b", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    assert {n.name: n.status.commit if n.status else "" for n in GitStore(repo.folder).nodes()} == dict.fromkeys(
        "abc", "5"
    )


def test_a_node_speaks_for_itself(repo: Git) -> None:
    store = GitStore(repo.folder)
    store.put_status("node-1", [node("node-1", "mine")])
    store.put_status("liar", [node("node-1", "lie")])
    (found,) = store.nodes()
    assert found.status is not None
    assert found.status.commit == "mine"


@pytest.mark.parametrize("writer", ["", "../x", "a/b", "-x", "a..b", "x.lock", "a.", "A", "a b", "a\n", "x" * 201, "@"])
def test_names_that_cannot_be_refs_are_refused(repo: Git, writer: str) -> None:
    with pytest.raises(RepositoryError, match="cannot name a writer"):
        GitStore(repo.folder).put_status(writer, [])
    assert refs(repo) == {}


def test_a_damaged_or_foreign_status_is_left_out_and_can_be_replaced(repo: Git) -> None:
    store = GitStore(repo.folder)
    store.put_status("good", [node("good")])
    deep = repo.blob("[" * 200_000)
    kind = repo(
        "mktree",
        given=f"100644 blob {deep}\tx.yaml\n100644 blob {repo.blob('{}')}\ty.yaml\n120000 blob {deep}\tz.yaml\n",
    )
    space = repo("mktree", given=f"040000 tree {kind}\t_\n")
    tree = repo("mktree", given=f"040000 tree {space}\tNodeScheduler\n100644 blob {deep}\tREADME\n")
    repo("update-ref", "refs/schedctl/status/bad", repo("commit-tree", tree, "-m", "x"))
    assert [n.name for n in store.nodes()] == ["good"]
    store.put_status("bad", [node("bad")])
    assert [n.name for n in store.nodes()] == ["bad", "good"]


def test_a_status_lost_in_a_power_cut_is_said_anew(repo: Git) -> None:
    GitStore(repo.folder).put_status("n", [node("n", "old")])
    for object_name in (refs(repo)["refs/schedctl/status/n"], repo("rev-parse", "refs/schedctl/status/n^{tree}")):
        file = repo.folder / ".git/objects" / object_name[:2] / object_name[2:]
        file.chmod(0o644)
        file.write_bytes(b"")
    store = GitStore(repo.folder)
    assert store.nodes() == []
    store.put_status("n", [node("n", "new")])
    assert [n.name for n in store.nodes()] == ["n"]


@settings(max_examples=20, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.hostile_text, strategies.nodes)
def test_any_text_in_a_status_comes_back_unchanged(repo: Git, text: str, drawn: NodeScheduler) -> None:
    said = NodeScheduler.model_validate({**drawn.wire(), "status": {"conditions": [], "commit": text}})
    store = GitStore(repo.folder)
    store.put_status("n", [said])
    assert list(GitStore(repo.folder).nodes()) == [said]
