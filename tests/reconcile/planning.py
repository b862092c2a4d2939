# SPDX-License-Identifier: Apache-2.0
"""A planner on a real Git store whose candidates are rendered and compiled for real; the guest's word is authored.

What a kernel would say (load, liveness, trial) is made here, because a guest takes minutes and these tests are of what
the planner makes of a verdict. Everything before (schema, render, build, audit) is the real thing.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller import verify
from controller.api import (
    EvidenceFile,
    Finding,
    KernelColumn,
    NodeScheduler,
    SchedulerPolicy,
    SchedulingIntent,
    StageResult,
    Verdict,
    sha256,
)
from controller.api.decode import encode
from controller.reconcile.planner import Planner
from controller.source import GitStore
from controller.verify import Examination, evidence
from tests.api.test_fingerprint import burst, stats
from tests.builders import TARGET, intent, node, policy

DAY = {"wakeups": 5000, "tasks": 4, "burst": burst(100_000)}
NIGHT = {"wakeups": 500_000, "tasks": 256, "burst": burst(20_000)}
NEARBY = {"wakeups": 14_000, "tasks": 4, "burst": burst(250_000)}


@dataclass
class Bench:
    """`verify.examine` for tests. `refuses`: template → stage and rule. `trial`: figures, with their samples."""

    refuses: dict[str, tuple[str, str]] = field(default_factory=dict)
    trial: StageResult | None = None
    samples: dict[str, bytes] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    def __call__(self, candidate: verify.Candidate, **asked: Any) -> Examination:
        assert candidate.proposal is not None
        self.seen.append(candidate.proposal.template)
        made = verify.examine(
            candidate, stages=("schema", "render", "build", "audit"), max_age_ns=asked["max_age_ns"],
            workload=asked["workload"],
        )  # fmt: skip
        passport = made.passport
        assert passport.verdict is Verdict.PASS, passport
        stages = tuple(self._stage(name, candidate.proposal.template) for name in ("load", "liveness"))
        stages += (self.trial,) if self.trial is not None else ()
        column = KernelColumn(
            release=TARGET.kernel_release, btf_digest=TARGET.btf_digest, topology_class=TARGET.topology_class,
            stages=stages,
        )  # fmt: skip
        kept = evidence.packed(self.samples)
        bad = any(s.verdict is Verdict.REJECTED for s in stages)
        passport = passport.model_copy(
            update={
                "kernels": (column,),
                "verdict": Verdict.REJECTED if bad else Verdict.PASS,
                "attachments": tuple(EvidenceFile(name=n, digest=sha256(d), size=len(d)) for n, d in kept.items()),
            }
        )
        return Examination(passport, made.source, made.object, kept)

    def _stage(self, name: str, template: str) -> StageResult:
        stage, rule = self.refuses.get(template, ("", ""))
        if name != stage:
            return StageResult(stage=name, verdict=Verdict.PASS, summary="ok")
        finding = Finding(rule=rule, severity="error", message="authored")
        figures = {"insns_verified": 17, "said": "text that no lesson keeps"}
        return StageResult(
            stage=name, verdict=Verdict.REJECTED, summary="authored", findings=(finding,), figures=figures
        )


class Told:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, text: str) -> None:
        self.lines.append(text)

    done = failed = step


def observed(name: str = "n1", load: dict[str, object] | None = None, at: float = 0, **changes: Any) -> NodeScheduler:
    """A node with one workload, shop/checkout, of this load."""
    from tests.builders import later

    made = node(name)
    assert made.status is not None
    assert made.status.profile is not None
    workload = stats("shop/checkout", **(load if load is not None else DAY))
    profile = made.status.profile.model_copy(update={"taken_at": later(at), "workloads": (workload,)})
    return made.model_copy(update={"status": made.status.model_copy(update={"profile": profile, **changes})})


def profile_file(folder: Path) -> str:
    """A file with what that node observed."""
    status = observed().status
    assert status is not None
    assert status.profile is not None
    path = folder / "profile.json"
    path.write_bytes(status.profile.canonical())
    return str(path)


def repository(path: Path, *resources: SchedulingIntent | SchedulerPolicy, bare: bool = False) -> Path:
    """A policy repository with the intent shop/checkout and the policy default, or what is given."""
    work = path / "policies"
    subprocess.run(["git", "init", "-q", "-b", "main", str(work)], check=True)
    for resource in resources or (rules(), intent()):
        kind = "policies" if isinstance(resource, SchedulerPolicy) else "intents"
        file = work / kind / f"{resource.name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(encode(resource), encoding="utf-8")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(work), "add", "-A"], check=True)
    subprocess.run(["git", "-C", str(work), *identity, "commit", "-qm", "start"], check=True)
    if bare:
        subprocess.run(["git", "clone", "-q", "--bare", str(work), str(path / "bare.git")], check=True)
        subprocess.run(["git", "-C", str(path / "bare.git"), "remote", "remove", "origin"], check=True)
        return path / "bare.git"
    return work


def rules(name: str = "default", **spec: Any) -> SchedulerPolicy:
    """A policy under which nobody is asked and two templates may be used: the second suits no wakeupLatency."""
    allow = {"allow": ["batch-order", "latency-first"]}
    return policy(name, **{"planner": {"mode": "rules"}, "templates": allow, **spec})


def planner(store: GitStore, bench: Bench, told: Told | None = None) -> Planner:
    return Planner(store, reporter=told or Told(), examine=bench)
