# SPDX-License-Identifier: Apache-2.0
"""Policy repositories with fixed dates and a node that reports."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from controller.api import (
    Attachment,
    Condition,
    ExitReport,
    IntentStatus,
    NodeEvent,
    NodeScheduler,
    NodeSpec,
    NodeStatus,
    ObjectMeta,
    PolicyStatus,
    Pulse,
    SchedulerPolicy,
    SchedulingIntent,
)
from controller.api.decode import encode
from controller.source import GitStore
from tests import builders
from tests.cli.harness import T0, commit, git

WEB = """\
apiVersion: schedctl.dev/v1alpha1
kind: SchedulingIntent
metadata:
  name: web
  labels: {app: web, tier: front}
spec:
  workload: {comm: [nginx]}
  objective: {metric: wakeupLatency, goal: minimize, target: 2ms}
"""
CHECKOUT = """\
apiVersion: schedctl.dev/v1alpha1
kind: SchedulingIntent
metadata: {name: checkout, namespace: shop}
spec:
  workload: {comm: ["php-fpm*"], unit: [php.service]}
  objective: {metric: wakeupLatency, percentile: 99, goal: minimize, target: 2ms}
  weight: 300
  guardrails:
    - {workload: others, metric: throughput, maxRegression: 3%}
"""
POLICY = """\
apiVersion: schedctl.dev/v1alpha1
kind: SchedulerPolicy
metadata: {name: default}
spec:
  planner: {mode: rules}
"""


def at(**delta: float):
    return T0 + timedelta(**delta)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A Git repository without a commit."""
    repo = tmp_path / "empty"
    repo.mkdir()
    git(repo, "init", "--quiet", "-b", "main")
    return repo


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Two intents, a policy and a revision, committed at T0."""
    path = tmp_path / "policies"
    path.mkdir()
    git(path, "init", "--quiet", "-b", "main")
    policy = builders.policy()
    revision = builders.revision("default-0123456789", policy, (builders.intent("checkout"),))
    files = revision.spec.files
    commit(
        path,
        {
            "intents/default/web.yaml": WEB,
            "intents/shop/checkout.yaml": CHECKOUT,
            "policies/default.yaml": POLICY,
            "revisions/default-0123456789.yaml": encode(revision),
            f"revisions/{files.source}": "// C\n",
            f"revisions/{files.object}": b"\x7fELF",
            f"revisions/{files.passport}": "{}",
        },
        "Start",
        T0,
    )
    return path


@pytest.fixture
def reporting(repo: Path) -> Path:
    """The same, with a node and the planner reporting."""
    store = GitStore(repo)
    store.put_status("n1", [node()])
    ready = condition("Ready", "True", "Served", "default-0123456789 serves it on 1 node")
    web = condition("Ready", "False", "NoTasks", "its selector matches no task on any node")
    spec = builders.intent().spec
    store.put_status(
        "planner",
        [
            SchedulingIntent(
                metadata=ObjectMeta(name="checkout", namespace="shop"),
                spec=spec,
                status=IntentStatus(
                    conditions=(ready,), matched_tasks=12, nodes=("n1",), revision="default-0123456789"
                ),
            ),
            SchedulingIntent(
                metadata=ObjectMeta(name="web", namespace="default"),
                spec=spec,
                status=IntentStatus(conditions=(web,), matched_tasks=0),
            ),
            SchedulerPolicy(
                metadata=ObjectMeta(name="default"),
                status=PolicyStatus(conditions=(ready,), nodes=1, revision="default-0123456789"),
            ),
        ],
    )
    return repo


def condition(type_: str, status: str, reason: str, message: str) -> Condition:
    return Condition.model_validate(
        {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": at(hours=1)}
    )


def node(name: str = "n1", *, attached: bool = True) -> NodeScheduler:
    """A node that has promoted the revision an hour after T0."""
    attachment = Attachment(
        ops_name="schedctl_0123456789ab", revision="default-0123456789", object_digest=builders.digest("0"),
        since=at(hours=1), phase="Promoted",
    )  # fmt: skip
    events = (
        NodeEvent(at=at(minutes=50), type="Normal", reason="Attached", message="default-0123456789 is on probation"),
        NodeEvent(at=at(hours=1), type="Normal", reason="Promoted", message="default-0123456789 is pinned"),
        NodeEvent(at=at(days=2), type="Warning", reason="FetchFailed", message="origin cannot be reached:\ntimeout"),
    )
    message = "default-0123456789 is attached and passed its probation"
    return NodeScheduler(
        metadata=ObjectMeta(name=name, labels={"zone": "a"}, creation_timestamp=T0),
        spec=NodeSpec(labels={"zone": "a"}),
        status=NodeStatus(
            conditions=(
                condition("Attached", "True", "Promoted", "schedctl_0123456789ab is in root/ops"),
                condition("Ready", "True", "Promoted", message),
            ),
            commit="0" * 40,
            kernel=builders.KERNEL,
            topology=builders.TOPOLOGY,
            state="enabled" if attached else "disabled",
            attached=attachment if attached else None,
            events=events,
            last_exit=ExitReport(
                revision="default-9876543210",
                at=at(minutes=40),
                kind=1026,
                code=0,
                reason="runnable task stall",
                message="app[17] failed to run for 5.312s",
                dump="schedctl: disabled\n\nCPU 0   : nr_run=2\n\x1b[31mapp",
            ),
            pulse=Pulse(decisions=123456, last_decision=12_000_000) if attached else None,
            heartbeat=at(days=3, hours=4),
        ),
    )
