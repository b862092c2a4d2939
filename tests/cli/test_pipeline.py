# SPDX-License-Identifier: Apache-2.0
"""plan, render and verify by hand: the value that one prints is the value that the next one reads."""

from __future__ import annotations

import json

import pytest
import yaml

from controller.api import Proposal, RenderedSource, WorkloadProfile
from controller.render import builtin_templates, render, template_digest
from tests import builders
from tests.cli.conftest import POLICY
from tests.cli.harness import T0 as START
from tests.cli.harness import commit, run
from tests.plan.search_case import need_optuna


@pytest.fixture(autouse=True)
def no_repository_here(tmp_path, monkeypatch):
    monkeypatch.delenv("SCHEDCTL_REPO", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def template(name: str = "weighted-fair"):
    return next(t for t in builtin_templates() if t.name == name)


@pytest.fixture
def proposal() -> Proposal:
    made = builders.revision("r", builders.policy(), (builders.intent(),)).spec.proposal
    return made.model_copy(update={"template_digest": template_digest(template())})


@pytest.fixture
def profile() -> WorkloadProfile:
    """A node on which both intents of the sample repository have tasks."""
    matches = [{"intent": name, "tasks": 4} for name in ("default/web", "shop/checkout")]
    workloads = [
        {"name": "shop/checkout", "keyedBy": "intent", "tasks": 4, "cpuShare": 0.1, "cpuNs": 2_000_000_000},
        {"name": "default/web", "keyedBy": "intent", "tasks": 4, "cpuShare": 0.2, "cpuNs": 4_000_000_000},
        {"name": "others", "keyedBy": "others", "tasks": 90, "cpuShare": 0.5, "cpuNs": 10_000_000_000},
    ]
    return WorkloadProfile.model_validate(
        {
            "node": "n1", "takenAt": START, "windowNs": 10_000_000_000, "observer": "bcc",
            "topology": builders.TOPOLOGY, "kernel": builders.KERNEL, "workloads": workloads, "matches": matches,
        }
    )  # fmt: skip


def test_render_prints_the_c_and_nothing_else(no_repository_here, proposal):
    (no_repository_here / "p.json").write_text(json.dumps(proposal.wire()), encoding="utf-8")
    (no_repository_here / "p.yaml").write_text(yaml.safe_dump(proposal.wire()), encoding="utf-8")
    expected: RenderedSource = render(proposal, template())
    for path in ("p.json", "p.yaml"):
        said = run("render", "-f", path)
        assert (said.code, said.out, said.err) == (0, expected.text, "")
    assert run("render", "-f", "-", stdin=proposal.canonical()).out == expected.text


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"template": "nope"}, 'error: there is no SchedulerTemplate "nope"'),
        ({"templateDigest": builders.digest("a")}, "the text has changed since the proposal was made"),
        ({"parameters": {"nope": 1}}, "nope"),
        ({"expressions": {"nope": "1"}}, "unknown hole 'nope'"),
        ({"frob": 1}, 'The Proposal "" is invalid: strict decoding error: unknown field "frob" (STDIN)'),
        ({"template": None}, 'The Proposal "" is invalid: '),
    ],
)
def test_render_refuses(proposal, change, error):
    said = run("render", "-f", "-", stdin=json.dumps({**proposal.wire(), **change}).encode())
    assert (said.code, said.out) == (1, "")
    assert error in said.err


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"", "error: error parsing STDIN: one document is needed, 0 are there (STDIN)"),
        (b"a: 1\n---\nb: 2\n", "one document is needed, 2 are there"),
        (b"{", "error: error parsing STDIN: Expecting property name"),
        (b"[1, 2]", 'The Proposal "" is invalid: '),
        (b"a: [1\n", "error: error parsing STDIN: error converting YAML to JSON: "),
        (b"\xff", "not UTF-8 text: byte 0xff at offset 0 (STDIN:1)"),
        (b"{" * 100_000, "error: error parsing STDIN: "),
        (b"a: &a [" + b"*a, " * 3 + b"]", "an alias contains itself"),
    ],
)
def test_values_that_cannot_be_read(text, error):
    said = run("render", "-f", "-", stdin=text)
    assert (said.code, said.out) == (1, "")
    assert error in said.err
    assert "bug" not in said.err


