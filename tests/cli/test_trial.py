# SPDX-License-Identifier: Apache-2.0
"""`schedctl verify --trial`: what is asked of the verifier, and what is refused before anything runs."""

from __future__ import annotations

import pytest

from controller import verify
from controller.api import Metric, Proposal
from controller.render import builtin_templates, template_digest
from tests import builders
from tests.cli.harness import run


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.delenv("SCHEDCTL_REPO", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.bpf.c").write_text("int x;\n")
    (tmp_path / "old.bpf.o").write_bytes(b"\x7fELF old")
    (tmp_path / "app.json").write_text('{"tasks": {"work": {}}}')
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """The specs that `examine` was given; the verifier itself goes on without a kernel."""
    found = []
    real = verify.examine

    def examine(candidate, **more):
        found.append(more["trial"])
        return real(candidate, **{**more, "trial": None, "stages": ("schema",)})

    monkeypatch.setattr(verify, "examine", examine)
    return found


def test_without_the_flag_there_is_no_trial(asked):
    run("verify", "x.bpf.c")
    assert asked == [None]


def test_a_trial_of_a_file(asked):
    argv = ("--trial", "longtail", "--mde", "8%", "--incumbent", "old.bpf.o")
    run("verify", "x.bpf.c", *argv)
    (spec,) = asked
    assert (spec.workload, spec.metric, spec.mde) == ("longtail", Metric.MAKESPAN, 0.08)
    assert spec.incumbent == b"\x7fELF old"
    assert [rail.key for rail in spec.guardrails] == ["others.throughput"]


def test_a_twin_brings_its_document(asked):
    run("verify", "x.bpf.c", "--trial", "twin", "--twin", "app.json")
    assert asked[0].twin == '{"tasks": {"work": {}}}'


@pytest.mark.parametrize(
    ("argv", "workload"), [(("--stages", "trial"), "mixed"), (("--trial", "pipeline"), "pipeline"), ((), None)]
)
def test_a_proposals_trial_follows_from_its_classes(asked, argv, workload):
    template = next(t for t in builtin_templates() if t.name == "weighted-fair")
    made: Proposal = builders.revision("r", builders.policy(), (builders.intent(),)).spec.proposal
    proposal = made.model_copy(update={"template_digest": template_digest(template)})
    run("verify", "-f", "-", *argv, stdin=proposal.canonical())
    assert [spec and spec.workload for spec in asked] == [workload]


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (("--trial", "nope"), 'unknown workload "nope"'),
        (("--mde", "5%"), "go with --trial"),
        (("--trial", "mixed", "--mde", "5"), "must be a percentage"),
        (("--trial", "mixed", "--mde", "0%"), "0 < mde"),
        (("--trial", "mixed", "--incumbent", "gone.o"), 'reading "gone.o"'),
        (("--trial", "twin"), "needs an rt-app document"),
        (("--trial", "mixed", "--twin", "app.json"), "needs an rt-app document"),
    ],
)
def test_what_is_refused(argv, error):
    said = run("verify", "x.bpf.c", *argv)
    assert said.code == 2
    assert error in said.err
