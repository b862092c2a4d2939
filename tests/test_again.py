# SPDX-License-Identifier: Apache-2.0
"""`tests.again`, by a suite of its own: only the emulator's faults are given another chance, and just one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest
from controller.errors import GuestError
from controller.kernel.microvm import EmulatorFault

pytestmark = pytest.mark.kernel
guests = []

@pytest.fixture(scope="module")
def guest():
    guests.append(len(guests))
    return guests[-1]

def test_before(guest): assert guest == 0
def test_it(guest):
    if guest < {faults}: raise {error}("broke", console="Kernel panic")
def test_after(guest): assert guest == {last}
"""


@pytest.mark.parametrize(
    ("error", "faults", "last", "said", "code"),
    [
        ("EmulatorFault", 1, 1, "3 passed", 0),
        ("EmulatorFault", 2, 1, "1 failed, 2 passed", 1),
        ("GuestError", 1, 0, "1 failed, 2 passed", 1),
    ],
)
def test_a_fault_of_the_emulator_is_given_another_guest(
    tmp_path: Path, error: str, faults: int, last: int, said: str, code: int
) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE.format(error=error, faults=faults, last=last))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = kernel\n")
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-p", "tests.again", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    done = subprocess.run([*command, str(tmp_path)], cwd=root, capture_output=True, text=True, check=False)
    assert said in done.stdout, done.stdout
    assert done.returncode == code
    assert ("- the guest's console -" in done.stdout and "Kernel panic" in done.stdout) == (code == 1)
    assert ("once more" in done.stdout) == (error == "EmulatorFault")
