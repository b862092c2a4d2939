# SPDX-License-Identifier: Apache-2.0
"""docs/planner.md says what the code says, and of figures only what was measured."""

from __future__ import annotations

import json
from pathlib import Path

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
    assert kept["injections"]["requests_holding_any"] == kept["harm"]["anything else"] == 0
