# SPDX-License-Identifier: Apache-2.0
"""docs/observation.md says what the code says, and of figures only what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import observation_doc

CHURN = {
    "kernel": "6.18", "minutes": 10.0, "windows": 116, "forks_per_s": 289.8, "forks_made_in_windows": 1000,
    "forks_counted": 1001, "dropped": 0, "rss_mb_first": 165.8, "rss_mb_last": 166.2,
    "windows_that_lost_a_workload": 0, "windows_not_by_bcc": 0, "left_after_kill": [], "met": True,
}  # fmt: skip


def test_the_page_says_what_the_code_says():
    assert observation_doc.main(["--check"]) == 0, "run: make observation-doc"


def test_what_was_not_measured_is_said_with_the_command_that_measures_it(tmp_path: Path):
    page = observation_doc.document(tmp_path)
    for command in observation_doc.COMMANDS.values():
        assert f"{observation_doc.NOT_MEASURED}: `{command}`" in page
    (tmp_path / "churn.json").write_text(json.dumps(CHURN))
    page = observation_doc.document(tmp_path)
    assert "1001 of 1000" in page
    assert f"{observation_doc.NOT_MEASURED}: `python bench/churn.py" not in page


@pytest.mark.parametrize("text", ["{", "[]", '{"kernel": "6.18"}'])
def test_a_broken_result_is_an_error_and_leaves_the_page(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "twin.json").write_text(text)
    page = tmp_path / "page.md"
    page.write_text("as it was")
    assert observation_doc.main(["--results", str(tmp_path), "--output", str(page)]) == 1
    assert page.read_text() == "as it was"
    assert "measure it again, or delete it" in capsys.readouterr().err
