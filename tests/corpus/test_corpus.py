# SPDX-License-Identifier: Apache-2.0
"""The corpora are what they say: good schedulers pass, bad ones are caught where their header says.

All that needs no kernel, and a few of each kind on the newest one; `make mutation-score` runs the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.api import Silent, Verdict
from controller.errors import SchedctlError
from controller.kernel import clang, images
from controller.kernel.microvm import boot
from controller.paths import data_dir
from controller.verify import Candidate, examine
from controller.verify.liveness import Bench, LivenessRejected, liveness
from controller.verify.load import LoadRejected, load
from tests.conftest import missing
from tests.corpus import corpus
from tests.kernel.conftest import kernel_image

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import conformance
import mutation_score

STATIC = ("lint", "build", "audit")
GOOD, BAD = corpus.good(), corpus.bad()
CAUGHT_STATICALLY = [case for case in BAD if case.stage in STATIC]
ON_A_KERNEL = (
    "bad/reference_leaked", "bad/null_prev", "bad/lost_each_thousandth", "bad/init_fails", "bad/refuses_tasks",
)  # fmt: skip


def rejection(case: corpus.Case) -> tuple[str, list[str]] | None:
    """The stage that rejects it without a kernel, and the rules; None when none does."""
    passport = examine(Candidate.from_source(case.source), stages=STATIC).passport
    stage = next((s for s in passport.all_stages() if s.verdict not in (Verdict.PASS, Verdict.NOT_RUN)), None)
    if stage is None:
        return None
    if stage.verdict is Verdict.ERROR:
        missing(stage.summary)
    return stage.stage, [f.rule for f in stage.findings if f.severity == "error"] or [f"{stage.stage}/rejected"]


def test_there_are_as_many_as_were_promised():
    assert len(GOOD) >= 20
    assert len(BAD) >= 60
    assert sum(case.stage == "liveness" for case in BAD) >= 20
    assert {case.stage for case in BAD} == set(corpus.STAGES)
    assert {case.bug_class for case in BAD} == corpus.CLASSES


def test_what_is_no_fault_on_a_new_kernel_is_judged_on_an_old_one():
    old, new = (images.KernelImage(release, Path("vmlinuz"), "file") for release in ("6.16.3-cloud", "7.3.4-cloud"))
    case = next(case for case in BAD if case.before == "7.0")
    assert mutation_score._kernel_for(case, [old, new]) is old
    assert mutation_score._kernel_for(next(c for c in BAD if not c.before), [old, new]) is new


def test_no_two_are_the_same():
    texts = [case.source.partition("*/\n")[2] for case in (*GOOD, *BAD)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    "header",
    [
        "int x;\n",
        "/* expect: stage=lint class=lost-task */\n/*\n * It is wrong.\n */\n",
        "/* expect: stage=luck rules=luck/bad class=lost-task */\n/*\n * It is wrong.\n */\n",
        "/* expect: stage=lint rules=load/bad class=lost-task */\n/*\n * It is wrong.\n */\n",
        "/* expect: stage=lint rules=lint/lost-task class=nonsense */\n/*\n * It is wrong.\n */\n",
        "/* expect: stage=lint rules=lint/lost-task class=lost-task */\nint x;\n",
    ],
)
def test_a_header_that_is_not_right_is_named(tmp_path, header):
    file = tmp_path / "x.bpf.c"
    file.write_text(header)
    with pytest.raises(ValueError, match=r"x\.bpf\.c"):
        corpus.read(file)


def test_a_header_may_name_several_stages(tmp_path):
    file = tmp_path / "x.bpf.c"
    file.write_text(
        "/* expect: stage=liveness rules=liveness/stall,liveness/soak or stage=load rules=load/* class=slice */\n"
        "/* SPDX */\n/*\n * It is\n * wrong.\n */\n"
    )
    case = corpus.read(file)
    assert (case.stage, case.bug_class, case.sentence) == ("liveness", "slice", "It is wrong.")
    assert case.expects[0].met("liveness", ["liveness/soak"])
    assert not case.expects[0].met("load", ["liveness/soak"])
    assert case.expects[1].met("load", ["load/stack"])


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_a_good_one_passes_all_that_needs_no_kernel(case):
    assert rejection(case) is None


@pytest.mark.parametrize("case", CAUGHT_STATICALLY, ids=lambda case: case.name)
def test_a_bad_one_is_caught_where_it_says(case):
    found = rejection(case)
    assert found is not None
    assert any(expected.met(*found) for expected in case.expects), found


@pytest.mark.parametrize("case", [case for case in BAD if case not in CAUGHT_STATICALLY], ids=lambda case: case.name)
def test_one_that_only_a_kernel_catches_is_not_refused_for_something_else(case):
    found = rejection(case)
    assert found is None or any(expected.met(*found) for expected in case.expects), found


def test_the_intervals_are_wilsons():
    low, high = mutation_score.wilson(98, 100)
    assert (round(low, 4), round(high, 4)) == (0.9300, 0.9945)
    assert mutation_score.wilson(0, 0) == (0.0, 1.0)
    assert mutation_score.wilson(0, 20)[0] == 0.0


def test_a_result_counts_only_where_it_was_expected():
    told = {
        "kernel": "",
        "verdict": "rejected",
        "stage": "lint",
        "rules": ["lint/lost-task"],
        "summary": "",
        "seconds": 1,
    }
    case = next(case for case in BAD if case.name == "bad/lost_in_switch")
    judged = mutation_score.Runner._judged
    assert judged(case, told).outcome == "caught"
    assert judged(case, {**told, "stage": "load"}).outcome == "elsewhere"
    assert judged(case, {**told, "verdict": "pass"}).outcome == "missed"
    assert judged(case, {**told, "verdict": "error"}).outcome == "error"
    assert judged(GOOD[0], told).outcome == "false alarm"
    assert judged(GOOD[0], {**told, "verdict": "pass"}).outcome == "passed"


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """A guest on the newest kernel; its baselines are those of tests/verify/test_on_kernels.py, which are kept."""
    kernel = kernel_image("newest")
    with boot(kernel) as guest:
        yield Bench(guest, again=lambda: boot(kernel))


@pytest.mark.kernel
@pytest.mark.parametrize("name", ON_A_KERNEL)
def test_a_kernel_catches_it_where_it_says(bench, name):
    case = next(case for case in BAD if case.name == name)
    image = clang.compile_bpf(case.source, data_dir("bpf") / "include").object
    with pytest.raises((LoadRejected, LivenessRejected)) as caught:
        liveness(bench, load(bench.guest, image).ops_name, Silent())
    assert any(e.met(caught.value.stage, [caught.value.finding.rule]) for e in case.expects), caught.value


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["minimal", "maybe_null_fail_dsp", "ddsp_bogus_dsq_fail"])
def test_the_kernels_own_selftests_agree(name):
    kernel = images.KernelImage(images.release_of(kernel_image("newest")), kernel_image("newest"), "file")
    try:
        source = conformance.source_of(kernel.release)  # from the cache; else fetched, 170 MB
    except SchedctlError as error:
        missing(error.message, error.remedy)
    with boot(kernel.path) as guest:
        row = conformance.row(name, source, conformance.headers(source, kernel), kernel, guest)
    assert row.agrees == "yes", row
