# SPDX-License-Identifier: Apache-2.0
"""A commit becomes desired state as a whole, from the object database, or not at all."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.errors import RepositoryError
from controller.source import GitStore
from tests import strategies
from tests.source.conftest import Git, intent

TEMPLATE = """\
apiVersion: schedctl.dev/v1alpha1
kind: SchedulerTemplate
metadata: {name: mine}
spec:
  summary: Ours.
  suits: [makespan]
  source: {path: scheduler.bpf.c.j2}
"""


def test_reads_the_commit_and_not_the_work_tree(repo: Git) -> None:
    head = repo("rev-parse", "HEAD")
    repo.write(intents__shop__web_y="not: [valid", intents__shop__new_y=intent("new"))
    state = GitStore(repo.folder).read()
    assert (state.reason, state.problems, state.head) == ("Verified", (), head)
    assert state.desired is not None
    assert [i.key for i in state.desired.intents] == [("SchedulingIntent", "shop", "web")]
    assert [p.name for p in state.desired.policies] == ["default"]
    assert (state.desired.commit, state.desired.branch) == (head, "main")
    assert state.desired.author == "Pat Operator <pat@example.org>"
    assert state.desired.signature.state == "unsigned"


def test_bare_packed_and_other_branches(repo: Git, make_git) -> None:
    bare = make_git("bare", bare=True)
    repo("push", "-q", str(bare.folder), "main:main", "main:staging")
    bare("pack-refs", "--all")
    bare("repack", "-adq")
    for store in (GitStore(bare.folder), GitStore(bare.folder, "staging")):
        desired = store.read().desired
        assert desired is not None
        assert desired.branch == store.branch
        assert len(desired.intents) == 1


def test_an_unchanged_head_gives_the_same_value(repo: Git) -> None:
    store = GitStore(repo.folder)
    assert store.read() is store.read()


@pytest.mark.parametrize("folder", ["absent", "plain", "file"])
def test_what_is_not_a_repository_is_told_with_a_remedy(tmp_path: Path, folder: str) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(RepositoryError) as told:
        GitStore(tmp_path / folder)
    assert f"schedctl init {tmp_path / folder}" in told.value.remedy
    assert folder in told.value.message


def test_a_folder_inside_a_repository_is_not_it(repo: Git) -> None:
    with pytest.raises(RepositoryError, match="not a Git repository"):
        GitStore(repo.folder / "intents")


def test_sha256_repositories_are_refused_in_words(tmp_path: Path) -> None:
    git = Git(tmp_path)
    git("init", "-q", "--object-format=sha256", "r")
    with pytest.raises(RepositoryError, match="sha256"):
        GitStore(tmp_path / "r")


def test_an_empty_repository_says_how_to_fill_it(make_git) -> None:
    git = make_git()
    state = GitStore(git.folder).read()
    assert (state.desired, state.reason) == (None, "EmptyRepository")
    assert "schedctl init" in state.problems[0]


def test_a_branch_that_never_was(repo: Git) -> None:
    state = GitStore(repo.folder, "prod").read()
    assert (state.desired, state.reason) == (None, "BranchGone")
    assert "main" in state.problems[0]


@pytest.mark.parametrize("branch", ["-x", "--upload-pack=x", "a..b", "a b", "x.lock", "a\nb", "@{-1}"])
def test_names_that_are_not_branches(repo: Git, branch: str) -> None:
    with pytest.raises(RepositoryError, match="not a branch name"):
        GitStore(repo.folder, branch)


def test_a_detached_head_asks_for_a_branch(repo: Git) -> None:
    repo("checkout", "-q", "--detach")
    with pytest.raises(RepositoryError, match="detached"):
        GitStore(repo.folder)
    assert GitStore(repo.folder, "main").read().reason == "Verified"


def test_a_linked_work_tree_and_another_owner(repo: Git, tmp_path: Path) -> None:
    repo("worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    store = GitStore(tmp_path / "side")
    assert (store.branch, store.read().reason) == ("side", "Verified")


def test_every_fault_of_a_commit_is_named_and_none_of_it_is_used(repo: Git) -> None:
    store = GitStore(repo.folder)
    good = store.read().desired
    repo.put("intents/shop/a.yaml", intent("a") + "---\n" + intent("b", weight=0) + "---\nkind: Foo\napiVersion: v1\n")
    repo.put("intents/c.yml", "a: [1\n")
    repo.put("copy.yaml", "# again\n" + intent())
    repo.put("templates/mine/template.yaml", TEMPLATE)
    repo.put("latin.yaml", b"a: \xe9\n")
    repo.put("node.yaml", "apiVersion: schedctl.dev/v1alpha1\nkind: NodeScheduler\nmetadata: {name: n}\n")
    head = repo.commit()
    state = store.read()
    assert state.desired is good
    assert (state.reason, state.head) == ("InvalidManifest", head)
    text = "\n".join(state.problems)
    for expected in (
        "intents/shop/a.yaml:15 (document 2)",
        "spec.weight",
        'no matches for kind "Foo"',
        "intents/c.yml",
        'intents/shop/web.yaml:1 (document 1): SchedulingIntent "shop/web" is already defined in copy.yaml:2',
        "templates/mine/scheduler.bpf.c.j2 is not a file of this commit",
        "latin.yaml",
        "a NodeScheduler is written by its node",
    ):
        assert expected in text
    assert len(state.problems) == 7
    repo("revert", "--no-edit", "HEAD")
    assert store.read().reason == "Verified"


def test_only_yaml_without_a_dot_is_read(repo: Git) -> None:
    repo.put(".github/workflows/x.yaml", "broken: [")
    repo.put(".hidden.yaml", "broken: [")
    repo.put("README.md", "kind: x")
    repo.put("empty.yaml", "# nothing yet\n---\n")
    repo.commit()
    assert GitStore(repo.folder).read().problems == ()


def test_symlinks_and_submodules_are_refused(repo: Git) -> None:
    store = GitStore(repo.folder)
    good = store.read().desired
    (repo.folder / "passwd.yaml").symlink_to("/etc/passwd")
    (repo.folder / "linked").symlink_to("/etc")
    repo("update-index", "--add", "--cacheinfo", f"160000,{repo('rev-parse', 'HEAD')},vendored")
    repo("add", "passwd.yaml", "linked")
    repo("commit", "-qm", "links")
    state = store.read()
    assert (state.reason, state.desired) == ("InvalidManifest", good)
    assert sorted(p.partition(":")[0] for p in state.problems) == ["linked", "passwd.yaml", "vendored"]
    assert any("symbolic links" in p for p in state.problems)
    assert any("submodules" in p for p in state.problems)


def test_files_above_one_mebibyte_are_refused(repo: Git) -> None:
    repo.put("big.bin", b"x" * ((1 << 20) + 1))
    repo.put("just.bin", b"x" * (1 << 20))
    repo.commit()
    (problem,) = GitStore(repo.folder).read().problems
    assert problem.startswith("big.bin: the file is larger than 1 MiB")


def test_a_tree_that_unfolds_without_end_is_counted_not_followed(repo: Git) -> None:
    level = repo("mktree", given=f"100644 blob {repo.blob('x')}\tf\n")
    for _ in range(12):
        level = repo("mktree", given="".join(f"040000 tree {level}\td{i}\n" for i in range(10)))
    repo.tree(f"040000 tree {level}\tbomb")
    state = GitStore(repo.folder).read()
    assert state.reason == "InvalidManifest"
    assert any("more than 20000" in p for p in state.problems)


def test_a_tree_with_a_name_twice_and_an_odd_mode(repo: Git) -> None:
    blob = repo.blob(intent())
    raw = b"".join(b"100644 a.yaml\0" + bytes.fromhex(blob) for _ in range(2))
    tree = repo("hash-object", "-w", "-t", "tree", "--literally", "--stdin", given=raw)
    repo.tree(f"040000 tree {tree}\td")
    assert any("twice" in p for p in GitStore(repo.folder).read().problems)


def test_template_text_is_inlined_from_the_same_commit(repo: Git) -> None:
    repo.put("templates/mine/template.yaml", TEMPLATE)
    repo.put("templates/mine/scheduler.bpf.c.j2", "committed é")
    repo.commit()
    repo.put("templates/mine/scheduler.bpf.c.j2", "work tree")
    desired = GitStore(repo.folder).read().desired
    assert desired is not None
    assert [t.text for t in desired.templates] == ["committed é"]


@pytest.mark.parametrize("path", ["../../policies/default.yaml", "/etc/passwd", "a/../../x", ".git/config"])
def test_template_text_cannot_come_from_elsewhere(repo: Git, path: str) -> None:
    repo.put("templates/mine/template.yaml", TEMPLATE.replace("scheduler.bpf.c.j2", path))
    repo.commit()
    state = GitStore(repo.folder).read()
    assert state.reason == "InvalidManifest"
    assert "spec.source.path" in state.problems[0]


def test_generation_counts_specs_and_creation_is_the_first_commit(repo: Git) -> None:
    store = GitStore(repo.folder)
    first = int(repo("show", "-s", "--format=%ct", "HEAD"))
    steps = [
        (intent(weight=200), 2),
        ("# a comment\n" + intent(weight=200), 2),
        (intent(weight=200).replace("namespace: shop}", "namespace: shop, labels: {a: b}}"), 2),
        (intent(weight=100), 3),
        ("broken: [", None),
        (intent(weight=100), 3),
    ]
    for text, expected in steps:
        repo.put("intents/shop/web.yaml", text)
        repo.commit()
        for reader in (store, GitStore(repo.folder)):  # carried forward, and counted from the beginning
            state = reader.read()
            if expected is not None:
                assert state.desired is not None
                metadata = state.desired.intents[0].metadata
                assert metadata.generation == expected
                assert metadata.creation_timestamp is not None
                assert metadata.creation_timestamp.timestamp() == first
    repo("rm", "-q", "intents/shop/web.yaml")
    repo.commit()
    repo.write(intents__shop__web_y=intent(weight=7))
    repo.commit()
    desired = store.read().desired
    assert desired is not None
    assert desired.intents[0].metadata.generation == 1


def test_generation_follows_first_parents_through_merges(repo: Git) -> None:
    store = GitStore(repo.folder)
    store.read()
    repo("checkout", "-q", "-b", "side")
    for weight in (1, 2, 3):
        repo.write(intents__shop__web_y=intent(weight=weight))
        repo.commit()
    repo("checkout", "-q", "main")
    repo("merge", "-q", "--no-ff", "-m", "merge", "side")
    for reader in (store, GitStore(repo.folder)):
        desired = reader.read().desired
        assert desired is not None
        assert (desired.intents[0].spec.weight, desired.intents[0].metadata.generation) == (3, 2)


def test_a_long_history_is_read_whole(repo: Git) -> None:
    """500 commits over 50 files, through fast-import; the time is printed for the record, the counts are asserted."""
    stream = []
    for n in range(500):
        text = intent(f"i{n % 50}", weight=n + 1)
        stream.append(
            f"commit refs/heads/main\ncommitter P <p@example.org> {1_700_000_000 + n} +0000\ndata 1\nx\n"
            + (f"from {repo('rev-parse', 'HEAD')}\n" if n == 0 else "")
            + f"M 100644 inline many/{n % 50}.yaml\ndata {len(text)}\n{text}\n"
        )
    repo("fast-import", "--quiet", given="".join(stream))
    store = GitStore(repo.folder)
    begun = time.perf_counter()
    desired = store.read().desired
    first = time.perf_counter() - begun
    store.read()
    print(f"read {first:.3f} s, again {time.perf_counter() - begun - first:.4f} s")
    assert desired is not None
    assert len(desired.intents) == 51
    assert {i.metadata.generation for i in desired.intents if i.namespace == "shop" and i.name != "web"} == {10}


def test_commits_claiming_impossible_dates_are_read(repo: Git) -> None:
    tree = repo("rev-parse", "HEAD^{tree}")
    raw = f"tree {tree}\nparent {repo('rev-parse', 'HEAD')}\nauthor A <a> 99999999999999 +0000\n"
    raw += "committer \x1b[2J <c> 99999999999999 +9999\n\nx\n"
    commit = repo("hash-object", "-w", "-t", "commit", "--literally", "--stdin", given=raw)
    repo("update-ref", "refs/heads/main", commit)
    state = GitStore(repo.folder).read()
    assert state.head == commit or state.reason == "FetchFailed"


def test_a_missing_object_is_a_problem_not_a_crash(repo: Git) -> None:
    store = GitStore(repo.folder)
    good = store.read().desired
    repo.write(intents__shop__web_y=intent(weight=9))
    repo.commit()
    blob = repo("rev-parse", "HEAD:intents/shop/web.yaml")
    (repo.folder / ".git/objects" / blob[:2] / blob[2:]).unlink()
    state = store.read()
    assert (state.desired, state.reason) == (good, "FetchFailed")
    assert "fsck" in state.problems[0]


_FILES = st.dictionaries(
    strategies.hostile_names,
    st.binary(max_size=200) | strategies.hostile_yaml.map(lambda t: t.encode("utf-8", "replace")),
    min_size=1, max_size=3,
)  # fmt: skip


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_FILES)
def test_hostile_files_never_raise_and_never_replace_the_good_state(repo: Git, files: dict[str, bytes]) -> None:
    base = repo("rev-list", "--max-parents=0", "HEAD")
    lines = [f"040000 tree {repo('rev-parse', f'{base}:policies')}\tpolicies"]
    made = [(name + ".yaml", repo.blob(content)) for name, content in files.items() if name != "policies"]
    given = "".join(f"{line}\0" for line in [*lines, *(f"100644 blob {blob}\t{name}" for name, blob in made)])
    tree = repo("mktree", "-z", given=given)
    repo("update-ref", "refs/heads/main", base)
    store = GitStore(repo.folder)
    good = store.read().desired
    repo("update-ref", "refs/heads/main", repo("commit-tree", tree, "-p", base, "-m", "hostile"))
    for reader in (store, GitStore(repo.folder)):
        state = reader.read()
        assert state.reason in ("Verified", "InvalidManifest")
        assert all(line.isprintable() for p in state.problems for line in p.splitlines())
        if state.problems and reader is store:
            assert state.desired is good


@settings(max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(strategies.committable, min_size=1, max_size=4, unique_by=lambda r: r.key))
def test_valid_resources_come_back_as_they_were_committed(repo: Git, resources: list) -> None:
    base = repo("rev-list", "--max-parents=0", "HEAD")
    text = yaml.safe_dump_all([r.wire() for r in resources], sort_keys=False)
    tree = repo("mktree", given=f"100644 blob {repo.blob(text)}\tall.yaml\n")
    repo("update-ref", "refs/heads/main", repo("commit-tree", tree, "-p", base, "-m", "x"))
    state = GitStore(repo.folder).read()
    assert state.problems == ()
    assert state.desired is not None
    desired = state.desired
    read = [*desired.intents, *desired.policies, *desired.templates, *desired.revisions]
    assert {r.key: r.spec for r in read} == {r.key: r.spec for r in resources}
    assert {r.metadata.generation for r in read} == {1}
