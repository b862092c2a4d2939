# SPDX-License-Identifier: Apache-2.0
"""`passport verify --recompute`: the verdict comes out of the samples again, or the difference is named."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping

import pytest

from controller.api import EvidenceFile, KernelColumn, Passport, StageResult, Verdict, sha256
from controller.api.passport import STAGES
from controller.trust import dsse, keys
from controller.verify import evidence
from controller.verify.recheck import recheck
from tests.builders import T0, later
from tests.cli.harness import run
from tests.verify.trial.test_runner import WHERE, Machine, trial

NAME = f"trial-{WHERE.release}.json"


@pytest.fixture(scope="module")
def conducted():
    """A trial of a candidate that is a fifth quicker, on an authored machine."""
    return trial(Machine(slower={"candidate": 0.8}))


def passport(
    conducted, verdict: Verdict = Verdict.PASS, kept: Mapping[str, bytes] | None = None, **figures: object
) -> Passport:
    """A passport of that trial, with other figures or with other evidence files than it has."""
    stages = {s: StageResult(stage=s, verdict=Verdict.PASS, summary="ok") for s in STAGES}
    told = {**conducted.result.figures(), **figures}
    tried = StageResult(stage="trial", verdict=verdict, summary=conducted.result.summary(), figures=told)
    column = KernelColumn(
        release=WHERE.release,
        btf_digest=WHERE.btf_digest,
        topology_class=WHERE.topology_class,
        stages=(stages["load"], stages["liveness"], tried),
    )
    kept = evidence.packed({NAME: conducted.document}) if kept is None else kept
    files = tuple(EvidenceFile(name=n, digest=sha256(d), size=len(d)) for n, d in kept.items())
    return Passport(
        verdict=verdict,
        object_digest=sha256(b"object"),
        ops_name="x",
        stages=tuple(stages[s] for s in STAGES[:5]),
        kernels=(column,),
        attachments=files,
        issued_at=T0,
        expires_at=later(30 * 86400),
    )


def test_the_samples_give_the_verdict_again(conducted):
    kept = evidence.packed({NAME: conducted.document})
    ((what, result, detail),) = recheck(passport(conducted), kept)
    assert (what, result) == (f"trial on {WHERE.release}", "ok")
    assert "better" in detail


def test_a_verdict_or_figure_that_the_samples_do_not_give_is_refused(conducted):
    kept = evidence.packed({NAME: conducted.document})
    assert recheck(passport(conducted, Verdict.REJECTED), kept)[0][1] == "refused"
    _, result, detail = recheck(passport(conducted, noise_percent=0.001), kept)[0]
    assert result == "refused"
    assert "noise_percent" in detail


def test_a_changed_sample_is_noticed_even_with_its_digest(conducted):
    document = json.loads(conducted.document)
    for block in document["phases"]["trial"]:
        for sample in block["runs"]:
            sample["elapsed_ns"] = sample["elapsed_ns"] + 1_000_000
    kept = {NAME: json.dumps(document).encode()}
    _, result, detail = recheck(passport(conducted, kept=kept), kept)[0]
    assert (result, "figures differ" in detail) == ("refused", True)


def space_after(packed: bytes) -> bytes:
    return gzip.compress(gzip.decompress(packed) + b"\n", mtime=0)


def field_beside(packed: bytes) -> bytes:
    return gzip.compress(json.dumps({**json.loads(gzip.decompress(packed)), "unused": 1}).encode(), mtime=0)


def time_stamp(packed: bytes) -> bytes:
    return gzip.compress(gzip.decompress(packed), mtime=1)


@pytest.mark.parametrize("change", [space_after, field_beside, time_stamp])
def test_a_changed_byte_that_is_not_read_is_no_yes_either(conducted, change):
    name = f"{NAME}.gz"
    kept = {name: gzip.compress(conducted.document, mtime=0)}
    told = passport(conducted, kept=kept)
    changed = {name: change(kept[name])}
    assert changed != kept
    trusting = passport(conducted, kept=changed)
    assert recheck(trusting, changed)[0][1] == "ok", "it is not read"
    what = f"trial on {WHERE.release}"
    assert recheck(told, changed) == ((what, "refused", f"not recomputed: {name} was changed"),)


def test_a_file_that_the_passport_does_not_name_is_not_reckoned_from(conducted):
    kept = evidence.packed({NAME: conducted.document})
    unnamed = {"trial-0.json": conducted.document}
    assert recheck(passport(conducted, kept={}), {**kept, **unnamed})[0][1] == "skipped"
    changed = {name: data + b"\n" for name, data in kept.items()}
    assert recheck(passport(conducted), {**changed, **unnamed})[0][1] == "refused"


@pytest.mark.parametrize(
    "data",
    [b"", b"not gzip", gzip.compress(b"{}", mtime=0), gzip.compress(b"[1", mtime=0), gzip.compress(b"[]", mtime=0)],
)
def test_samples_that_are_none_are_no_yes(conducted, data):
    kept = {f"{NAME}.gz": data}
    assert recheck(passport(conducted, kept=kept), kept)[0][1] in ("refused", "skipped")


def test_without_samples_or_trial_it_is_skipped(conducted):
    what = f"trial on {WHERE.release}"
    assert recheck(passport(conducted), {}) == ((what, "skipped", f"not recomputed: {NAME} is missing"),)
    without = passport(conducted).model_copy(update={"kernels": ()})
    assert recheck(without, {})[0][:2] == ("trial", "skipped")


def test_on_the_command_line(conducted, tmp_path, monkeypatch):
    monkeypatch.setenv("SCHEDCTL_CONFIG", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    envelope = dsse.sign(passport(conducted), keys.ensure_signing_key()).canonical()
    (tmp_path / "p.json").write_bytes(envelope)
    folder = tmp_path / "p.json.evidence"
    folder.mkdir()
    none = run("passport", "verify", "p.json", "--recompute", "--evidence", "p.json.evidence")
    assert none.code == 1  # the file that the passport names is missing
    for name, data in evidence.packed({NAME: conducted.document}).items():
        (folder / name).write_bytes(data)
    good = run("passport", "verify", "p.json", "--recompute")
    assert good.code == 0, good.out
    assert f"trial on {WHERE.release}" in good.out
    (name,) = [path.name for path in folder.iterdir()]
    intact = (folder / name).read_bytes()
    (folder / name).write_bytes(intact + b"\n")
    changed = run("passport", "verify", "p.json", "--recompute")
    assert changed.code == 1
    assert re.search(rf"trial on {WHERE.release} +refused +not recomputed: {name} was changed", changed.out)
    assert changed.out.splitlines()[-1] == f"p.json: refused: evidence {name}, trial on {WHERE.release}"
    (folder / name).write_bytes(intact)
    monkeypatch.chdir(folder)
    untold = run("passport", "verify", "../p.json", "--recompute", "--evidence", ".")
    assert untold.code == 0
    bare = passport(conducted).model_copy(update={"kernels": (), "attachments": ()})
    (tmp_path / "bare.json").write_bytes(dsse.sign(bare, keys.load_signing_key()).canonical())
    nothing = run("passport", "verify", str(tmp_path / "bare.json"), "--recompute")
    assert nothing.code == 2
    assert "no trial to recompute" in nothing.out
