# SPDX-License-Identifier: Apache-2.0
"""What bench/planner.py measured, as sentences and tables of docs/planner.md. No figure is computed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scripts.doc_pages import table

COMMAND = "python bench/planner.py"


def told(found: Mapping[str, Any]) -> Iterable[str]:
    """All sections, from the bench's whole result."""
    yield from _sizes(found)
    yield from _cost(found)
    yield from _injections(found["injections"])
    yield from _harm(found["harm"], found["refusing"])
    yield from _once(found["fleet"], found["race"])
    yield from _killed(found["kills"])


def _sizes(found: Mapping[str, Any]) -> Iterable[str]:
    assumed, least = found["assumed"], found["cache_minimum"]
    calls = ", ".join(f"{role} {count}" for role, count in found["calls_of_first_plans"].items())
    yield f"## Sizes of requests\n\n`{COMMAND}`, {found['measured'][:10]}.\n"
    yield (
        f"Bytes as sent, medians of {found['questions']} questions (four profiles, three sets of intents), each "
        "planned without a past, with one that points both ways, and under autonomy `template` with a strategy that "
        "names a gap, so that the author is asked. Tokens are bytes / "
        f"{assumed['bytes_per_token']:g}, an assumption. *Can be cached* is the part that is the same for every plan "
        f"with the same templates, where it has the tokens below which the API caches nothing ({_least(least)}; "
        f"published, as of {least['as_of']}). Calls in the {found['questions']} plans without a past: {calls}.\n"
    )
    rows = [
        [
            role, f"{s['stable_bytes']['median']:.0f}", f"{s['new_bytes']['median']:.0f}",
            f"{s['new_bytes']['least']:.0f} to {s['new_bytes']['most']:.0f}",
            f"{s['answer_bytes']['median']:.0f}" if s["answer_bytes"] else "–", s["prompt_tokens"],
            s["output_tokens_assumed"],
            f"{s['stable_share']:.0%}" if s["can_be_cached"] else f"no: {s['stable_tokens']} tokens are the same",
        ]
        for role, s in found["roles"].items()
    ]  # fmt: skip
    header = ["role", "same bytes", "new bytes", "least to most", "answer bytes", "tokens", "output tokens (assumed)"]
    yield table([*header, "can be cached"], rows) + "\n"


def _least(minimum: Mapping[str, Any]) -> str:
    """Of each model, or once where they are alike."""
    tokens = minimum["tokens"]
    if len(set(tokens.values())) == 1:
        return f"{next(iter(tokens.values()))} for each model"
    return ", ".join(f"{model} {count}" for model, count in tokens.items())


def _cost(found: Mapping[str, Any]) -> Iterable[str]:
    assumed, aim = found["assumed"], found["aim_usd"]
    shares = [f"{share:.2f}" for share in assumed["acceptance"]]
    yield (
        f"## Dollars\n\nA plan is the planner and the executor, one answer each; prices of {found['prices_as_of']}. "
        "*Cold*: all of the prompt is written to the cache; *warm*: the part that is the same is read from it, where "
        "it can be cached. *New template*: one answer of the author beside the plan, cold. The plan *chosen by the "
        "rule* is a mean, with the answers that are refused.\n"
    )
    keys = ("plan_cold_usd", "plan_warm_usd", "author_cold_usd")
    rows = [
        [name, each["model"] or "–", *(_usd(each.get(key)) for key in keys)] for name, each in found["cost"].items()
    ]
    yield table(["tier", "model", "plan, cold", "plan, warm", "new template"], rows) + "\n"
    rule = found["cost"]["chosen by the rule"]
    asked = ", then ".join(rule["first_asked"]["planner"])
    yield (
        "Dollars per accepted policy: the attempts are walked as the code goes, all prompts cold. An answer is taken "
        "as often as `tiers.chance` believes, else asked for again. Verification accepts a proposal with the share at "
        "the head of the column, which is not known; one that it rejects is charged to the model that was asked "
        f"(`tiers.charged`), so that the rule asks for the first, second and third plan {asked} first. There are at "
        f"most {assumed['attempts']} plans and ${assumed['budget_usd']:.2f} a day. *Median* is of the accepted "
        "policies; *mean* is all dollars, those of policies that stay unaccepted too, over the accepted ones; *left* "
        f"is the share that stays unaccepted. The aim is a median of at most ${aim:.2f}.\n"
    )
    accepted = [[name, *(_accepted(each["accepted"][share], aim) for share in shares)]
                for name, each in found["cost"].items()]  # fmt: skip
    yield table(["tier", *(f"accepted, at {share}" for share in shares)], accepted) + "\n"
    other = found["cost_at_published_ratio"]
    medians = ", ".join(
        f"${usd['median_usd']:.4f} ({usd['mean_usd']:.4f}) at {share}" for share, usd in other["accepted"].items()
    )
    yield (
        f"The models' pages speak of about {other['bytes_per_token']:g} characters a token, for English text. With "
        f"that many tokens the rule comes to a median (mean) of {medians}, and what is the same is long enough for the "
        f"cache of {', '.join(other['can_be_cached'])}.\n"
    )


