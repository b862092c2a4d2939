# SPDX-License-Identifier: Apache-2.0
"""A thousand nodes of one intent, kernel and topology class: how often they are planned for.

The planner's own loop (`reconcile.planner`) runs on a Git repository until nothing is due, in mode claude: the real SDK
asks the authored endpoint over loopback, candidates are rendered, compiled and audited, and what a kernel would say of
them is authored, because a guest takes minutes and the question is how often one would be asked.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from bench.planning.questions import ASKED, KEY, SMALL, Question
from controller import apikey, verify
from controller.api import KernelColumn, Resource, RevisionTarget, StageResult, Verdict
from controller.api.decode import encode
from controller.plan import messages
from controller.plan.testing import MessagesServer, answer
from controller.reconcile import keys, planner
from controller.reconcile.node import plan_outcomes
from controller.source import GitStore
from controller.verify import Examination

NODES = 1000
_IDENTITY = ("-c", "user.name=bench", "-c", "user.email=bench@example.org")


@dataclass
class Quiet:
    """A reporter that keeps what it is told."""

    lines: list[str] = field(default_factory=list)

    def step(self, text: str) -> None:
        """Kept."""
        self.lines.append(text)

    done = failed = step


@dataclass
class Authored:
    """`verify.examine` up to the audit, and then a guest's good word for each of `targets`. `count`: how often."""

    targets: Sequence[RevisionTarget]
    seconds: float = 0.0
    count: int = 0
    _made: dict[str, Examination] = field(default_factory=dict)

    def __call__(self, candidate: verify.Candidate, **asked: Any) -> Examination:
        """Takes `seconds` more than it does; the same candidate is compiled once."""
        self.count += 1
        time.sleep(self.seconds)
        assert candidate.proposal is not None
        substance = candidate.proposal.substance()
        if substance not in self._made:
            self._made[substance] = self._examined(candidate, asked)
        return self._made[substance]

    def _examined(self, candidate: verify.Candidate, asked: Mapping[str, Any]) -> Examination:
        made = verify.examine(
            candidate, stages=("schema", "render", "build", "audit"), max_age_ns=asked["max_age_ns"],
            workload=asked["workload"],
        )  # fmt: skip
        assert made.passport.verdict is Verdict.PASS, made.passport
        stages = [StageResult(stage=name, verdict=Verdict.PASS, summary="authored") for name in ("load", "liveness")]
        columns = tuple(
            KernelColumn(
                release=t.kernel_release, btf_digest=t.btf_digest, topology_class=t.topology_class, stages=tuple(stages)
            )
            for t in self.targets
        )
        return Examination(made.passport.model_copy(update={"kernels": columns}), made.source, made.object, {})


@contextmanager
def homes(folder: Path) -> Iterator[None]:
    """schedctl's state, keys and caches under `folder`, a git that nobody configured, and no key; no kernel image is
    looked for."""
    found = {f"SCHEDCTL_{name}": str(folder / name.lower()) for name in ("CONFIG", "STATE", "CACHE")}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "ANTHROPIC_", "SCHEDCTL_"))}
    plain = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    with (
        mock.patch.dict(os.environ, kept | found | plain, clear=True),
        mock.patch.object(planner, "verification_kernels", return_value=()),
    ):
        apikey.forget()
        try:
            yield
        finally:
            apikey.forget()


def repository(folder: Path, question: Question, *, bare: bool = False) -> Path:
    """A policy repository with the question's intents and policy, in a new folder."""
    work = folder / "policies"
    _git("init", "-q", "-b", "main", work)
    resources: tuple[Resource, ...] = (question.policy, *question.intents)
    for resource in resources:
        file = work / ("policies" if resource is question.policy else "intents") / f"{resource.name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(encode(resource), encoding="utf-8")
    _git("-C", work, "add", "-A")
    _git("-C", work, *_IDENTITY, "commit", "-qm", "start")
    if not bare:
        return work
    _git("clone", "-q", "--bare", work, folder / "bare.git")
    _git("-C", folder / "bare.git", "remote", "remove", "origin")
    return folder / "bare.git"


def _git(*arguments: str | Path) -> None:
    subprocess.run(["git", *map(str, arguments)], check=True, timeout=60, stdout=subprocess.DEVNULL)


def measure(folder: Path, nodes: int = NODES, classes: int = 1) -> dict[str, Any]:
    """Campaigns, model requests and seconds until nothing is due; `classes` of topology among the nodes, in turn."""
    question = SMALL
    fleet = [question.node(f"n{number}", cpus=2 + 2 * (number % classes)) for number in range(nodes)]
    targets = {keys.target_of(node) for node in fleet} - {None}
    said = question.answers()
    script = [answer(said[role]) for _ in range(3 * classes) for role in ASKED]
    examine = Authored(sorted(filter(None, targets), key=lambda t: t.topology_class))
    with homes(folder), MessagesServer(script) as server:
        os.environ |= {messages.KEY: KEY, messages.BASE_URL: server.base_url}
        store = GitStore(repository(folder, question))
        store.put_status("fleet", fleet)
        one = planner.Planner(store, reporter=Quiet(), examine=examine)
        began = time.monotonic()
        while one.step():
            pass
        seconds = time.monotonic() - began
        desired = store.read().desired
        assert desired is not None
        served = [
            keys.newest(desired.revisions, keys.plan_key(question.policy, keys.counted_intents(desired, node), target))
            for node in store.nodes()
            if (target := keys.target_of(node)) is not None
        ]
        outcomes = plan_outcomes(store.statuses())
        decided = sorted({revision.spec.proposal.planner.name for revision in desired.revisions})
    return {
        "nodes": len(fleet), "topology_classes": classes, "campaigns": sum(o.attempts for o in outcomes.values()),
        "requests": len(server.requests), "verifications": examine.count, "revisions": len(desired.revisions),
        "nodes_served": sum(revision is not None for revision in served), "decided_by": decided,
        "seconds": round(seconds, 2),
    }  # fmt: skip
