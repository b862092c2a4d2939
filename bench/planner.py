# SPDX-License-Identifier: Apache-2.0
"""What planning by models sends and what that costs, what reaches it, and what it comes to when others mean harm.

No model is asked: answers are authored, so bytes are measured and everything that depends on a model is reckoned from
stated assumptions. For twelve questions (four profiles, three sets of intents) the requests of every role are recorded
on the production path; the observer is made to be asked by a profile that its rules have nothing to say of, the learner
by a past that points both ways, the author by a strategy that names a gap. Tokens are bytes over an assumed ratio,
output tokens are assumed, prices are those of the ledger's table.

Then every injection of the tests is put into every channel and looked for in every request, every harmful answer is
given, and a model refuses for ever (bench/planning/refusing.py); a thousand equal nodes are planned for (fleet.py), two
planners race for one key (race.py), and a planner is killed at every few lines of its way (kills.py). All of it takes
about ten minutes. The table goes to stderr, JSON to stdout and to bench/results/planner.json.

    python bench/planner.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from bench.planning import cost, fleet, kills, race, refusing  # noqa: E402
from bench.planning.questions import answers  # noqa: E402
from controller.api import (  # noqa: E402
    Histogram,
    IntentSpec,
    Objective,
    ObjectMeta,
    SchedulingIntent,
    WorkloadProfile,
    WorkloadSelector,
)
from controller.plan import claude, rules  # noqa: E402
from controller.plan.claude import NoAnswer, tiers  # noqa: E402
from controller.plan.drafting import Desk  # noqa: E402
from controller.plan.ledger import PRICES_AS_OF, Ledger, Usage  # noqa: E402
from controller.plan.messages import Reply  # noqa: E402
from controller.render import render  # noqa: E402
from tests import builders  # noqa: E402
from tests.plan import claude_case as case  # noqa: E402
from tests.plan import hostile_answers, tainted  # noqa: E402
from tests.plan.test_roles import gain, past  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "planner.json"
MEASURED = tuple(role for role in tiers.ROLES if role != "author")
"""An author is asked for a gap in the catalogue, which none of the questions has by itself (see `commissioned`)."""
ATTEMPTS = cost.ATTEMPTS
POLICY = builders.policy(planner={"budget": {"usdPerDay": 10_000, "attempts": ATTEMPTS}})


@dataclass
class Recorder:
    """A transport that answers as the rules would and keeps what it was asked."""

    answers: Mapping[str, str]
    model: str = ""
    billed: bool = True
    patience_s: float | None = None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def send(self, role: str, request: Mapping[str, Any], timeout_s: float) -> Reply:
        """The authored answer of the role."""
        assert timeout_s > 0
        self.asked.append((role, dict(request)))
        return Reply(self.answers[role], "end_turn", Usage(1, 1), "req_authored")


def histogram(middle_ns: int) -> Histogram:
    """Three buckets around a value."""
    edges = (middle_ns // 4, middle_ns, 4 * middle_ns)
    return Histogram(edges=edges, widths=(middle_ns // 8,) * 3, counts=(50, 45, 5), total_ns=100 * middle_ns)


def profiles(intents: tuple[SchedulingIntent, ...]) -> dict[str, WorkloadProfile]:
    """Four nodes: a quiet one, a usual one, one with many workloads, one whose figures say nothing to the rules."""
    figures = {
        "voluntary_switches": 4800, "involuntary_switches": 1700, "migrations": 230, "forks": 3,
        "burst": histogram(400_000), "wakeup_latency": histogram(900_000),
    }  # fmt: skip
    named = [case.workload(f"shop/{i.name}", "intent", **figures) for i in intents]
    others = case.workload("others", "others", **figures)

    def unnamed(count: int) -> list[Any]:
        return [case.workload(f"/system.slice/unit-{n}.service", "cgroup", **figures) for n in range(count)]

    silent = [
        case.workload(f"shop/{i.name}", "intent", wakeups=None, wakeup_latency=None, cpu_share=0.02) for i in intents
    ]
    return {
        "quiet": case.profile(*named, matches=()),
        "usual": case.profile(*named, *unnamed(5), others),
        "many workloads": case.profile(*named, *unnamed(40), others),
        "nothing to see": case.profile(*silent, others),
    }


def intent(name: str, metric: str, weight: int) -> SchedulingIntent:
    """With a guardrail for others."""
    latency = metric == "wakeupLatency"
    goal = "minimize" if latency or metric == "makespan" else "maximize"
    target = {"target": "2ms"} if latency else {}
    spec = IntentSpec(
        workload=WorkloadSelector(comm=(name,)),
        objective=Objective(metric=metric, goal=goal, **target),
        weight=weight,
        guardrails=({"workload": "others", "metric": "throughput", "maxRegression": "5%"},),
    )
    return SchedulingIntent(metadata=ObjectMeta(name=name, namespace="shop", generation=1), spec=spec)


QUESTIONS = {
    "latency": (intent("web", "wakeupLatency", 300),),
    "latency beside throughput": (intent("reports", "throughput", 100), intent("web", "wakeupLatency", 300)),
    "four intents": (
        intent("build", "makespan", 100), intent("cache", "wakeupLatency", 200), intent("reports", "throughput", 100),
        intent("web", "wakeupLatency", 300),
    ),
}  # fmt: skip


def recorded(folder: Path, *, tried: bool) -> list[tuple[str, str, dict[str, Any], int]]:
    """(question, role, request, bytes of the answer) of all twelve; `tried`: with a past that points both ways."""
    found = []
    for wanted, intents in QUESTIONS.items():
        for node, profile in profiles(intents).items():
            base = rules.propose(profile, intents, POLICY, case.TEMPLATES)
            said = answers(profile, intents, case.TEMPLATES, base)
            asker = Recorder(said)
            earlier = [past(figures=gain(others=-4.0, **{"class": 9.0}))] if tried else []
            claude.propose(
                profile, intents, POLICY, case.TEMPLATES, base, asker,
                earlier=earlier, ledger=Ledger(folder / "ledger.jsonl"),
            )  # fmt: skip
            found += [(f"{node}, {wanted}", role, request, len(said[role])) for role, request in asker.asked]
    return found


def commissioned(folder: Path) -> list[tuple[str, str, dict[str, Any], int]]:
    """The author's requests of all twelve, under a policy that allows new templates. None of its answers is authored
    here, so each is refused and its size is 0."""
    policy = builders.policy(planner={"autonomy": "template", "budget": {"usdPerDay": 10_000, "attempts": 1}})
    found = []
    for wanted, intents in QUESTIONS.items():
        for node, profile in profiles(intents).items():
            base = rules.propose(profile, intents, policy, case.TEMPLATES)
            said = answers(profile, intents, case.TEMPLATES, base, lacks="order")
            asker = Recorder(said | {"author": "{}"})
            desk = Desk(frozenset(), refusing.unjudged)
            claude.propose(
                profile, intents, policy, case.TEMPLATES, base, asker, ledger=Ledger(folder / "ledger.jsonl"), desk=desk
            )
            found += [(f"{node}, {wanted}", role, asked, 0) for role, asked in asker.asked if role == "author"]
    return found


def sizes(requests: list[tuple[str, str, dict[str, Any], int]]) -> dict[str, Any]:
    """Bytes by role: what stays the same (instructions, catalogue, schema), what is new, and the answer."""
    found: dict[str, Any] = {}
    for role in tiers.ROLES:
        mine = [(request, answer) for _, r, request, answer in requests if r == role]
        if not mine:
            continue
        stable = [_stable(request) for request, _ in mine]
        new = [len(json.dumps(request["messages"], separators=(",", ":"))) for request, _ in mine]
        answered = [answer for _, answer in mine if answer]
        whole = [a + b for a, b in zip(stable, new, strict=True)]
        found[role] = {
            "requests": len(mine),
            "stable_bytes": _spread(stable),
            "new_bytes": _spread(new),
            "answer_bytes": _spread(answered) if answered else None,
            "prompt_bytes": statistics.median(whole),
            "prompt_tokens": round(statistics.median(whole) / tiers.BYTES_PER_TOKEN),
            "stable_tokens": round(statistics.median(stable) / tiers.BYTES_PER_TOKEN),
            "output_tokens_assumed": tiers.ROLES[role].expected_tokens,
            "stable_share": round(statistics.median(stable) / statistics.median(whole), 3),
        }
        found[role]["can_be_cached"] = cost.can_be_cached(found[role])
    return found


def _stable(request: Mapping[str, Any]) -> int:
    return len(json.dumps([request["system"], request["output_config"]], separators=(",", ":")))


def _spread(values: list[int]) -> dict[str, float]:
    return {"least": min(values), "median": statistics.median(values), "most": max(values)}


def injections(folder: Path) -> dict[str, Any]:
    """Every injection of the tests in every channel; requests that held any of it."""
    made = held = 0
    for channel in tainted.CHANNELS:
        for text in tainted.INJECTIONS:
            asker = case.Authored([case.strategy(template=text), case.strategy(), case.filling()])
            ledger = Ledger(folder / "injected.jsonl")
            claude.propose(policy=POLICY, by=asker, ledger=ledger, **tainted.plan_with(channel, text))
            ledger.path.unlink()
            for _, request in asker.asked:
                sent = json.dumps(request).lower() + json.dumps(request, ensure_ascii=False).lower()
                made += 1
                held += tainted.CANARY in sent or text.lower() in sent
    return {
        "injections": len(tainted.INJECTIONS), "channels": len(tainted.CHANNELS),
        "plans": len(tainted.INJECTIONS) * len(tainted.CHANNELS), "requests": made, "requests_holding_any": held,
    }  # fmt: skip


def harm(folder: Path) -> dict[str, Any]:
    """Every harmful answer, given again and again; how the plan ended, and what it can have cost at most."""
    ends = {"rejected": 0, "safe proposal": 0, "anything else": 0}
    dearest = 0.0
    policy = builders.policy(planner={"budget": {"attempts": ATTEMPTS}})
    scripts = [[said] * ATTEMPTS for said in hostile_answers.PLANNER.values()]
    scripts += [[case.strategy(), *[said] * ATTEMPTS] for said in hostile_answers.EXECUTOR.values()]
    for script in scripts:
        ledger = Ledger(folder / "harm.jsonl")
        end = _end(list(script), policy, ledger)
        ends[end] += 1
        dearest = max(dearest, sum(call.counted_usd for call in ledger.calls()))
        ledger.path.unlink()
    return {"answers": len(scripts), **ends, "most_usd_of_one": dearest, "budget_usd": 1.0}


def _end(script: list[Any], policy: Any, ledger: Ledger) -> str:
    asker = case.Authored(script)
    try:
        made = claude.propose(case.profile(), case.INTENTS, policy, case.TEMPLATES, case.base(), asker, ledger=ledger)
    except NoAnswer:
        return "rejected"
    template = next(t for t in case.TEMPLATES if t.name == made.template)
    return "safe proposal" if render(made, template).text else "anything else"


def measure() -> dict[str, Any]:
    """Everything."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        first = recorded(folder, tried=False)
        roles = sizes(first + recorded(folder, tried=True) + commissioned(folder))
        published = cost.at_ratio(roles, cost.PUBLISHED_RATIO)
        calls = [role for _, role, _, _ in first]
        return {
            "benchmark": "planner",
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "prices_as_of": PRICES_AS_OF,
            "assumed": {
                "bytes_per_token": tiers.BYTES_PER_TOKEN,
                "output_tokens": {role: setting.expected_tokens for role, setting in tiers.ROLES.items()},
                "acceptance": list(cost.ACCEPTANCE),
                "attempts": cost.ATTEMPTS,
                "budget_usd": cost.BUDGET_USD,
            },
            "cache_minimum": {"tokens": cost.CACHE_MINIMUM, "as_of": cost.CACHE_MINIMUM_AS_OF},
            "questions": len(QUESTIONS) * len(profiles(())),
            "calls_of_first_plans": {role: calls.count(role) for role in MEASURED},
            "roles": roles,
            "cost": cost.cost_model(roles),
            "cost_at_published_ratio": {
                "bytes_per_token": cost.PUBLISHED_RATIO,
                "accepted": cost.accepted_by_rule(published),
                "can_be_cached": [role for role, size in published.items() if cost.can_be_cached(size)],
            },
            "aim_usd": cost.AIM_USD,
            "injections": injections(folder),
            "harm": harm(folder),
            "refusing": refusing.measure(folder),
            "fleet": fleet.measure(folder / "fleet"),
            "race": {
                "lease": race.measure(folder / "race"),
                "no lease": race.measure(folder / "unleased", race.CONTROL_ROUNDS, leased=False),
            },
            "kills": kills.measure(folder / "kills"),
        }