def test_plan_renders(repo, profile, no_repository_here):
    (no_repository_here / "profile.json").write_text(json.dumps(profile.wire()), encoding="utf-8")
    planned = run("plan", "-f", "profile.json", repo=repo)
    assert (planned.code, planned.err) == (0, "")
    found = Proposal.model_validate(yaml.safe_load(planned.out))
    assert found.planner.name == "rules"
    assert sorted(c.intent for c in found.classes) == ["default/web", "shop/checkout"]
    assert found.reasons
    assert run("plan", "-f", "profile.json", repo=repo).out == planned.out
    as_json = run("plan", "-f", "profile.json", "-o", "json", "--planner", "rules", repo=repo)
    assert Proposal.model_validate_json(as_json.out) == found
    rendered = run("render", "-f", "-", stdin=planned.out.encode(), repo=repo)
    assert (rendered.code, rendered.err) == (0, "")
    assert 'SEC(".struct_ops' in rendered.out or "struct_ops" in rendered.out


def test_plan_by_search_where_nothing_can_be_measured_is_by_rules_and_says_why(repo, profile, no_repository_here):
    need_optuna()
    (no_repository_here / "profile.json").write_text(json.dumps(profile.wire()), encoding="utf-8")
    by_rules = run("plan", "-f", "profile.json", "--planner", "rules", "-o", "json", repo=repo)
    searched = run(
        "plan", "-f", "profile.json", "--planner", "search", "-o", "json", "--record", "bundle", repo=repo
    )  # fmt: skip
    assert searched.code == 0, searched.err
    found, own = Proposal.model_validate_json(searched.out), Proposal.model_validate_json(by_rules.out)
    assert found.planner.note.startswith("search gave no proposal: ")
    assert builders.KERNEL.release in found.planner.note, "there is no image of it"
    assert found.model_copy(update={"planner": own.planner}) == own
    again = run("plan", "--replay", "bundle", "-o", "json", repo=repo)
    assert again.out == searched.out


def test_plan_uses_what_a_node_reported(reporting, profile):
    from controller.source import GitStore
    from tests.cli.conftest import node

    reported = node()
    assert reported.status is not None
    with_profile = reported.model_copy(update={"status": reported.status.model_copy(update={"profile": profile})})
    GitStore(reporting).put_status("n1", [with_profile])
    assert run("plan", "--node", "n1", repo=reporting).code == 0
    assert run("plan", "--node", "n2", repo=reporting).err == 'error: node "n2" has not reported (known are: n1)\n'


def test_plan_finds_nothing_for_intents_that_match_nothing(repo, profile):
    idle = profile.model_copy(update={"matches": ()})
    said = run("plan", "-f", "-", stdin=idle.canonical(), repo=repo)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("error: no plan: none of the 2 intents matches a task of the profile")


def test_plan_under_policies_that_quarrel_or_are_not_there(repo, profile):
    commit(repo, {"policies/other.yaml": POLICY.replace("name: default", "name: other")}, "A tie", START)
    said = run("plan", "-f", "-", stdin=profile.canonical(), repo=repo)
    assert (said.code, said.err) == (
        1,
        "error: policies default, other select this node with equal priority (name one with --policy)\n",
    )
    assert run("plan", "-f", "-", "--policy", "other", stdin=profile.canonical(), repo=repo).code == 0
    wrong = run("plan", "-f", "-", "--policy", "nope", stdin=profile.canonical(), repo=repo)
    assert wrong.err == 'Error from server (NotFound): schedulerpolicies.schedctl.dev "nope" not found\n'
    assert run("plan", "-f", "-", "--planner", "magic", stdin=profile.canonical(), repo=repo).code == 1


def test_plan_refuses_what_is_no_profile(repo):
    said = run("plan", "-f", "-", stdin=b'{"node": "n1"}', repo=repo)
    assert said.code == 1
    assert said.err.startswith('The WorkloadProfile "" is invalid: \n* takenAt: Required value\n')


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_plan_refuses_numbers_without_an_end(repo, profile, form):
    value = profile.wire() | {"windowNs": 10**400}
    text = json.dumps(value) if form == "json" else yaml.safe_dump(value)
    said = run("plan", "-f", "-", stdin=text.encode(), repo=repo)
    assert (said.code, said.out) == (1, "")
    assert "a whole number has " in said.err
    assert len(said.err.splitlines()) == 1


