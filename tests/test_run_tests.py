# SPDX-License-Identifier: Apache-2.0
"""`make test` in two parts: the counts of both are read, add up, and no failure or forgotten test ends in a 0."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import run_tests
from run_tests import Part, judge, read

SUITE = """
import pytest
def test_good(): pass
def test_bad(): assert False
@pytest.fixture
def broken(): raise ValueError("no fixture")
def test_broken(broken): pass
def test_without(): pytest.skip("missing: a tool")
@pytest.mark.xfail
def test_known(): assert False
def test_left_out(): pass
"""


def part(code: int = 0, failures: tuple[str, ...] = (), **counts: int) -> Part:
    return Part(code, Counter(counts), failures)


def test_a_real_run_is_read_and_shown(tmp_path, capfd):
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    options = ("-p", "no:cacheprovider", "-k", "not left_out")
    for quiet in ((), ("-q",), ("-q", "-n", "2")):
        done = run_tests.run((*options, *quiet, f"--rootdir={tmp_path}", str(tmp_path)))
        assert done.code == 1
        left = {} if "-n" in quiet else {"deselected": 1}
        assert done.counts == {"passed": 1, "failed": 1, "error": 1, "skipped": 1, "xfailed": 1, **left}
        assert done.ran == 5
        assert len(done.failures) == 2
        assert "1 failed, 1 passed" in capfd.readouterr().out


def test_nothing_is_read_where_pytest_did_not_come_to_its_end():
    assert read(-9, "....F..\n12 passed\nin 3 parts\n").ran == 0
    assert read(5, "no tests ran in 0.01s\n").ran == 0


def test_both_parts_are_closed_with_one_line():
    first, second = part(passed=4000, skipped=2), part(passed=113, deselected=4002)
    assert judge(first, second, 1500.0) == (0, ["4113 passed, 2 skipped in 1500.00s (25 min)"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (part(1, ("FAILED a",), passed=9, failed=1), part(passed=2, deselected=10)),
        (part(passed=10), part(1, ("ERROR b",), passed=1, error=1, deselected=10)),
        (part(-9), part(passed=2, deselected=10)),
    ],
)
def test_a_part_that_fails_fails_the_whole_and_is_named_last(first, second):
    code, lines = judge(first, second, 1.0)
    assert code
    assert lines[:-1] == [*first.failures, *second.failures]


@pytest.mark.parametrize("ran", [9, 11])
def test_a_test_that_is_in_neither_part_is_no_success(ran):
    code, lines = judge(part(passed=ran), part(passed=2, deselected=10), 1.0)
    assert code == 1
    assert "left 10 to it" in lines[0]
