# SPDX-License-Identifier: Apache-2.0
"""What this process has lying about is removed, whenever it is told to stop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from controller.kernel import leftovers

ROOT = Path(__file__).parents[2]


def test_a_folder_is_there_and_then_gone(tmp_path):
    with leftovers.folder(tmp_path / "cache", ".made-") as folder:
        (folder / "file").write_text("x")
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_is_in_the_making_is_swept(tmp_path):
    making = leftovers.folder(tmp_path, ".made-")
    (making.__enter__() / "file").write_text("x")
    leftovers.sweep()
    assert list(tmp_path.iterdir()) == []
    making.__exit__(None, None, None)


def test_one_thing_that_cannot_be_removed_does_not_keep_the_others(tmp_path):
    def fail() -> None:
        raise OSError("busy")

    removed: list[str] = []
    leftovers.note("a", fail)
    leftovers.note("b", lambda: removed.append("b"))
    leftovers.sweep()
    leftovers.sweep()
    assert removed == ["b"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from controller.kernel import leftovers\n"
        "with leftovers.folder(Path(sys.argv[1]), '.made-') as folder:\n"
        "    (folder / 'file').write_text('x'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    with leftovers.folder(tmp_path, ".made-") as mine, leftovers.folder(tmp_path, ".made-") as other:
        assert {path.name for path in tmp_path.iterdir()} == {mine.name, other.name}


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    leftovers.write(tmp_path / "a" / "file", b"one", mode=0o600)
    assert (tmp_path / "a" / "file").stat().st_mode & 0o777 == 0o600
    with pytest.raises(TypeError):
        leftovers.write(tmp_path / "a" / "file", None)  # type: ignore[arg-type]
    assert (tmp_path / "a" / "file").read_bytes() == b"one"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]
