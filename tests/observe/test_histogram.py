# SPDX-License-Identifier: Apache-2.0
"""The bucket arithmetic, in Python and in the probe's own C, compiled natively."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.observe.histogram import MAX_VALUE, STEPS, bucket_of, build, lower_edge
from controller.paths import data_dir
from tests.conftest import missing

VALUES = st.one_of(st.integers(0, 2**20), st.integers(0, MAX_VALUE), st.integers(0, 2**64 - 1))


@pytest.fixture(scope="module")
def probe_bucket_of(tmp_path_factory):
    compiler = next(filter(None, map(shutil.which, ("cc", "clang", "clang-19", "gcc"))), None)
    if compiler is None:
        missing("a C compiler")
    text = (data_dir("bpf") / "probes" / "records.h").read_text()
    functions = text[text.index("static __always_inline u32 log2_of") : text.index("/*\n * Eight neighbouring")]
    defines = "\n".join(line for line in text.splitlines() if line.startswith("#define"))
    folder = tmp_path_factory.mktemp("bucket")
    source, library = folder / "bucket.c", folder / "bucket.so"
    source.write_text(
        f"typedef unsigned int u32; typedef unsigned long long u64;\n#define __always_inline inline\n{defines}\n"
        f"{functions}\nu32 bucket(u64 value) {{ return bucket_of(value); }}\n"
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    function = ctypes.CDLL(str(library)).bucket
    function.argtypes, function.restype = [ctypes.c_uint64], ctypes.c_uint32
    return function


def test_probe_and_python_agree(probe_bucket_of):
    @given(VALUES)
    def agree(value):
        assert probe_bucket_of(value) == bucket_of(value)

    agree()


@given(st.integers(0, MAX_VALUE))
def test_a_value_lies_in_its_bucket_and_the_bucket_is_narrow(value):
    bucket = bucket_of(value)
    low, high = lower_edge(bucket), lower_edge(bucket + 1)
    assert low <= value < high
    assert high - low <= max(low / STEPS, 1)
    middle = (low + high) / 2
    assert value < STEPS or abs(middle - value) <= 0.032 * value


@given(st.lists(st.integers(0, MAX_VALUE), max_size=200))
def test_building_keeps_every_event_and_only_trims_the_ends(values):
    histogram = build(Counter(bucket_of(value) for value in values), sum(values))
    assert histogram.count == len(values)
    assert histogram.total_ns == sum(values)
    if values:
        assert histogram.counts[0] > 0
        assert histogram.counts[-1] > 0
        assert histogram.edges[0] <= min(values) <= max(values) < histogram.edges[-1] + histogram.widths[-1]


@given(st.lists(st.integers(16, MAX_VALUE), min_size=1, max_size=200))
def test_percentiles_are_within_a_bucket_of_the_sorted_values(values):
    histogram = build(Counter(bucket_of(value) for value in values), sum(values))
    middle = sorted(values)[(len(values) - 1) // 2]
    bucket = bucket_of(middle)
    assert lower_edge(bucket) <= histogram.percentile(50) <= lower_edge(bucket + 1)
