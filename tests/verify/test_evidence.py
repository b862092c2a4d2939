# SPDX-License-Identifier: Apache-2.0
"""Evidence is kept small, whole where it is data, and in the same bytes for the same content."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.verify import evidence


@given(st.dictionaries(st.sampled_from(["trial.json", "raw.bin"]), st.binary(max_size=2000)))
def test_small_files_are_kept_as_they_are(files):
    assert evidence.packed(files) == files


def test_large_data_is_compressed_and_comes_back_whole():
    data = bytes(range(256)) * 1000
    first, second = evidence.packed({"trial.json": data}), evidence.packed({"trial.json": data})
    assert first == second
    assert list(first) == ["trial.json.gz"]
    assert evidence.unpacked("trial.json.gz", first["trial.json.gz"]) == data


def test_a_flooded_log_keeps_its_beginning_and_its_end():
    log = b"first line\n" + b"flood\n" * 100_000 + b"Kernel panic\n"
    kept = evidence.unpacked("console.txt.gz", evidence.packed({"console.txt": log})["console.txt.gz"])
    assert len(kept) < evidence.LOG_BYTES + 100
    assert kept.startswith(b"first line\n")
    assert kept.endswith(b"Kernel panic\n")
    assert b"bytes left out" in kept


@pytest.mark.parametrize("data", [b"", b"no gzip", gzip.compress(b"x" * 1000, mtime=0)[:-9]])
def test_what_is_not_gzip_is_a_value_error(data):
    with pytest.raises(ValueError, match=r"console\.txt\.gz"):
        evidence.unpacked("console.txt.gz", data)


def test_a_bomb_is_not_unpacked():
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        evidence.unpacked("x.gz", gzip.compress(b"\0" * 100_000), limit=1000)
