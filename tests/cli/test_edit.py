# SPDX-License-Identifier: Apache-2.0
"""apply, delete, diff and init on real repositories: what they say, and what they commit."""

from __future__ import annotations

import pytest
import yaml

from controller.paths import data_dir
from controller.source import GitStore
from tests.cli.conftest import CHECKOUT, POLICY, WEB, node
from tests.cli.harness import check_golden, commit, git, head, run, transcript

BAD = """\
apiVersion: schedctl.dev/v1alpha1
kind: SchedulingIntent
metadata: {name: bad}
spec:
  workload: {}
  foo: 1
  objective: {metric: wakeupLatency, goal: minimize, target: 2mss}
  weight: 0
"""
API = WEB.replace("name: web", "name: api")
AUTO = POLICY.replace("rules", "auto")


def commits(repo) -> int:
    return int(git(repo, "rev-list", "--count", "HEAD"))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with manifests, which is the current folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "deep").mkdir()
    for name, text in {"api.yaml": API, "mixed.yaml": f"{API}---\n{BAD}---\n{AUTO}", "bad.yaml": BAD}.items():
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


def test_apply_says_what_it_did_and_commits_once(repo, files):
    before = commits(repo)
    text = transcript(["apply -f api.yaml --dry-run=client", "apply -f api.yaml --dry-run=server"], repo)
    assert commits(repo) == before
    text += transcript(["apply -f api.yaml -m 'Add the API'", "apply -f api.yaml"], repo)
    assert commits(repo) == before + 1
    assert git(repo, "log", "-1", "--format=%s").strip() == "Add the API"
    (files / "api.yaml").write_text(API.replace("2ms", "5ms"), encoding="utf-8")
    text += transcript(["apply -f api.yaml", "apply -f api.yaml -o name", "diff -f api.yaml"], repo)
    assert commits(repo) == before + 2
    check_golden("apply", text)


def test_apply_goes_on_past_a_bad_document(repo, files):
    before = commits(repo)
    check_golden("apply-mixed", transcript(["apply -f mixed.yaml"], repo))
    assert commits(repo) == before + 1
    assert git(repo, "show", "--name-only", "--format=").split() == [
        "intents/default/api.yaml",
        "policies/default.yaml",
    ]


def test_apply_with_bad_documents_alone_changes_nothing(repo, files):
    before = head(repo)
    said = run("apply", "-f", "bad.yaml", repo=repo)
    assert (said.code, said.out, head(repo)) == (1, "", before)


