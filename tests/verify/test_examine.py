# SPDX-License-Identifier: Apache-2.0
"""One run of stages: where it ends, what the passport holds, and that only a pass is a pass."""

from __future__ import annotations

import importlib
import os
from datetime import timedelta
from pathlib import Path

import pytest

from controller.api import STAGES, Verdict, sha256
from controller.errors import GuestError, InputError, ToolMissing, TrustError
from controller.kernel import clang
from controller.kernel.images import KernelImage
from controller.kernel.microvm import EmulatorFault
from controller.paths import data_dir
from controller.trust import dsse
from controller.verify import Candidate, examine
from tests.conftest import missing
from tests.verify import sources
from tests.verify.candidates import filled

STATIC = ("schema", "render", "lint", "build", "audit")
columns_module = importlib.import_module("controller.verify.columns")


@pytest.fixture(scope="module", autouse=True)
def _tools():
    try:
        clang.compile_bpf("int x;", data_dir("bpf") / "include")
    except ToolMissing as error:
        missing(str(error))


def verdicts(passport) -> dict[str, str]:
    return {s.stage: s.verdict.value for s in passport.all_stages()}


def failed(passport):
    return next(s for s in passport.all_stages() if s.verdict in (Verdict.REJECTED, Verdict.ERROR))


@pytest.fixture
def image(tmp_path) -> KernelImage:
    """A file with the header of a boot image, and nothing that would boot."""
    path = tmp_path / "vmlinuz"
    data = bytearray(8192)
    data[0x1FE:0x200] = b"\x55\xaa"
    data[0x202:0x206] = b"HdrS"
    path.write_bytes(data)
    return KernelImage("6.99.0-test", path, "file")


def test_c_text_up_to_the_audit():
    result = examine(Candidate.from_source(sources.GOOD), stages=STATIC)
    passport = result.passport
    assert verdicts(passport) == {
        "schema": "notRun", "render": "notRun", "lint": "pass", "build": "pass", "audit": "pass",
    }  # fmt: skip
    assert passport.verdict is Verdict.PASS
    assert result.source == sources.GOOD.encode()
    assert passport.source_digest == sha256(result.source)
    assert passport.object_digest == sha256(result.object)
    assert passport.ops_name == "fifo"
    assert passport.tools.keys() == {"schedctl", "clang"}
    assert all(s.seconds > 0 and s.figures for s in passport.stages if s.verdict is Verdict.PASS)
    assert passport.expires_at - passport.issued_at == timedelta(days=30)


def test_a_passport_of_some_stages_lets_nothing_onto_a_node():
    passport = examine(Candidate.from_source(sources.GOOD), stages=STATIC).passport
    with pytest.raises(TrustError, match="never verified"):
        dsse.check(passport, object_digest=passport.object_digest or "", btf_digest="sha256:" + "0" * 64,
                   topology_class="x", at=passport.issued_at)  # fmt: skip


@pytest.mark.parametrize("pair", filled(), ids=lambda pair: pair[0].name)
def test_a_proposal_through_all_static_stages(pair):
    template, proposal = pair
    result = examine(Candidate.from_proposal(proposal, template), stages=STATIC, max_age_ns=60 * 10**9)
    assert set(verdicts(result.passport).values()) == {"pass"}
    assert result.passport.template_digest == proposal.template_digest
    assert result.passport.proposal_digest == proposal.content_digest()
    assert result.passport.ops_name.startswith("schedctl_")
    assert result.passport.expires_at - result.passport.issued_at == timedelta(seconds=60)


@pytest.mark.parametrize(("value", "says"), [("900s", "slice"), ("fast", "slice"), (-1, "slice")])
def test_a_value_out_of_range_ends_at_schema(value, says):
    template, proposal = next(pair for pair in filled() if pair[0].name == "weighted-fair")
    bad = proposal.model_copy(update={"parameters": {"slice": value}})
    result = examine(Candidate.from_proposal(bad, template))
    assert failed(result.passport).stage == "schema"
    assert says in failed(result.passport).summary
    assert result.passport.verdict is Verdict.REJECTED
    assert (result.source, result.object) == (None, None)
    assert verdicts(result.passport)["render"] == "notRun"


def test_a_template_that_changed_ends_at_render():
    template, proposal = filled()[0]
    result = examine(Candidate.from_proposal(proposal, template.with_text(template.text + "\n/* more */\n")))
    assert failed(result.passport).stage == "render"
    assert result.passport.verdict is Verdict.REJECTED


def test_a_lint_error_ends_the_run_with_line_and_fix():
    result = examine(Candidate.from_source(sources.WRONG_CPU))
    stage = failed(result.passport)
    assert stage.stage == "lint"
    assert stage.verdict is Verdict.REJECTED
    assert [f.rule for f in stage.findings if f.severity == "error"] == ["lint/local-on-unguarded"]
    assert stage.findings[0].line
    assert result.object is None
    assert verdicts(result.passport)["build"] == "notRun"


