# SPDX-License-Identifier: Apache-2.0
"""Logs of real kernels, 6.16's and 7.3's, reduced to line, cause and hint. See refused.py for how they were made."""

from __future__ import annotations

import os

import pytest

from controller.verify.load import CAUSES, EVIDENCE, LoadRejected, reduce, relevant
from tests.verify.refused import LOGS, REFUSED

KERNELS = ("6.16", "7.3")
NO_LINE = {"kfunc-missing", "kfunc-prototype", "deep-stack", "sleepable-operation", "no-such-operation", "member-size",
           "licence"}  # fmt: skip
"""Refused before, or without, a look at any instruction: neither style of log has a line."""
GOLDEN = LOGS.parent / "reductions.txt"


def reduced(name: str, kernel: str):
    return reduce((LOGS / f"{name}-{kernel}.log").read_text(), "this kernel refuses the object")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", REFUSED)
def test_a_log_is_reduced_to_line_and_cause(name, kernel):
    finding, refused = reduced(name, kernel), REFUSED[name]
    assert finding.rule == f"load/{refused.cause}"
    assert finding.fix
    assert "\n" not in finding.message
    if name in NO_LINE or (name == "unreachable" and kernel == "6.16"):
        assert finding.line is None
    else:
        assert finding.line in refused.lines()


def test_reductions_read_as_they_did():
    """The whole sentences, so that a change of any of them is seen. SCHEDCTL_UPDATE_GOLDEN=1 writes them anew."""
    text = ""
    for name in REFUSED:
        for kernel in KERNELS:
            finding = reduced(name, kernel)
            text += f"{name} on {kernel}\n    line {finding.line}: {finding.message} [{finding.rule}]\n"
            text += f"    fix: {finding.fix}\n"
    if os.environ.get("SCHEDCTL_UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_there_is_a_log_of_each_style_for_each_cause():
    assert {path.stem for path in LOGS.glob("*.log")} == {f"{n}-{v}" for n in REFUSED for v in KERNELS}
    assert len({refused.cause for refused in REFUSED.values()}) >= 12


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_header_is_named_and_the_line_is_where_the_candidate_calls_it(kernel):
    finding = reduced("in-a-header", kernel)
    assert "in schedctl_kernel.bpf.h:284: " in finding.message
    assert finding.line == min(REFUSED["in-a-header"].lines())


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_header_without_a_line_of_the_candidate_before_it(kernel):
    log = (LOGS / f"in-a-header-{kernel}.log").read_text().replace("@ candidate.bpf.c", "@ other.bpf.h")
    finding = reduce(log)
    assert "in schedctl_kernel.bpf.h:284: " in finding.message
    assert finding.line is None


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_refusal_has_figures(kernel):
    log = (LOGS / f"reference-leak-{kernel}.log").read_text()
    assert LoadRejected(reduce(log), log).figures == {"insns_verified": 10, "states": 1, "peak_states": 1}
    assert LoadRejected(reduce(""), "").figures == {}


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("The sequence of 8193 jumps is too complex.", "unbounded-loop"),
        ("BPF program is too large. Processed 1000001 insn", "unbounded-loop"),
        ("infinite loop detected at insn 7", "unbounded-loop"),
        ("calling kernel function scx_bpf_dsq_insert is not allowed", "kfunc-not-allowed"),
        ("Unreleased reference id=3 alloc_insn=12", "reference-leak"),
        ("combined stack size of 3 calls is 576. Too large", "stack"),
        ("verifier bug: add backedge: no SCC in verification path, insn_idx 168", "verifier-bug"),
        ("something never seen before", "refused"),
    ],
)
def test_the_kernels_words_name_a_cause(said, cause):
    log = f"0: R1=ctx() R10=fp0\n; x++; @ a.bpf.c:7\n3: (07) r1 += 1\n{said}\nprocessed 9 insns (limit 1000000)\n"
    finding = reduce(log)
    assert finding.rule == f"load/{cause}"
    assert finding.line == 7
    assert said in finding.message


@pytest.mark.parametrize(
    "log", ["", "\n\n", "processed 3 insns", "Verification failed: \n", "At:\n", "\0" * 100, "@" * 9999]
)
def test_a_log_that_says_nothing_is_still_a_finding(log):
    finding = reduce(log, "this kernel refuses the object: -22")
    assert finding.rule.startswith("load/")
    assert finding.message


def test_evidence_is_the_end_and_is_bounded():
    log = "noise\n" * 100_000 + "R1 invalid mem access 'scalar'\nprocessed 3 insns\n"
    assert len(relevant(log)) <= EVIDENCE
    assert "invalid mem access" in relevant(log)


def test_causes_have_hints():
    assert all(cause.hint for cause in CAUSES)
