# SPDX-License-Identifier: Apache-2.0
"""A question to the planner's roles, and what a model would answer that says just what the rules would."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from bench.kit.scenarios import SCENARIOS, templates
from controller.api import (
    NodeScheduler,
    NodeSpec,
    NodeStatus,
    ObjectMeta,
    Proposal,
    SchedulerPolicy,
    SchedulerTemplate,
    SchedulingIntent,
    WorkloadProfile,
    sha256,
)
from controller.plan import rules
from controller.plan.claude import executor, planner
from controller.plan.prompt import build
from controller.plan.values import Filling, Strategy

RELEASE, CPUS = "7.3.4-bench", 2
BTF = sha256(b"the types of a kernel that nobody boots")


@dataclass(frozen=True)
class Question:
    """What a plan is made from."""

    profile: WorkloadProfile
    intents: tuple[SchedulingIntent, ...]
    policy: SchedulerPolicy
    templates: tuple[SchedulerTemplate, ...]

    @cached_property
    def base(self) -> Proposal:
        """The rules planner's."""
        return rules.propose(self.profile, self.intents, self.policy, self.templates)

    def answers(self, *, lacks: str = "") -> dict[str, str]:
        """By role. `lacks`: a gap that the strategy names, so that the author is asked too."""
        return answers(self.profile, self.intents, self.templates, self.base, lacks=lacks)

    def node(self, name: str, *, cpus: int = CPUS) -> NodeScheduler:
        """A node that observed this, on a kernel whose types are known; `cpus` are its topology class."""
        changed = {"kernel": self.profile.kernel.model_copy(update={"btf_digest": BTF}), "node": name}
        topology = self.profile.topology.model_copy(
            update={"cpus": cpus, "topology_class": f"cpus{cpus}.pkg1.smt1.llc1.numa1"}
        )
        matches = [{"intent": i.qualified_name, "tasks": 4} for i in self.intents]
        profile = WorkloadProfile.model_validate(
            self.profile.model_copy(update=changed | {"topology": topology}).wire() | {"matches": matches}
        )
        status = NodeStatus(kernel=profile.kernel, topology=topology, profile=profile, heartbeat=self.profile.taken_at)
        return NodeScheduler(metadata=ObjectMeta(name=name, generation=1), spec=NodeSpec(), status=status)


def answers(
    profile: WorkloadProfile,
    intents: tuple[SchedulingIntent, ...],
    among: Sequence[SchedulerTemplate],
    base: Proposal,
    *,
    lacks: str = "",
) -> dict[str, str]:
    """What the rules would answer in each role, with two sentences as a model would add them."""
    prompt = build(profile, intents, among, base, expressions=True)
    reasons = ("i1 waits longer at p99 than its target.", "others keep what the guardrail says.")
    strategy = planner.by_rules(prompt, base).model_copy(
        update={"reasons": reasons} | ({"lacks": lacks} if lacks else {})
    )
    if not strategy.aims:
        strategy = strategy.model_copy(update={"holes": tuple(prompt.templates[strategy.template].holes)[:1]})
    filling = executor.by_rules(prompt, strategy, base).model_copy(update={"reasons": reasons})
    found = [{"subject": handle, "kind": "idle"} for handle in prompt.classes]

    def text(said: Strategy | Filling) -> str:
        return json.dumps(said.model_dump(mode="json", by_alias=True))

    return {
        "planner": text(strategy),
        "executor": text(filling),
        "observer": json.dumps({"findings": found}),
        "learner": json.dumps({"lessons": [{"attempt": 1, "advice": "smallerStep"}]}),
    }


def of_scenario(name: str, mode: str) -> Question:
    """A scenario of the grid as a question, under its own policy in this mode."""
    scenario = SCENARIOS[name]
    return Question(
        scenario.profile(RELEASE, CPUS), scenario.intents, scenario.policy(mode), tuple(templates().values())
    )


SMALL = of_scenario("service-beside-reports", "claude")
"""Two intents, and nothing that the observer or the learner would be asked about."""
ASKED = ("planner", "executor")
"""The roles of one plan for it, in order."""
KEY = "sk-ant-authored-key"
