# SPDX-License-Identifier: Apache-2.0
"""A configuration folder of its own for each test, and a passport that lets an object onto a kernel."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from controller.api import KernelColumn, Passport, StageResult, Verdict
from controller.trust import keys

ISSUED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OBJECT = "sha256:" + "a" * 64
SOURCE = "sha256:" + "b" * 64
BTF = "sha256:" + "c" * 64
CLASS = "cpus2.pkg1.smt1.llc1.numa1"


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    folder = tmp_path / "config"
    monkeypatch.setenv("SCHEDCTL_CONFIG", str(folder))
    return folder


@pytest.fixture
def key():
    return keys.ensure_signing_key()


def stage(name: str, verdict: Verdict = Verdict.PASS, **more) -> StageResult:
    return StageResult(stage=name, verdict=verdict, summary=f"{name} said so", seconds=0.25, **more)


@pytest.fixture
def passport() -> Passport:
    column = KernelColumn(
        release="6.18.1",
        btf_digest=BTF,
        topology_class=CLASS,
        stages=(
            stage("load", figures={"instructions": 812}),
            stage("liveness", figures={"idle_p99_us": 3.5, "ok": True}),
            stage("trial", Verdict.NOT_RUN),
        ),
    )
    return Passport(
        verdict=Verdict.PASS,
        object_digest=OBJECT,
        source_digest=SOURCE,
        ops_name="schedctl_0123456789ab",
        stages=(stage("lint"), stage("build"), stage("audit")),
        kernels=(column,),
        tools={"clang": "19.1.7"},
        issued_at=ISSUED,
        expires_at=ISSUED + timedelta(days=30),
    )
