# SPDX-License-Identifier: Apache-2.0
"""What planning by models sends and what that costs, what injections reach it, and what harmful answers come to.

No model is asked: answers are authored, so bytes are measured and everything that depends on a model is reckoned from
stated assumptions. For twelve questions (four profiles, three sets of intents) the requests of every role are recorded
on the production path; the observer is made to be asked by a profile that its rules have nothing to say of, the learner
by a past that points both ways. Tokens are bytes over an assumed ratio, output tokens are assumed, prices are those of
the ledger's table. Then every injection of the tests is put into every channel and looked for in every request, and
every harmful answer is given. The table goes to stderr, JSON to stdout and to bench/results/planner.json.

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

from controller.api import (  # noqa: E402
    Histogram,
    IntentSpec,
    Objective,
    ObjectMeta,
    Proposal,
    SchedulingIntent,
    WorkloadProfile,
    WorkloadSelector,
)
from controller.plan import claude, rules  # noqa: E402
from controller.plan.claude import NoAnswer, executor, planner, tiers  # noqa: E402
from controller.plan.ledger import PRICES_AS_OF, Ledger, Usage, cost  # noqa: E402
from controller.plan.messages import Reply  # noqa: E402
from controller.plan.prompt import build  # noqa: E402
from controller.plan.values import Filling, Strategy  # noqa: E402
from controller.render import render  # noqa: E402
from tests import builders  # noqa: E402
from tests.plan import claude_case as case  # noqa: E402
from tests.plan import hostile_answers, tainted  # noqa: E402
from tests.plan.test_roles import gain, past  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "planner.json"
AIM_USD = 0.05
MEASURED = tuple(role for role in tiers.ROLES if role != "author")
"""An author is asked for a gap in the catalogue, which none of the questions has."""
ATTEMPTS = 3
ACCEPTANCE = (1.0, 0.5, 1 / 3)
"""Share of proposals that verification accepts: not known, so the cost is reckoned for several."""
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
            answers = authored(profile, intents, base)
            asker = Recorder(answers)
            earlier = [past(figures=gain(others=-4.0, **{"class": 9.0}))] if tried else []
            claude.propose(
                profile, intents, POLICY, case.TEMPLATES, base, asker,
                earlier=earlier, ledger=Ledger(folder / "ledger.jsonl"),
            )  # fmt: skip
            found += [(f"{node}, {wanted}", role, request, len(answers[role])) for role, request in asker.asked]
    return found


def authored(profile: WorkloadProfile, intents: tuple[SchedulingIntent, ...], base: Proposal) -> dict[str, str]:
    """What the rules would answer in each role, with two sentences as a model would add them."""
    prompt = build(profile, intents, case.TEMPLATES, base, expressions=True)
    reasons = ("i1 waits longer at p99 than its target.", "others keep what the guardrail says.")
    strategy = planner.by_rules(prompt, base).model_copy(update={"reasons": reasons})
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


def sizes(requests: list[tuple[str, str, dict[str, Any], int]]) -> dict[str, Any]:
    """Bytes by role: what stays the same (instructions, catalogue, schema), what is new, and the answer."""
    found: dict[str, Any] = {}
    for role in MEASURED:
        mine = [(request, answer) for _, r, request, answer in requests if r == role]
        if not mine:
            continue
        stable = [_stable(request) for request, _ in mine]
        new = [len(json.dumps(request["messages"], separators=(",", ":"))) for request, _ in mine]
        answers = [answer for _, answer in mine]
        whole = [a + b for a, b in zip(stable, new, strict=True)]
        found[role] = {
            "requests": len(mine),
            "stable_bytes": _spread(stable),
            "new_bytes": _spread(new),
            "answer_bytes": _spread(answers),
            "prompt_tokens": round(statistics.median(whole) / tiers.BYTES_PER_TOKEN),
            "stable_tokens": round(statistics.median(stable) / tiers.BYTES_PER_TOKEN),
            "output_tokens_assumed": tiers.ROLES[role].expected_tokens,
            "cached_share": round(statistics.median(stable) / statistics.median(whole), 3),
        }
    return found


def _stable(request: Mapping[str, Any]) -> int:
    return len(json.dumps([request["system"], request["output_config"]], separators=(",", ":")))


def _spread(values: list[int]) -> dict[str, float]:
    return {"least": min(values), "median": statistics.median(values), "most": max(values)}


def dollars(roles: Mapping[str, Any], names: tuple[str, ...], model: str, *, warm: bool) -> float:
    """One answer of each role by one model, nothing refused; warm: what is stable is read from the cache."""
    total = 0.0
    for name in names:
        stable, whole = roles[name]["stable_tokens"], roles[name]["prompt_tokens"]
        new, out = whole - stable, roles[name]["output_tokens_assumed"]
        kinds = Usage(0, out, cached=stable, written=new) if warm else Usage(0, out, written=whole)
        billed = cost(model, kinds)
        assert billed is not None
        total += billed
    return total


def ladder(roles: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    """A plan in which `tiers.choose` picks the models and answers are refused as often as it believes, expected."""
    usd, ended_well = 0.0, 1.0
    for name in names:
        size = round(roles[name]["prompt_tokens"] * tiers.BYTES_PER_TOKEN)
        refused: dict[str, int] = {}
        reaching = 1.0
        for _ in range(ATTEMPTS):
            model = tiers.choose(name, size, 10.0, {}, refused)  # type: ignore[arg-type]
            tier = next(t for t in tiers.TIERS if t.model == model)
            once = dollars(roles, (name,), model, warm=False)
            usd += ended_well * reaching * once
            reaching *= 1 - tiers.chance(tier, {}, refused)
            refused[model] = refused.get(model, 0) + 1
        ended_well *= 1 - reaching
    return {"usd": usd, "ends_with_a_proposal": ended_well}


def cost_model(roles: Mapping[str, Any]) -> dict[str, Any]:
    """Dollars a plan and per accepted policy, by tier and for the rule that chooses among them."""
    plain: tuple[str, ...] = ("planner", "executor")
    full: tuple[str, ...] = ("observer", "learner", "planner", "executor")
    found: dict[str, Any] = {}
    for tier in tiers.TIERS:
        found[tier.name] = {
            "model": tier.model,
            "plan_cold_usd": dollars(roles, plain, tier.model, warm=False),
            "plan_warm_usd": dollars(roles, plain, tier.model, warm=True),
            "all_four_roles_cold_usd": dollars(roles, full, tier.model, warm=False),
        }
    chosen = ladder(roles, plain)
    found["chosen by the rule"] = {"model": "", "plan_cold_usd": chosen["usd"]} | {
        "ends_with_a_proposal_if_beliefs_hold": chosen["ends_with_a_proposal"]
    }
    for each in found.values():
        each["accepted_usd"] = {f"{share:.2f}": each["plan_cold_usd"] / share for share in ACCEPTANCE}
        each["within_aim"] = all(usd <= AIM_USD for usd in each["accepted_usd"].values())
    return found


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
        requests = recorded(folder, tried=False) + recorded(folder, tried=True)
        roles = sizes(requests)
        calls = [role for _, role, _, _ in recorded(folder, tried=False)]
        return {
            "benchmark": "planner",
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "prices_as_of": PRICES_AS_OF,
            "assumed": {
                "bytes_per_token": tiers.BYTES_PER_TOKEN,
                "output_tokens": {role: tiers.ROLES[role].expected_tokens for role in MEASURED},
                "acceptance": list(ACCEPTANCE),
            },
            "questions": len(QUESTIONS) * len(profiles(())),
            "calls_of_first_plans": {role: calls.count(role) for role in MEASURED},
            "roles": roles,
            "cost": cost_model(roles),
            "aim_usd": AIM_USD,
            "injections": injections(folder),
            "harm": harm(folder),
        }


def show(result: Mapping[str, Any]) -> str:
    """A table for people."""
    lines = [f"{'role':<10} {'stable B':>9} {'new B':>7} {'tokens':>7} {'cached':>7}"]
    for role, size in result["roles"].items():
        lines.append(
            f"{role:<10} {size['stable_bytes']['median']:>9.0f} {size['new_bytes']['median']:>7.0f} "
            f"{size['prompt_tokens']:>7} {size['cached_share']:>7.0%}"
        )
    for name, each in result["cost"].items():
        shares = ", ".join(f"${usd:.4f} at {share}" for share, usd in each["accepted_usd"].items())
        lines.append(f"{name:<20} ${each['plan_cold_usd']:.4f} a plan; accepted policy: {shares}")
    lines.append(f"injections: {result['injections']}")
    lines.append(f"harm: {result['harm']}")
    return "\n".join(lines)


def main() -> int:
    """0, or 1 when an injection reached a request or harm came to more than a rejection or a safe proposal."""
    parser = argparse.ArgumentParser(description="Sizes and costs of planning by models, injections, harmful answers.")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FILE", help="default: bench/results")
    arguments = parser.parse_args()
    result = measure()
    text = json.dumps(result, indent=1, sort_keys=False) + "\n"
    arguments.output.write_text(text, encoding="utf-8")
    print(text, end="")
    print(show(result), file=sys.stderr)
    return int(result["injections"]["requests_holding_any"] > 0 or result["harm"]["anything else"] > 0)


if __name__ == "__main__":
    sys.exit(main())