def _usd(value: float | None) -> str:
    return "–" if value is None else f"${value:.4f}"


def _accepted(found: Mapping[str, float], aim: float) -> str:
    above = "" if found["median_usd"] <= aim else ", **above the aim**"
    return f"median {_usd(found['median_usd'])}{above}; mean {_usd(found['mean_usd'])}; left {found['unaccepted']:.1%}"


def _injections(found: Mapping[str, Any]) -> Iterable[str]:
    yield (
        f"## Injections\n\n{found['injections']} texts in each of {found['channels']} channels (process names, command "
        "lines, cgroups, units, pod labels, manifest names, annotations, templates' texts, commit messages, compiler, "
        f"verifier, guest console, node and kernel names): {found['plans']} plans, {found['requests']} requests. "
        f"Requests that held any byte of an injection: **{found['requests_holding_any']}**.\n"
    )


def _harm(harm: Mapping[str, Any], refusing: Mapping[str, Any]) -> Iterable[str]:
    yield (
        f"## Harmful answers\n\n{harm['answers']} answers (out of range, of wrong types, a megabyte long, code in "
        "expressions, tricks with Unicode, forged handles), each given again and again: "
        f"{harm['rejected']} plans ended in a clear rejection, {harm['safe proposal']} in a safe proposal, "
        f"**{harm['anything else']}** in anything else. The dearest took ${harm['most_usd_of_one']:.4f} of a budget of "
        f"${harm['budget_usd']:.2f}.\n"
    )
    yield (
        "Refusals without end, by the planner, the executor or the author, under 1, 3 and 20 attempts and two budgets, "
        "with bills for all the output that was allowed. Where the author refuses, the proposal stands without a new "
        "template. *Ended by*: at once / by the attempts / by the budget.\n"
    )
    first = next(iter(refusing.values()))
    budgets = list(first["most_usd_of_one"])
    rows = [
        [
            way, each["plans"], f"{each['requests']} ({each['most_requests_of_one']})", each["rejected"],
            each["safe proposal"], f"**{each['anything else']}**", " / ".join(map(str, each["ended_by"].values())),
            *(f"${each['most_usd_of_one'][budget]:.4f}" for budget in budgets),
        ]
        for way, each in refusing.items()
    ]  # fmt: skip
    header = ["what the model does", "plans", "requests (most of one)", "rejected", "safe proposal", "anything else"]
    yield table([*header, "ended by", *(f"dearest, of ${budget}" for budget in budgets)], rows) + "\n"


def _once(fleet: Mapping[str, Any], race: Mapping[str, Any]) -> Iterable[str]:
    yield (
        f"## Planned once\n\n{fleet['nodes']} nodes of equal intents, kernel and topology class, the planner's own "
        f"loop on a Git repository until nothing is due, models asked over loopback: **{fleet['campaigns']}** planning "
        f"campaign, {fleet['requests']} model requests, {fleet['verifications']} candidate compiled and audited (what "
        f"a kernel says of it is authored), {fleet['revisions']} revision, which {fleet['nodes_served']} of the nodes "
        f"take, in {fleet['seconds']:.1f} s.\n"
    )
    lease, none = race["lease"], race["no lease"]
    yield (
        f"Two planners, one key, a lease in Git: two processes with state of their own began {lease['rounds']} rounds "
        "together, by turns on one bare repository and on a clone each. In "
        f"{lease['met_at_the_lease']} of them one came upon the other's lease. Planned twice: "
        f"**{lease['planned_twice']}**; left unplanned: {lease['never_planned']}; leases left behind: "
        f"{lease['leases_left']}. The same without a lease: planned twice in {none['planned_twice']} of "
        f"{none['rounds']}.\n"
    )


def _killed(found: Mapping[str, Any]) -> Iterable[str]:
    yield (
        f"## The ledger under `kill -9`\n\nA planner was killed by SIGKILL at {found['killed']} of the "
        f"{found['lines']} lines that it executes, in all its threads, in asking, sending and accounting; "
        f"{found['calls_sent']} calls had been sent by then. Calls that are not in the ledger: "
        f"**{found['calls_unaccounted']}**; ledgers that count fewer dollars than were billed: "
        f"{found['ledgers_that_count_too_little']}; ledgers that a next planner could not go on with: "
        f"{found['ledgers_that_do_not_go_on']}. Moments met: {'; '.join(found['moments'])}.\n"
    )
