# SPDX-License-Identifier: Apache-2.0
"""docs/planner.md says what the code says, and of figures only what was measured."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bench import planner as bench
from scripts import planner_doc


def test_the_page_says_what_the_code_says() -> None:
    assert planner_doc.main(["--check"]) == 0, "run: make planner-doc"


def test_what_was_not_measured_is_said_with_the_command_that_measures_it(tmp_path: Path) -> None:
    page = planner_doc.document(tmp_path)
    assert f"{planner_doc.NOT_MEASURED}: `{planner_doc.COMMAND}`" in page
    assert "How good a model's proposals are" in page


@pytest.mark.parametrize("text", ["{", "[]", '{"roles": {}}'])
def test_a_broken_result_is_an_error_and_leaves_the_page(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "planner.json").write_text(text)
    page = tmp_path / "page.md"
    page.write_text("as it was")
    assert planner_doc.main(["--results", str(tmp_path), "--output", str(page)]) == 1
    assert page.read_text() == "as it was"
    assert "measure it again, or delete it" in capsys.readouterr().err


def test_what_is_kept_is_of_the_prompts_as_they_are(tmp_path: Path) -> None:
    """Prompts that changed by more than a tenth were not measured: the costs in bench/results are not the code's."""
    kept = json.loads(bench.RESULTS.read_text())
    sizes = bench.sizes(bench.recorded(tmp_path, tried=False) + bench.recorded(tmp_path, tried=True))
    assert set(sizes) == set(bench.MEASURED), "every role was asked at least once"
    for role, size in sizes.items():
        before = kept["roles"][role]["prompt_tokens"]
        assert size["prompt_tokens"] == pytest.approx(before, rel=0.1), "run: python bench/planner.py; make planner-doc"
    (author,) = bench.sizes(bench.commissioned(tmp_path)).values()
    before = kept["roles"]["author"]["prompt_tokens"]
    assert author["prompt_tokens"] == pytest.approx(before, rel=0.1), "run: python bench/planner.py; make planner-doc"


def page(tmp_path: Path, **changes: Any) -> str:
    """The page from what is kept, with other results."""
    (tmp_path / "planner.json").write_text(json.dumps(json.loads(bench.RESULTS.read_text()) | changes))
    return planner_doc.document(tmp_path)


def test_the_page_has_everything_that_was_counted(tmp_path: Path) -> None:
    kept = json.loads(bench.RESULTS.read_text())
    said = page(tmp_path)
    assert f"{kept['fleet']['nodes']} nodes of equal intents" in said
    assert f"**{kept['fleet']['campaigns']}** planning campaign" in said
    assert f"Planned twice: **{kept['race']['lease']['planned_twice']}**" in said
    assert f"Calls that are not in the ledger: **{kept['kills']['calls_unaccounted']}**" in said
    rows = [line for line in said.splitlines() if line.startswith("|")]
    assert all(any(row.startswith(f"| {way} |") for row in rows) for way in kept["refusing"])
    author = kept["roles"]["author"]["stable_bytes"]["median"]
    assert any(row.startswith(f"| author | {author:.0f} |") for row in rows)


def test_what_cannot_be_cached_is_marked(tmp_path: Path) -> None:
    roles = json.loads(bench.RESULTS.read_text())["roles"]
    short = roles | {"planner": roles["planner"] | {"stable_tokens": 99, "can_be_cached": False}}
    row = next(
        line for line in page(tmp_path, roles=short).splitlines() if line.startswith("| planner |") and "no" in line
    )
    assert row.endswith("| no: 99 tokens are the same |")


def test_a_median_above_the_aim_is_said(tmp_path: Path) -> None:
    kept = json.loads(bench.RESULTS.read_text())
    rule = copy.deepcopy(kept["cost"]["chosen by the rule"])
    rule["accepted"]["0.50"] |= {"median_usd": 0.06, "mean_usd": 0.07, "unaccepted": 0.125}
    said = page(tmp_path, cost=kept["cost"] | {"chosen by the rule": rule})
    assert "median $0.0600, **above the aim**; mean $0.0700; left 12.5%" in said
    dear = copy.deepcopy(kept["cost"]["chosen by the rule"])
    dear["accepted"]["0.50"] |= {"median_usd": 0.04, "mean_usd": 0.07, "unaccepted": 0.125}
    said = page(tmp_path, cost={"chosen by the rule": dear})
    assert "median $0.0400; mean $0.0700" in said, "the mean is told, the aim is the median's"
