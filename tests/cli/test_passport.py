# SPDX-License-Identifier: Apache-2.0
"""`schedctl passport show|verify` on files and on committed revisions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from controller.api import EvidenceFile, KernelColumn, Passport, RevisionBytes, StageResult, Verdict, sha256
from controller.api.passport import STAGES
from controller.source import GitStore, init
from controller.trust import dsse, keys
from tests.builders import BTF, T0, TOPOLOGY, intent, later, policy, revision
from tests.cli.harness import check_golden, run, transcript

SOURCE, OBJECT, LOG = b"int x;\n", b"\x7fELF object", b"Linux version 7.3.4\n"


@pytest.fixture(autouse=True)
def homes(tmp_path, monkeypatch):
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"SCHEDCTL_{name}", str(tmp_path / name))
    monkeypatch.delenv("SCHEDCTL_REPO", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def passport(**changes: object) -> Passport:
    stages = {s: StageResult(stage=s, verdict=Verdict.PASS, summary="ok", seconds=1.25) for s in STAGES[:7]}
    column = KernelColumn(
        release="7.3.4-test",
        btf_digest=BTF,
        topology_class=TOPOLOGY.topology_class,
        stages=(stages["load"], stages["liveness"]),
    )
    made = Passport(
        verdict=Verdict.PASS,
        object_digest=sha256(OBJECT),
        source_digest=sha256(SOURCE),
        ops_name="schedctl_000000000001",
        stages=tuple(stages[s] for s in STAGES[:5]),
        kernels=(column,),
        attachments=(EvidenceFile(name="dmesg-7.3.4-test.txt", digest=sha256(LOG), size=len(LOG)),),
        issued_at=T0,
        expires_at=later(30 * 86400),
    )
    return made.model_copy(update=changes)


@pytest.fixture
def file(homes) -> Path:
    """A passport in a file, with what it is for and its evidence beside it."""
    (homes / "p.json").write_bytes(dsse.sign(passport(), keys.ensure_signing_key()).canonical())
    (homes / "s.bpf.o").write_bytes(OBJECT)
    (homes / "s.bpf.c").write_bytes(SOURCE)
    (homes / "p.json.evidence").mkdir()
    (homes / "p.json.evidence" / "dmesg-7.3.4-test.txt").write_bytes(LOG)
    return homes / "p.json"


def test_what_it_says(file):
    files = "--object s.bpf.o --source s.bpf.c"
    kernel = f"--kernel-btf {BTF} --topology {TOPOLOGY.topology_class}"
    lines = ["passport show p.json", f"passport verify p.json {files} {kernel}", "passport verify p.json"]
    check_golden("passport", transcript(lines, None))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("s.bpf.o", "object"),
        ("s.bpf.c", "source"),
        ("p.json.evidence/dmesg-7.3.4-test.txt", "evidence dmesg-7.3.4-test.txt"),
        ("p.json", "signature"),
    ],
)
def test_a_changed_byte_is_refused_by_the_name_of_its_file(file, changed, named):
    path = file.parent / changed
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    said = run("passport", "verify", "p.json", "--object", "s.bpf.o", "--source", "s.bpf.c", "-o", "json")
    refused = [c["check"] for c in json.loads(said.out)["checks"] if c["result"] == "refused"]
    assert (said.code, refused) == (1, [named])


def test_time_kernel_and_verdict_are_held_against_it(file):
    late = run("passport", "verify", "p.json", now=later(31 * 86400))
    assert late.code == 1
    assert "refused: validity" in late.out
    other = run("passport", "verify", "p.json", "--kernel-btf", "sha256:" + "0" * 64, "--topology", "x")
    assert other.code == 1
    assert "was never verified" in other.out
    file.write_bytes(dsse.sign(passport(verdict=Verdict.REJECTED), keys.load_signing_key()).canonical())
    assert "refused: stages" in run("passport", "verify", "p.json").out


def test_a_strangers_passport_is_shown_with_a_warning_and_refused(file, tmp_path, monkeypatch):
    monkeypatch.setenv("SCHEDCTL_CONFIG", str(tmp_path / "another"))
    shown = run("passport", "show", "p.json")
    assert shown.code == 0
    assert shown.err.startswith("Warning: this passport is not to be believed: no trusted key signed")
    assert "liveness" in shown.out
    assert run("passport", "verify", "p.json").code == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["verify", "none.json"], 2, 'the path "none.json" does not exist'),
        (["verify", "."], 2, "Is a directory"),
        (["verify"], 2, "name one passport"),
        (["verify", "p.json", "--object", "gone.o"], 2, 'the path "gone.o" does not exist'),
        (["verify", "p.json", "--evidence", "gone"], 2, 'the folder "gone" does not exist'),
        (["verify", "p.json", "--kernel-btf", "7.3"], 2, "must be node or sha256:"),
        (["verify", "p.json", "--topology", "x"], 2, "goes with --kernel-btf"),
        (["show", "s.bpf.c"], 1, "is not JSON"),
        (["show"], 1, "name one passport"),
    ],
)
def test_bad_words_are_one_clear_error(file, words, code, says):
    said = run("passport", *words)
    assert said.code == code
    assert says in said.err
    assert "Traceback" not in said.err


def test_a_revisions_passport_is_read_from_the_object_database(tmp_path):
    repo = tmp_path / "policies"
    init(repo)
    made = revision("default-1", policy(), (intent(),))
    digests = made.spec.digests
    signed = passport(template_digest=digests.template, proposal_digest=digests.proposal, ops_name=made.spec.ops_name)
    envelope = dsse.sign(signed, keys.ensure_signing_key()).canonical()
    digests = digests.model_copy(
        update={"source": sha256(SOURCE), "object": sha256(OBJECT), "passport": sha256(envelope)}
    )
    files = made.spec.files.model_copy(update={"evidence": ("default-1/evidence/dmesg-7.3.4-test.txt",)})
    made = made.model_copy(update={"spec": made.spec.model_copy(update={"digests": digests, "files": files})})
    evidence = {"dmesg-7.3.4-test.txt": LOG}
    store = GitStore(repo)
    store.add_revision(made, RevisionBytes(source=SOURCE, object=OBJECT, passport=envelope, evidence=evidence))
    (repo / "revisions" / "default-1" / "scheduler.bpf.o").write_bytes(b"in the work tree alone")
    said = run("passport", "verify", "srev/default-1", repo=repo)
    assert said.code == 0, said.out
    assert [line.split()[0] for line in said.out.splitlines() if " ok " in line] == [
        "signature", "object", "source", "template", "proposal", "evidence", "stages", "validity",
    ]  # fmt: skip
    assert run("passport", "show", "default-1", repo=repo).code == 0
    gone = run("passport", "show", "default-9", repo=repo)
    assert (gone.code, gone.err) == (
        1,
        'Error from server (NotFound): schedulerrevisions.schedctl.dev "default-9" not found\n',
    )