def show(result: Mapping[str, Any]) -> str:
    """A table for people."""
    lines = [f"{'role':<10} {'stable B':>9} {'new B':>7} {'tokens':>7} {'cached':>7}"]
    for role, size in result["roles"].items():
        cached = f"{size['stable_share']:.0%}" if size["can_be_cached"] else "no"
        lines.append(
            f"{role:<10} {size['stable_bytes']['median']:>9.0f} {size['new_bytes']['median']:>7.0f} "
            f"{size['prompt_tokens']:>7} {cached:>7}"
        )
    for name, each in result["cost"].items():
        told = ", ".join(
            f"${usd['median_usd']:.4f} ({usd['mean_usd']:.4f}) at {share}" for share, usd in each["accepted"].items()
        )
        lines.append(f"{name:<20} ${each['plan_cold_usd']:.4f} a plan; accepted policy, median (mean): {told}")
    lines += [f"{name}: {result[name]}" for name in ("injections", "harm", "refusing", "fleet", "race", "kills")]
    return "\n".join(lines)


def faults(result: Mapping[str, Any]) -> list[str]:
    """What must not be, as sentences: none is the only good result."""
    refused, equal, raced, killed = result["refusing"].values(), result["fleet"], result["race"], result["kills"]
    wrong = {
        "an injection reached a request": result["injections"]["requests_holding_any"],
        "a harmful answer came to more than a rejection or a safe proposal": result["harm"]["anything else"],
        "a refusal came to more than that": sum(each["anything else"] for each in refused),
        "refusals took more than the budget": sum(each["over_budget"] for each in refused),
        "equal nodes were not planned for once": equal["campaigns"] != 1 or equal["nodes_served"] != equal["nodes"],
        "two planners planned one key": raced["lease"]["planned_twice"],
        "a key was left unplanned": raced["lease"]["never_planned"],
        "without a lease nobody planned twice either: the rounds show nothing": not raced["no lease"]["planned_twice"],
        "a call is not accounted": killed["calls_unaccounted"],
        "a ledger counts too little after a kill": killed["ledgers_that_count_too_little"],
        "a ledger does not go on after a kill": killed["ledgers_that_do_not_go_on"],
    }
    return [sentence for sentence, found in wrong.items() if found]


def main() -> int:
    """0, or 1 when anything came to what must not be."""
    parser = argparse.ArgumentParser(description="Sizes and costs of planning by models, and what harm comes to.")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FILE", help="default: bench/results")
    arguments = parser.parse_args()
    result = measure()
    text = json.dumps(result, indent=1, sort_keys=False) + "\n"
    arguments.output.write_text(text, encoding="utf-8")
    print(text, end="")
    print(show(result), file=sys.stderr)
    wrong = faults(result)
    print("\n".join(f"error: {sentence}" for sentence in wrong), end="\n" if wrong else "", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
