# SPDX-License-Identifier: Apache-2.0
"""Logs of real kernels, 6.16's and 7.3's, reduced to line, cause and hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.verify.load import CAUSES, EVIDENCE, reduce, relevant

LOGS = Path(__file__).parent / "logs"
EXPECTED = {
    "ctxwrite": ("load/write-refused", 59),
    "field": ("load/field-missing", 59),
    "kfunc": ("load/kfunc-missing", None),
    "nullderef": ("load/null-pointer", 63),
    "oob": ("load/out-of-bounds", 60),
    "scalarderef": ("load/bad-pointer", 60),
    "sleep": ("load/not-sleepable", 68),
    "wrongop": ("load/helper-not-allowed", 63),
}


@pytest.mark.parametrize("log", sorted(LOGS.glob("*.log")), ids=lambda path: path.stem)
def test_a_log_is_reduced_to_line_and_cause(log):
    finding = reduce(log.read_text())
    assert (finding.rule, finding.line) == EXPECTED[log.stem.split("-")[0]]
    assert finding.fix
    assert "\n" not in finding.message


def test_there_is_a_log_of_each_style_for_each_cause():
    assert {path.stem for path in LOGS.glob("*.log")} == {f"{n}-{v}" for n in EXPECTED for v in ("6.16", "7.3")}


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
