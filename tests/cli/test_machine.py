# SPDX-License-Identifier: Apache-2.0
"""The verbs about this machine, each with its real tool behind it, in folders of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import controller
from controller.api import WorkloadProfile, crd
from controller.kernel import schedext
from controller.kernel.tools import requirements
from controller.render import builtin_templates
from controller.render.holes import hole_names
from controller.verify.lint import rules
from tests.cli.harness import check_golden, run, transcript
from tests.observe.loads import SLEEPER, running


@pytest.fixture(autouse=True)
def homes(tmp_path, monkeypatch):
    """Cache, keys and state of this test alone; no policy repository in the current folder."""
    for name in ("CACHE", "CONFIG", "STATE"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"SCHEDCTL_{name}", str(tmp_path / name))
    monkeypatch.delenv("SCHEDCTL_REPO", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return tmp_path


def test_keys(homes, tmp_path):
    assert run("key", "list").err.startswith("No keys are trusted here")
    made = run("key", "generate")
    assert (made.code, made.err) == (0, "")
    keyid = made.out.split()[0].removeprefix("key/")
    listed = run("key", "list")
    assert listed.out.splitlines()[0].split() == ["NAME", "SIGNS", "HERE", "KEYID"]
    assert listed.out.splitlines()[1].split()[1:] == [
        "yes",
        json.loads(run("key", "list", "-o", "json").out)["keys"][0]["keyid"],
    ]
    assert keyid in listed.out
    again = run("key", "generate")
    assert again.code == 1
    assert "exists already" in again.err


def test_key_of_another_machine_is_trusted_by_its_public_file(homes, tmp_path, monkeypatch):
    run("key", "generate")
    public = next((homes / "CONFIG" / "trusted").glob("*.pub"))
    monkeypatch.setenv("SCHEDCTL_CONFIG", str(tmp_path / "other"))
    assert run("key", "trust", str(public)).out.endswith(" trusted\n")
    assert run("key", "list").out.splitlines()[1].split()[1] == "no"
    assert run("key", "trust", "nofile.pub").err == 'error: the path "nofile.pub" does not exist\n'
    junk = tmp_path / "junk.pub"
    junk.write_text("not a key", encoding="utf-8")
    wrong = run("key", "trust", str(junk))
    assert (wrong.code, wrong.err.startswith("error: ")) == (1, True)


def test_crd_generate_writes_what_is_committed(tmp_path):
    target = tmp_path / "out" / "crds"
    first = run("crd", "generate", "--dir", str(target))
    assert first.out.splitlines() == [f"{target / name} generated" for name in crd.generate()]
    assert {path.name: path.read_text("utf-8") for path in target.iterdir()} == crd.generate()
    assert all(line.endswith(" unchanged") for line in run("crd", "generate", "--dir", str(target)).out.splitlines())
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert run("crd", "generate", "--dir", str(tmp_path / "file")).code == 1


def test_doctor_names_every_requirement_with_its_remedy():
    said = run("doctor", "-o", "json")
    checks = json.loads(said.out)["checks"]
    assert [check["name"] for check in checks] == [requirement.name for requirement in requirements()]
    assert all(check["remedy"] for check in checks if not check["ok"])
    missing = [check["name"] for check in checks if check["status"] == "Missing"]
    assert said.code == (1 if missing else 0)
    assert "kernel-headers" in missing  # the merged tree lies in the cache, which is empty here
    assert said.err.startswith("error: missing: ")


def test_doctor_table():
    lines = run("doctor").out.splitlines()
    assert lines[0].split() == ["NAME", "STATUS", "FOUND", "NEED", "REMEDY"]
    assert len(lines) == 1 + len(requirements())
    assert run("doctor", "-o", "wide").out.splitlines()[0].split() == [
        "NAME",
        "STATUS",
        "FOUND",
        "NEED",
        "WHY",
        "REMEDY",
    ]


def test_kernel_list(homes):
    image = homes / "CACHE" / "kernels" / "9.9.9-test" / "vmlinuz"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"")
    (image.parent / "config").write_text("\nCONFIG_SCHED_CLASS_EXT=y\n", encoding="utf-8")
    lines = run("kernel", "list").out.splitlines()
    assert lines[0].split() == ["RELEASE", "SOURCE", "SCHED_EXT", "PATH"]
    assert ["9.9.9-test", "archive", "yes", str(image)] in [line.split() for line in lines]
    assert any(k["release"] == "9.9.9-test" for k in yaml.safe_load(run("kernel", "list", "-o", "yaml").out)["kernels"])


def test_kernel_pull_offline_names_what_is_missing(monkeypatch):
    monkeypatch.setenv("SCHEDCTL_OFFLINE", "1")
    said = run("kernel", "pull", "newest")
    assert said.code == 2
    assert said.err.startswith("error: no kernel image for 'newest'")


def test_node_verbs_without_nodes(repo):
    lines = [
        "node list", "node stop --all", "node stop n1", "node exec n1 -- true", "node start Bad_Name --kernel oldest",
        "node start n1 --memory lots", "node start n1 --cpus two", "node list -o json",
    ]  # fmt: skip
    check_golden("node", transcript(lines, repo))


def test_node_start_wants_a_repository_where_one_is_named(tmp_path):
    said = run("node", "start", "--repo", str(tmp_path))
    assert said.code == 1
    assert said.err == f"error: {tmp_path} is not a policy repository (schedctl init {tmp_path})\n"


def test_eject_holds_with_nothing_else_working(homes):
    if schedext.ops_name():
        pytest.skip("a scheduler is attached on this machine: it is not ours to eject")
    said = run("eject", "--reason", "a test", repo=homes / "no" / "repository")
    assert (said.code, said.out) == (0, "no sched_ext scheduler was attached; held\n")
    assert (homes / "STATE" / "eject.hold").read_text("utf-8") == "a test\n"
    assert run("eject", "--release").out == "eject released\n"
    assert run("eject", "--release").out == "eject was not in force\n"


def test_observe_records_what_it_prints(tmp_path):
    record = tmp_path / "profile.json"
    said = run("observe", "--procfs", "--for", "200ms", "--record", str(record))
    assert said.code == 0
    assert said.err.startswith("Warning: observed with procfs: ")
    profile = WorkloadProfile.model_validate_json(record.read_text("utf-8"))
    assert profile.observer == "procfs"
    assert len(said.out.splitlines()) == 1 + len(profile.workloads)
    before = record.read_text("utf-8")
    assert run("observe", "--procfs", "--for", "50ms", "--record", str(tmp_path)).code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CACHE", "CONFIG", "STATE", "profile.json", "work"]
    assert run("observe", "--procfs", "--for", "50ms", "--record", str(tmp_path / "no" / "dir" / "p.json")).code == 0
    assert run("observe", "--procfs", "--for", "50ms", "--record", str(record / "p.json")).code == 1
    assert record.read_text("utf-8") == before


def test_observe_records_into_a_pipe_and_through_a_link(tmp_path):
    target = tmp_path / "real.json"
    target.write_text("old", encoding="utf-8")
    (tmp_path / "link.json").symlink_to(target)
    run("observe", "--procfs", "--for", "50ms", "--record", str(tmp_path / "link.json"))
    assert (tmp_path / "link.json").is_symlink()
    recorded = target.read_bytes()
    assert WorkloadProfile.model_validate_json(recorded).observer == "procfs"
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        run("observe", "-f", str(target), "--record", str(tmp_path / "pipe"))
        assert reader.communicate(timeout=60)[0] == recorded
    assert (tmp_path / "pipe").is_fifo()


def test_observe_intent(repo):
    def selector(**workload: object) -> bytes:
        spec = {"workload": workload, "objective": {"metric": "wakeupLatency", "goal": "minimize"}}
        wanted = {"apiVersion": "schedctl.dev/v1alpha1", "kind": "SchedulingIntent", "spec": spec}
        return json.dumps({**wanted, "metadata": {"name": "sleepers", "namespace": "test"}}).encode()

    with running(b"observe-intent", SLEEPER) as process, running(b"Observe-Intent", SLEEPER) as other:
        assert run("apply", "-f", "-", repo=repo, stdin=selector(comm=["observe-intent"])).code == 0
        said = run("observe", "--intent", "sleepers", repo=repo)
        assert (said.code, said.err) == (0, "")
        lines = said.out.splitlines()
        assert re.fullmatch(r"test/sleepers matches 1 of \d+ tasks", lines[0])
        assert lines[2].split() == ["PID", "TID", "COMM", "USER", "CGROUP"]
        assert lines[3].split()[:3] == [str(process.pid), str(process.pid), "observe-intent"]
        near = next(line.split() for line in lines if line.startswith("Observe-Intent "))
        assert near[1:3] == ["1", str(other.pid)]
        assert re.search(r"\ncomm:   \d+ tasks, such as ", said.out)
        found = json.loads(run("observe", "--intent", "test/sleepers", "-o", "json", repo=repo).out)
        assert [task["pid"] for task in found["tasks"]] == [process.pid]
        assert [miss["field"] for miss in found["misses"]] == ["comm"]
        assert found["nearMisses"][0]["why"].startswith("comm: ")
    assert run("apply", "-f", "-", repo=repo, stdin=selector(podSelector={"app": "web"})).code == 0
    said = run("observe", "--intent", "sleepers", repo=repo)
    assert "Warning: podSelector: the labels of pods are known to the Kubernetes API alone" in said.err


def test_observe_intent_refuses(repo):
    said = run("observe", "--intent", "nope", repo=repo)
    assert said.err == 'Error from server (NotFound): schedulingintents.schedctl.dev "nope" not found\n'
    assert run("observe", "--intent", "other/web", repo=repo).code == 1
    assert run("observe", "--intent", "default/web", repo=repo).code == 0
    assert run("observe", "--intent", "web", "-f", "p.json", repo=repo).code == 1
    assert run("observe", "--intent", "web").code == 1  # no repository here


@pytest.mark.parametrize("window", ["0s", "2h", "10", "-5s"])
def test_observe_refuses_a_window(window):
    said = run("observe", f"--for={window}")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f'error: invalid argument "{window}" for "--for" flag')


def test_observe_gives_committed_intents_a_row(repo):
    profile = json.loads(run("observe", "--procfs", "--for", "50ms", "-o", "json", repo=repo).out)
    assert sorted(match["intent"] for match in profile["matches"]) == ["default/web", "shop/checkout"]


def test_explain_lint():
    listed = run("explain", "lint").out.splitlines()
    assert [line.split()[0] for line in listed[1:]] == [rule.id for rule in rules.all()]
    for rule in rules.all():
        text = run("explain", rule.id).out
        assert text.startswith(f"RULE:      {rule.id}\nSEVERITY:  {rule.severity}\n")
        assert "\nBAD:\n" in text
    wrong = run("explain", "lint/nope")
    assert (wrong.code, wrong.err) == (1, 'error: there is no lint rule "lint/nope" (see: schedctl explain lint)\n')


@pytest.mark.skipif(schedext.supported(), reason="this machine's scheduler is not the test's to change")
def test_agent_run_once_reports_why_it_stalls(repo, homes):
    # In a process of its own: the agent changes its priority.
    arguments = ["--once", "--role", "node", "--node-name", "here", "--observe", "100ms", "--repo", str(repo)]
    command = [sys.executable, "-m", "controller.cli.main", "agent", "run", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(controller.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "NoSchedExt" in done.stderr
    status = run("status", "-o", "json", repo=repo)
    node = json.loads(status.out)["items"][0]
    ready = next(c for c in node["status"]["conditions"] if c["type"] == "Ready")
    assert (node["metadata"]["name"], ready["status"], ready["reason"]) == ("here", "False", "NoSchedExt")
    assert node["spec"]["labels"] == {"kubernetes.io/hostname": "here"}
    steady = next(c for c in node["status"]["conditions"] if c["type"] == "LoadChanged")
    assert (steady["status"], steady["reason"]) == ("Unknown", "Learning")
    (kept,) = (homes / "STATE" / "profiles").iterdir()
    profile = node["status"]["profile"]
    assert WorkloadProfile.model_validate_json(kept.read_bytes()) == WorkloadProfile.model_validate(profile)


def test_explain_hole_documents_the_names_of_every_hole():
    listed = run("explain", "hole").out
    for template in builtin_templates():
        for hole in template.spec.holes:
            name = f"hole/{template.name}.{hole.name}"
            assert name in listed
            text = run("explain", name).out
            for each in hole_names(template, hole):
                assert each.description, f"{name}: nothing is said of {each.name}"
                assert f"{each.name} " in text
                assert each.shown in text
    wrong = run("explain", "hole/weighted-fair.slcie")
    assert wrong.code == 1
    assert "hole/weighted-fair.slice" in wrong.err
