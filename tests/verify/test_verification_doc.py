# SPDX-License-Identifier: Apache-2.0
"""docs/verification.md says what the code says; its figures are those of bench/results, or are said to be missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controller.api import STAGES
from controller.errors import InputError
from controller.verify.lint import rules
from controller.verify.scenarios import SCENARIOS
from scripts import verification_doc
from scripts.mutation_score import verifier_digest
from scripts.verification_figures import COMMANDS, NOT_MEASURED, Results, promises

SCORE = {
    "at": "2026-01-02T03:04:05Z",
    "kernels": ["6.16.9", "7.3.1"],
    "rates": {
        "bad_caught": {"hits": 97, "of": 100, "interval95": [0.915, 0.99]},
        "bad_rejected": {"hits": 100, "of": 100, "interval95": [0.963, 1.0]},
        "good_refused": {"hits": 0, "of": 52, "interval95": [0.0, 0.069]},
    },
    "hostile": {
        "hostile_sources": {"cases": 200, "stopped": 199},
        "hostile_objects": {"cases": 60, "stopped": 60},
    },
    "results": [
        {
            "case": "bad/late", "bug_class": "missing-kick", "expected": "liveness", "kernel": "7.3.1",
            "verdict": "rejected", "stage": "liveness", "rules": ["liveness/idle-wakeup"], "summary": "late",
            "outcome": "caught",
        },
        {
            "case": "bad/quiet", "bug_class": "missing-kick", "expected": "liveness", "kernel": "7.3.1",
            "verdict": "pass", "stage": "", "rules": [], "summary": "a | b", "outcome": "missed",
        },
    ],
}  # fmt: skip


def _times(median: float, cpus: int = 2) -> dict[str, Any]:
    figure = {"median": median, "least": median, "most": median, "runs": 3}
    return {
        "measured": "2026-01-02T03:04:05Z", "cpus": cpus, "accelerator": "tcg", "qemu": "10.0.2",
        "kernels": {"7.3.1": {"schema_to_load_s": figure, "liveness_s": figure, "whole_s": figure}},
    }  # fmt: skip


def _cycles(cycles: int, false_rejections: int = 0) -> dict[str, Any]:
    column = {"cycles": cycles, "boots": 2, "false_rejections": false_rejections, "emulator_faults": 1}
    return {"measured": "2026-01-02T03:04:05Z", "qemu": "10.0.2", "kernels": {"7.3.1": column}}


def _trial(trials: int = 1000) -> dict[str, Any]:
    row = {
        "workload": "longtail", "run_s": 0.7, "metric": "class.makespan", "blocks_recorded": 40, "run_sd_log": 0.03,
        "block_noise_log": 0.02, "pairs_needed": 12, "false_positives": 0.031, "planted_found": 0.79,
        "real_trials": 22, "real_false_positives": 1,
    }  # fmt: skip
    return {
        "measured": None, "kernels": ["7.3.1"], "mde": 0.05, "confidence": 0.95, "trials": trials,
        "simulation": "blocks drawn with replacement",
        "rows": [row, {**row, "metric": "others.throughput", "real_false_positives": 0}],
    }  # fmt: skip


def _promise(folder: Path, start: str) -> tuple[str, ...]:
    return next(row for row in promises(Results.read(folder)) if row[0].startswith(start))


def _put(folder: Path, **documents: dict[str, Any]) -> Path:
    for name, document in documents.items():
        (folder / f"{name.replace('_', '-')}.json").write_text(json.dumps(document))
    return folder


def test_the_page_says_what_the_code_says():
    assert verification_doc.differs(verification_doc.DOC) == "", "run: make verification-doc"


def test_every_stage_rule_and_scenario_is_in_it_once():
    lines = verification_doc.from_code().splitlines()
    names = [*STAGES, *(rule.id for rule in rules.all()), *(scenario.name for scenario in SCENARIOS)]
    for name in names:
        assert sum(line.startswith(f"| `{name}` |") for line in lines) == 1, name


def test_a_rule_that_is_lacking_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "verification.md"
    rule = rules.all()[0].id
    kept = [line for line in verification_doc.document(tmp_path).splitlines(True) if f"`{rule}`" not in line]
    page.write_text("".join(kept))
    assert verification_doc.main(["--check", "--output", str(page)]) == 1
    assert rule in capsys.readouterr().err


def test_figures_have_no_part_in_the_check(tmp_path: Path):
    page = tmp_path / "verification.md"
    _put(tmp_path, cycles=_cycles(1000))
    assert verification_doc.main(["--results", str(tmp_path), "--output", str(page)]) == 0
    assert verification_doc.main(["--check", "--output", str(page)]) == 0


def test_what_was_not_measured_says_so_and_how_to_measure_it(tmp_path: Path):
    rows = promises(Results.read(tmp_path))
    assert [row[2] for row in rows] == [NOT_MEASURED] * len(rows)
    assert {row[3] for row in rows} == {"–"}
    measured = verification_doc.document(tmp_path).partition(verification_doc.MEASURED)[2]
    for command in COMMANDS.values():
        assert f"{NOT_MEASURED}: `{command}` measures it." in measured


def test_measured_figures_come_with_kernels_date_and_whether_the_bar_is_held(tmp_path: Path):
    _put(tmp_path, mutation_score=SCORE, verify=_times(2.5), cycles=_cycles(1000), trial_mde5=_trial())
    caught = _promise(tmp_path, "bad schedulers caught")
    assert caught[2:6] == ("97 of 100 = 97.0% (95 %: 91.5% to 99.0%)", "**no**", "6.16.9, 7.3.1", "2026-01-02")
    assert _promise(tmp_path, "good schedulers refused")[3] == "yes"
    assert _promise(tmp_path, "hostile sources")[2:4] == ("199 of 200 tests hold", "**no**")
    assert _promise(tmp_path, "malformed")[2:4] == ("60 of 60 tests hold", "yes")
    assert _promise(tmp_path, "schema")[2:4] == ("2.50 s on the slowest kernel (2 CPUs, tcg)", "yes")
    assert _promise(tmp_path, "a whole passport")[2] == NOT_MEASURED  # it was whole, and without a trial
    assert _promise(tmp_path, "cold boot")[2] == NOT_MEASURED
    assert _promise(tmp_path, "false rejections")[2:4] == ("0 in 1000 cycles; 1 emulator faults, run again", "yes")
    assert _promise(tmp_path, "equal arms called different, simulated")[2:6] == (
        "3.1% at worst, of 2 workloads and metrics", "yes", "7.3.1", "none kept",
    )  # fmt: skip
    assert _promise(tmp_path, "equal arms called different, real")[2:4] == (
        "1 of 44 verdicts, by metric, in 22 trials", "yes",
    )  # fmt: skip
    assert _promise(tmp_path, "a planted 10 % effect")[3] == "**no**"


@pytest.mark.parametrize("now", [True, False])
def test_a_score_of_another_verifier_is_said_to_be_one(tmp_path: Path, now: bool):
    verifier = "sha256:" + (verifier_digest() if now else "0" * 64)
    _put(tmp_path, mutation_score={**SCORE, "verifier": verifier})
    assert _promise(tmp_path, "bad schedulers caught")[2].endswith(", of an earlier verifier") is not now
    assert ("2026-01-02, of an earlier verifier" in verification_doc.document(tmp_path)) is not now


def test_too_short_a_run_holds_no_promise(tmp_path: Path):
    _put(tmp_path, cycles=_cycles(400), trial_mde5=_trial(trials=50))
    assert _promise(tmp_path, "false rejections")[3] == "–"
    assert "600 cycles are lacking" in _promise(tmp_path, "false rejections")[2]
    assert _promise(tmp_path, "equal arms called different, simulated")[3] == "–"
    _put(tmp_path, cycles=_cycles(400, false_rejections=1))
    assert _promise(tmp_path, "false rejections")[3] == "**no**"


def test_a_time_on_another_machine_holds_and_breaks_nothing(tmp_path: Path):
    _put(tmp_path, verify=_times(2.5, cpus=16))
    assert _promise(tmp_path, "schema")[3] == "–"
    _put(tmp_path, verify=_times(3.1))
    assert _promise(tmp_path, "schema")[3] == "**no**"


def test_what_was_missed_is_named_and_cannot_break_the_table(tmp_path: Path):
    page = verification_doc.document(_put(tmp_path, mutation_score=SCORE))
    assert "| missing-kick | 2 | 1 | 0 | 1 | 0 |" in page
    assert "| liveness | 0 | 0 | 0 | 0 | 1 | 1 |" in page
    assert "| bad/quiet | missed | 7.3.1 | liveness | – | a \\| b |" in page


@pytest.mark.parametrize("text", ["{", "[]", '{"kernels": [1]}', '{"kernels": {"7.3.1": {"liveness_s": 4}}}', "\xff"])
def test_a_broken_file_leaves_the_page_as_it_is(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "verification.md"
    page.write_text("as it was")
    (tmp_path / "verify.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError):
        verification_doc.document(tmp_path)
    assert verification_doc.main(["--results", str(tmp_path), "--output", str(page)]) == 1
    assert page.read_text() == "as it was"
    assert "measure it again" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