def test_apply_reads_stdin_folders_and_several_files(repo, files):
    said = run("apply", "-f", "-", "--dry-run=client", repo=repo, stdin=API.encode())
    assert (said.code, said.out) == (0, "schedulingintent.schedctl.dev/api created (dry run)\n")
    (files / "bad.yaml").unlink()
    (files / "mixed.yaml").unlink()
    (files / "deep" / "policy.yml").write_text(POLICY.replace("default", "other"), encoding="utf-8")
    (files / "notes.txt").write_text("no manifest", encoding="utf-8")
    flat = run("apply", "-f", ".", "--dry-run=client", repo=repo)
    deep = run("apply", "-f", ".", "-R", "--dry-run=client", repo=repo)
    both = run("apply", "-f", "deep/policy.yml", "-f", "api.yaml", "--dry-run=client", repo=repo)
    assert flat.out.splitlines() == ["schedulingintent.schedctl.dev/api created (dry run)"]
    assert sorted(deep.out.splitlines()) == sorted(both.out.splitlines())
    assert len(deep.out.splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "content", "golden"),
    [
        ("broken", "a: [1\n", "error parsing"),
        ("kind", "apiVersion: x.io/v1\nkind: Foo\nmetadata: {name: a}\n", "no matches for kind"),
        ("field", API + "  wieght: 3\n", "unknown field"),
        ("unit", API.replace("2ms", "2 ms"), "wrong unit"),
        ("twice", f"{API}---\n{API}", "given twice"),
        ("node", "apiVersion: schedctl.dev/v1alpha1\nkind: NodeScheduler\nmetadata: {name: n1}\n", "its node"),
        ("latin1", API.encode() + b"# caf\xe9\n", "not UTF-8"),
        ("huge", "#" * (1 << 20) + "\n", "1 MiB"),
        ("template", "", "template"),
        ("blank", "# nothing here\n---\n", "no objects"),
    ],
)
def test_wrong_files_give_one_clear_error_and_change_nothing(repo, files, name, content, golden):
    if name == "template":
        manifest = yaml.safe_load((data_dir("templates") / "weighted-fair" / "template.yaml").read_text("utf-8"))
        manifest["spec"]["source"] = {"path": "gone.bpf.c.j2"}
        content = yaml.safe_dump(manifest)
    (files / f"{name}.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    before, listing = head(repo), git(repo, "status", "--porcelain")
    text = transcript([f"apply -f {name}.yaml"], repo)
    assert (head(repo), git(repo, "status", "--porcelain")) == (before, listing)
    check_golden(f"wrong-{name}", text)


def test_paths_and_repositories_that_are_not_there(repo, files, empty, tmp_path):
    text = transcript(["apply", "apply -f nofile.yaml", "apply -f deep", "apply -f api.yaml --dry-run=maybe"], repo)
    plain = tmp_path / "plain"
    plain.mkdir()
    text += transcript(["get intent", "apply -f api.yaml"], plain)
    text += transcript(["get intent"], tmp_path / "nowhere")
    text += transcript(["get intent", "apply -f api.yaml", "get intent -o name"], empty)
    check_golden("not-there", text.replace(str(tmp_path), "TMP"))


def test_a_bad_commit_keeps_the_last_good_one_out_of_sight_of_nobody(repo):
    """A new process has no last good state in memory: it says what is wrong rather than show half of it."""
    commit(repo, {"intents/default/bad.yaml": BAD}, "Break it", at=node().metadata.creation_timestamp)
    said = run("get", "intent", repo=repo)
    assert said.code == 1 or "Warning: " in said.err
    assert "intents/default/bad.yaml" in said.err


def test_a_template_is_committed_with_its_text(repo, files):
    folder = data_dir("templates") / "weighted-fair"
    manifest = (folder / "template.yaml").read_text("utf-8").replace("name: weighted-fair", "name: mine")
    source = yaml.safe_load(manifest)["spec"]["source"]["path"]
    (files / "template.yaml").write_text(manifest, encoding="utf-8")
    (files / source).write_bytes((folder / source).read_bytes())
    said = run("apply", "-f", "template.yaml", repo=repo)
    assert (said.code, said.out, said.err) == (0, "schedulertemplate.schedctl.dev/mine created\n", "")
    desired = GitStore(repo).read().desired
    assert desired is not None
    assert desired.templates[0].text == (folder / source).read_text("utf-8")
    assert run("get", "stpl", "mine", "-o", "name", repo=repo).out == "schedulertemplate.schedctl.dev/mine\n"


def test_delete(repo, files):
    before = commits(repo)
    text = transcript(
        [
            "delete intent nope", "delete intent nope --ignore-not-found", "delete intent web --dry-run=client",
            "delete intent web --dry-run=server", "delete nsch n1", "delete intent", "delete", "delete stpl --all",
            "delete intent web -f api.yaml", "delete intent -l app=none",
        ],
        repo,
    )  # fmt: skip
    assert commits(repo) == before
    text += transcript(["delete intent web nope", "delete intent web", "delete intent -n shop --all"], repo)
    assert commits(repo) == before + 2
    check_golden("delete", text)
    assert run("get", "intent", "-A", repo=repo).err == "No resources found\n"


def test_delete_by_file(repo, files):
    (files / "both.yaml").write_text(f"{WEB}---\n{CHECKOUT}", encoding="utf-8")
    said = run("delete", "-f", "both.yaml", "-m", "Gone", repo=repo)
    assert said.out == 'schedulingintent.schedctl.dev "web" deleted\nschedulingintent.schedctl.dev "checkout" deleted\n'
    assert git(repo, "log", "-1", "--format=%s").strip() == "Gone"


def test_diff_with_files(repo, files):
    (files / "web.yaml").write_text(WEB.replace("2ms", "5ms"), encoding="utf-8")
    (files / "same.yaml").write_text(WEB, encoding="utf-8")
    lines = ["diff -f same.yaml", "diff -f web.yaml", "diff -f api.yaml", "diff -f nofile.yaml", "diff --frob",
             "diff -f bad.yaml"]  # fmt: skip
    check_golden("diff", transcript(lines, repo))


def test_diff_with_what_is_attached(reporting):
    """The node has the revision attached, but nothing is wanted there: its profile has no task of an intent."""
    check_golden("diff-attached", transcript(["diff"], reporting))


def test_diff_without_nodes_is_the_same(repo):
    said = run("diff", repo=repo)
    assert (said.code, said.out) == (0, "")


def test_init_starts_from_the_sample(tmp_path):
    target = tmp_path / "new"
    said = run("init", str(target))
    assert (said.code, said.out) == (0, f'policy repository "{target}" created\n')
    assert run("init", str(target)).out == f'policy repository "{target}" unchanged\n'
    assert "schedulerpolicy.schedctl.dev/" in run("get", "all", "-A", "-o", "name", repo=target).out


def test_init_refuses_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    said = run("init", str(tmp_path))
    assert said.code == 1
    assert said.err.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_wait(reporting):
    lines = [
        "wait intent/checkout -n shop --for=condition=Ready --timeout=5s",
        "wait spol default --for=condition=ready=True",
        "wait intent/web --for=condition=Ready=False",
        "wait intent/web --for=condition=Ready --timeout=100ms",
        "wait intent/nope --for=condition=Ready",
        "wait intent/web",
        "wait intent/web --for=condition=Ready --timeout=5",
    ]
    check_golden("wait", transcript(lines, reporting))


def test_wait_sees_what_is_reported_later(reporting):
    import threading

    store = GitStore(reporting)
    ready = node("n2")
    timer = threading.Timer(0.3, store.put_status, ["n2", [ready]])
    store.put_status("n2", [node("n2", attached=False).model_copy(update={"status": None})])
    timer.start()
    said = run("wait", "nsch/n2", "--for=condition=Ready", "--timeout=60s", repo=reporting)
    timer.join()
    assert (said.code, said.out) == (0, "nodescheduler.schedctl.dev/n2 condition met\n")


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_what_get_prints_can_be_applied_and_deleted(reporting, output):
    printed = run("get", "intent,spol", "-A", "-o", output, repo=reporting)
    before = head(reporting)
    again = run("apply", "-f", "-", repo=reporting, stdin=printed.out.encode())
    assert (again.code, again.err) == (0, "")
    assert [line.split()[1] for line in again.out.splitlines()] == ["unchanged"] * 3
    assert head(reporting) == before
    edited = printed.out.replace("2ms", "7ms")
    assert run("apply", "-f", "-", repo=reporting, stdin=edited.encode()).out.count("configured") == 2
    stored = git(reporting, "show", "HEAD:intents/default/web.yaml")
    assert "7ms" in stored
    assert "status" not in stored
    revisions = run("get", "srev", "-o", output, repo=reporting)
    gone = run("delete", "-f", "-", repo=reporting, stdin=revisions.out.encode())
    assert gone.out == 'schedulerrevision.schedctl.dev "default-0123456789" deleted\n'


def test_closed_streams_are_no_bug(repo):
    import subprocess
    import sys

    shell = f"{sys.executable} -m controller.cli.main get intent --repo {repo} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", shell], timeout=60, check=False).returncode == 0
