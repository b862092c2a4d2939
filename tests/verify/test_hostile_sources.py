# SPDX-License-Identifier: Apache-2.0
"""Every hostile source of tests/corpus/hostile_sources is stopped, where it should be, cheaply, and tells nothing."""

from __future__ import annotations

import multiprocessing
import secrets
from pathlib import Path

import pytest

from controller.errors import ToolMissing
from controller.kernel import clang
from controller.paths import data_dir
from tests.conftest import missing
from tests.corpus.hostile_sources import CASES, Judged, judge

CPU_SECONDS = 10
MEMORY_MIB = 1024


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Judged]:
    """All cases at once, in processes of their own: one peak of memory says it for all."""
    try:
        clang.compile_bpf("int x;", data_dir("bpf") / "include")
    except ToolMissing as error:
        missing(error.message, error.remedy)
    canary = Path(tmp_path_factory.mktemp("outside"), "canary.h")
    canary.write_text(f"CANARY_{secrets.token_hex(16)} is not C {secrets.token_hex(16)}\n")
    names = sorted(CASES)
    chunks = [names[start::24] for start in range(24)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        told = [
            each for part in pool.starmap(judge, [(chunk, canary) for chunk in chunks], chunksize=1) for each in part
        ]
    return {each.name: each for each in told}


def test_there_are_as_many_as_promised():
    assert len(CASES) >= 150
    assert len({case.source for case in CASES.values()}) == len(CASES)
    assert {case.stage for case in CASES.values()} == {"lint", "build", "audit"}


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_hostile_source_is_stopped_in_its_stage(name: str, judged: dict[str, Judged]):
    told = judged[name]
    assert (told.verdict, told.stage) == ("rejected", CASES[name].stage), told
    assert told.cpu_s <= CPU_SECONDS, told
    assert told.leaked == ()


def test_none_takes_more_than_a_gibibyte(judged: dict[str, Judged]):
    assert max(told.peak_mib for told in judged.values()) <= MEMORY_MIB