def test_c_that_does_not_compile_ends_at_build():
    result = examine(Candidate.from_source(sources.GOOD.replace("return cpu;", "return cpuu;")))
    stage = failed(result.passport)
    assert (stage.stage, stage.verdict) == ("build", Verdict.REJECTED)
    assert "undeclared identifier 'cpuu'" in stage.summary
    assert "cpu" in sources.GOOD.splitlines()[stage.findings[0].line - 1]
    assert result.passport.object_digest is None


def test_an_object_that_is_not_bpf_ends_at_audit(tmp_path):
    file = tmp_path / "x.bpf.o"
    file.write_bytes(Path("/proc/self/exe").read_bytes()[:4096])
    result = examine(Candidate.from_file(file))
    assert failed(result.passport).stage == "audit"
    assert result.passport.verdict is Verdict.REJECTED
    assert verdicts(result.passport)["lint"] == "notRun"


def test_stages_that_others_need_run_too():
    passport = examine(Candidate.from_source(sources.GOOD), stages=["audit"]).passport
    assert verdicts(passport)["build"] == "pass"
    assert verdicts(passport)["lint"] == "notRun"
    assert next(s for s in passport.stages if s.stage == "lint").summary == "not asked for"


def test_no_stage_is_no_pass():
    assert examine(Candidate.from_source(sources.GOOD), stages=["trial"]).passport.verdict is Verdict.NOT_RUN


def test_an_unknown_stage_is_refused():
    with pytest.raises(InputError, match='unknown stage "lintt"'):
        examine(Candidate.from_source(""), stages=["lintt"])


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda image, patch: patch.setenv("SCHEDCTL_QEMU", "/nonexistent/qemu"), "no /nonexistent/qemu"),
        (lambda image, patch: image.path.write_bytes(b"not a kernel" * 100), "not a bootable Linux kernel image"),
        (lambda image, patch: image.path.unlink(), "cannot read the kernel image"),
        (
            lambda image, patch: image.path.with_name("config").write_text("\n# CONFIG_SCHED_CLASS_EXT is not set\n"),
            "6.99.0-test is built without sched_ext",
        ),
        (lambda image, patch: patch.setenv("PATH", "/nonexistent"), "no "),
    ],
    ids=["no QEMU", "no image", "no file", "no sched_ext", "no programs"],
)
def test_what_this_machine_lacks_is_an_error_and_never_a_verdict(image, monkeypatch, prepare, says):
    built = examine(Candidate.from_source(sources.GOOD), stages=STATIC).object
    prepare(image, monkeypatch)
    result = examine(Candidate.from_object(built or b""), kernels=[image])
    stage = failed(result.passport)
    assert (stage.stage, stage.verdict) == ("load", Verdict.ERROR)
    assert says in stage.summary
    assert result.passport.verdict is Verdict.ERROR
    assert result.object == built


def test_without_a_kernel_there_is_no_verdict():
    result = examine(Candidate.from_source(sources.GOOD))
    assert failed(result.passport).verdict is Verdict.ERROR
    assert "schedctl kernel pull newest" in failed(result.passport).summary


@pytest.mark.parametrize(
    ("fault", "attempts"),
    [(EmulatorFault("the guest panicked", console="Oops: int3"), 3), (GuestError("the guest is gone"), 1)],
)
def test_only_an_emulators_fault_is_tried_again(image, monkeypatch, fault, attempts):
    boots = []

    def boot(*_args, **_named):
        boots.append(1)
        raise fault

    monkeypatch.setattr(columns_module, "boot", boot)
    passport = examine(Candidate.from_source(sources.GOOD), kernels=[image]).passport
    assert passport.verdict is Verdict.ERROR
    assert len(boots) == attempts


def test_the_reporter_hears_of_every_stage():
    heard = []

    class Listening:
        def step(self, text):
            heard.append(("step", text.split(":")[0]))

        def done(self, text):
            heard.append(("done", text.split(":")[0]))

        def failed(self, text):
            heard.append(("failed", text.split(":")[0]))

    examine(Candidate.from_source(sources.GOOD.replace("return cpu;", "return cpuu;")), reporter=Listening())
    assert heard == [("step", "lint"), ("done", "lint"), ("step", "build"), ("failed", "build")]


def test_files_are_told_apart_by_what_they_hold(tmp_path):
    source = tmp_path / "a.bpf.c"
    source.write_text("int x;")
    assert Candidate.from_file(source).source == "int x;"
    elf = tmp_path / "noname"
    elf.write_bytes(b"\x7fELF rest")
    assert Candidate.from_file(elf).image == b"\x7fELF rest"


def test_files_that_are_no_candidate_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "big.o").write_bytes(b"\0" * (9 << 20))
    for name, says in {
        "nothing.c": "does not exist",
        "": "is not a regular file",
        "pipe": "is not a regular file",
        "binary": "neither C text nor a BPF object",
        "big.o": "larger than 8 MiB",
    }.items():
        with pytest.raises(InputError, match=says):
            Candidate.from_file(tmp_path / name)


def test_the_stages_are_the_designs():
    assert (*STATIC, "load", "liveness", "trial") == STAGES