def test_verify_says_pass_and_rejected_by_exit_code(no_repository_here, proposal, monkeypatch, tmp_path):
    monkeypatch.setenv("SCHEDCTL_CONFIG", str(tmp_path / "config"))
    (no_repository_here / "p.json").write_text(json.dumps(proposal.wire()), encoding="utf-8")
    (no_repository_here / "good.bpf.c").write_text(render(proposal, template()).text, encoding="utf-8")
    (no_repository_here / "bad.bpf.c").write_text("int x = ;\n", encoding="utf-8")
    good = run("verify", "good.bpf.c", "--stages", "lint,build,audit", "--passport", "passport.json")
    assert good.code == 0, good.err + good.out
    verdicts = {line.split()[0]: line.split()[2] for line in good.out.splitlines()[1:6]}
    assert verdicts == {"schema": "notRun", "render": "notRun", "lint": "pass", "build": "pass", "audit": "pass"}
    assert good.out.splitlines()[-1] == "good.bpf.c passed"
    assert (no_repository_here / "passport.json").exists()
    bad = run("verify", "bad.bpf.c", "--stages", "build")
    assert bad.code == 1, bad.err
    assert bad.out.rstrip().splitlines()[-1].startswith("bad.bpf.c rejected: build: ")
    from_proposal = run("verify", "-f", "p.json", "--stages", "schema,render,lint,build", "-o", "json")
    assert from_proposal.code == 0
    assert json.loads(from_proposal.out)["verdict"] == "pass"


@pytest.mark.parametrize(
    ("argv", "code", "error"),
    [
        ((), 2, "error: name a FILE.bpf.c or FILE.bpf.o, or a proposal with -f, not both"),
        (("x.bpf.c", "-f", "p.json"), 2, "not both"),
        (("nofile.bpf.c",), 2, "nofile.bpf.c"),
        (("binary",), 2, 'error: "binary" is neither C text nor a BPF object'),
        (("x.bpf.c", "--stages", "lint,nope"), 2, 'error: unknown stage "nope" (the stages are schema, render,'),
        (("x.bpf.c", "--kernel", "9.9.9"), 2, "error: kernel image 9.9.9 is not on this machine"),
        (("x.bpf.c", "--kernel", "./note.txt"), 2, "is not an x86 Linux boot image"),
        (("notelf.bpf.o", "--stages", "audit"), 1, ""),
    ],
)
def test_verify_refuses(no_repository_here, argv, code, error):
    (no_repository_here / "x.bpf.c").write_text("int x;\n", encoding="utf-8")
    (no_repository_here / "note.txt").write_text("a note\n", encoding="utf-8")
    (no_repository_here / "notelf.bpf.o").write_text("no object\n", encoding="utf-8")
    (no_repository_here / "binary").write_bytes(b"\x00\xff")
    said = run("verify", *argv)
    assert said.code == code, said.err + said.out
    assert error in said.err
    assert "bug" not in said.err


def test_verify_without_a_kernel_still_tells_what_is_wrong_with_the_candidate(
    no_repository_here, proposal, monkeypatch
):
    monkeypatch.setenv("SCHEDCTL_CACHE", str(no_repository_here / "cache"))
    monkeypatch.setattr("controller.kernel.images._BOOT", no_repository_here / "boot")
    (no_repository_here / "bad.bpf.c").write_text("int x = ;\n", encoding="utf-8")
    bad = run("verify", "bad.bpf.c")
    assert (bad.code, bad.err) == (1, "")
    good = run("verify", "-f", "-", stdin=proposal.canonical())
    assert good.code == 2
    assert good.out.splitlines()[-1].startswith("scheduler.bpf.c has no verdict: load: ")
    assert "schedctl kernel pull newest" in good.out


@pytest.mark.kernel
@pytest.mark.parametrize("text", [pytest.param(None, id="template"), pytest.param("hog", id="not a scheduler")])
def test_verify_loads_on_a_real_kernel(no_repository_here, proposal, text):
    from controller.errors import ToolMissing
    from controller.kernel import images, qemu
    from tests.conftest import missing

    try:
        qemu.find()
        release = images.resolve("newest").release
    except ToolMissing as error:
        missing(error.message, error.remedy)
    source = render(proposal, template()).text
    if text:  # a loop without a bound: only the kernel's own verifier can tell
        head, sep, tail = source.partition("BPF_STRUCT_OPS(")
        body = tail.index("{") + 1
        source = head + sep + tail[:body] + "\n\tfor (volatile int i = 0; i >= 0; i++) ;\n" + tail[body:]
    (no_repository_here / "x.bpf.c").write_text(source, encoding="utf-8")
    said = run("verify", "x.bpf.c", "--stages", "build,audit,load", "--kernel", "newest")
    row = next(line.split() for line in said.out.splitlines() if line.startswith("load"))
    assert row[1:3] == [release, "rejected" if text else "pass"], said.out
    assert said.code == (1 if text else 0)
