# SPDX-License-Identifier: Apache-2.0
"""The planner's half on a real repository: one campaign a key, recall, and attempts that learn."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.api import (
    NodeEvent,
    Objective,
    PlanOutcome,
    Quarantined,
    SchedulerPolicy,
    SchedulerRevision,
    StageResult,
    Verdict,
    now,
)
from controller.deploy import prove
from controller.reconcile import keys
from controller.reconcile.node import plan_outcomes
from controller.reconcile.planner import Planner
from controller.source import GitStore
from controller.source.edit import Document
from tests.builders import T0, TARGET, intent
from tests.cli.harness import run
from tests.reconcile.planning import DAY, NEARBY, NIGHT, Bench, Told, observed, planner, repository, rules


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"SCHEDCTL_{name}", str(tmp_path / name))
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setattr("controller.reconcile.planner.verification_kernels", lambda policy, release: ())


def revisions(store: GitStore) -> list[SchedulerRevision]:
    desired = store.read().desired
    assert desired is not None
    return sorted(desired.revisions, key=lambda r: r.spec.created_at)


def added(store: GitStore, *before: SchedulerRevision) -> SchedulerRevision:
    """The one revision that is new. Two may be made within a second."""
    (found,) = [r for r in revisions(store) if r.name not in {b.name for b in before}]
    return found


def outcomes(store: GitStore) -> list[PlanOutcome]:
    return sorted(plan_outcomes(store.statuses()).values(), key=lambda o: o.at)


def apply(store: GitStore, resource: SchedulerPolicy) -> None:
    from controller.api.decode import encode

    text = encode(resource)
    store.apply([(text, Document(resource, "given.yaml", 1, 1))])


def other_budget(**spec: Any) -> SchedulerPolicy:
    """The same policy under which everything is as before, but for the plan key."""
    return rules(planner={"mode": "rules", "budget": {"usdPerDay": 2}}, **spec)


SHARE = {"metric": "cpuShare", "goal": "maximize"}


def planned(tmp_path: Path, bench: Bench, *, wish: Any = None, **spec: Any) -> GitStore:
    """A repository in which a first plan was made for a node with the load DAY."""
    wanted = intent()
    if wish is not None:
        objective = Objective.model_validate(wish)
        wanted = wanted.model_copy(update={"spec": wanted.spec.model_copy(update={"objective": objective})})
    store = GitStore(repository(tmp_path, rules(**spec), wanted))
    store.put_status("n1", [observed()])
    assert planner(store, bench).step()
    return store


# One campaign ----------------------------------------------------------------------------------------------------


def test_a_thousand_equal_nodes_are_one_campaign(tmp_path):
    store = GitStore(repository(tmp_path))
    store.put_status("fleet", [observed(f"n{i}") for i in range(1000)])
    bench = Bench()
    one = planner(store, bench)
    assert one.step()
    assert not one.step()
    assert len(bench.seen) == 1
    (made,) = revisions(store)
    desired = store.read().desired
    assert desired is not None
    (policy,) = desired.policies
    found = [keys.newest(desired.revisions, keys.plan_key(policy, keys.counted_intents(desired, n), TARGET))
             for n in store.nodes()]  # fmt: skip
    assert len(found) == 1000
    assert all(one == made for one in found)
    assert [o.outcome for o in outcomes(store)] == ["Planned"]


def test_what_a_revision_keeps_for_recall(tmp_path):
    store = planned(tmp_path, Bench())
    (made,) = revisions(store)
    assert made.spec.intents[0].intent == "shop/checkout"
    assert made.spec.intents[0].objective.metric == "wakeupLatency"
    assert made.spec.cost is not None
    assert (made.spec.cost.calls, made.spec.cost.usd) == (0, 0)
    assert [one.verdict for one in made.spec.lessons] == [Verdict.PASS]
    desired = store.read().desired
    assert desired is not None
    assert prove(made, store.revision_bytes(made, desired.commit)).workload == made.spec.workload


# Recall ----------------------------------------------------------------------------------------------------------


def test_the_same_wish_under_another_key_is_recalled_without_verification(tmp_path):
    bench, told = Bench(), Told()
    store = planned(tmp_path, bench)
    (old,) = revisions(store)
    apply(store, other_budget())
    assert planner(store, bench, told).step()
    assert len(bench.seen) == 1
    new = added(store, old)
    assert new.spec.plan_key != old.spec.plan_key
    assert new.spec.digests == old.spec.digests
    assert new.spec.recalled is not None
    assert (new.spec.recalled.revision, new.spec.recalled.distance) == (old.name, 0)
    said = next(o for o in outcomes(store) if o.plan_key == new.spec.plan_key)
    assert (said.outcome, said.reason, said.recalled, said.revision) == ("Planned", "Recalled", old.name, new.name)
    assert f"recalled from {old.name}" in said.message
    desired = store.read().desired
    assert desired is not None
    assert prove(new, store.revision_bytes(new, desired.commit))
    assert not planner(store, bench).step()


def test_a_load_that_comes_back_brings_its_revision_back(tmp_path):
    bench = Bench()
    store = planned(tmp_path, bench)
    made = revisions(store)
    for load, minute in ((NIGHT, 1), (DAY, 11), (NIGHT, 21)):
        for step in range(3):
            store.put_status("n1", [observed(load=load, at=60 * (minute + step))])
            planner(store, bench).step()
        made.append(added(store, *made))
    assert len(bench.seen) == 2  # one for each load, however often it comes
    day, night, *again = made
    assert [r.spec.recalled.revision for r in again if r.spec.recalled] == [day.name, night.name]
    assert keys.newest(revisions(store), day.spec.plan_key) == again[-1]


def test_a_near_load_starts_from_what_worked(tmp_path):
    bench = Bench()
    store = planned(tmp_path, bench)
    (old,) = revisions(store)
    store.put_status("n1", [observed(load=NEARBY)])
    apply(store, other_budget())
    planner(store, bench).step()
    assert len(bench.seen) == 2
    new = added(store, old)
    assert new.spec.recalled is None
    assert new.spec.proposal.reasons[0].startswith(f"starts from revision {old.name}, by rules")


def worse() -> StageResult:
    return StageResult(stage="trial", verdict=Verdict.REJECTED, summary="worse", figures={"pairs": 24})


def quarantine(old: SchedulerRevision, store: GitStore) -> None:
    held = Quarantined(
        object_digest=old.spec.digests.object, btf_digest=TARGET.btf_digest,
        passport_digest=old.spec.digests.passport, reason="runnable task stall", at=T0,
    )  # fmt: skip
    store.put_status("n1", [observed(quarantine=(held,))])


def eject(old: SchedulerRevision, store: GitStore) -> None:
    event = NodeEvent(at=T0, type="Normal", reason="Detached", message=f"{old.name}: ejected")
    store.put_status("n1", [observed(events=(event,))])


def tamper(old: SchedulerRevision, store: GitStore) -> None:
    work = store.repository.path
    (work / "revisions" / old.spec.files.object).write_bytes(b"\x7fELF other")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(work), *identity, "commit", "-qam", "change"], check=True)


@pytest.mark.parametrize(
    ("against", "why"),
    [
        (quarantine, "quarantined on n1: runnable task stall"),
        (eject, "ejected on n1"),
        (tamper, "the object is not the one that was committed"),
    ],
)
def test_what_was_ejected_or_is_not_proven_is_not_recalled(tmp_path, against, why):
    bench, told = Bench(), Told()
    store = planned(tmp_path, bench)
    (old,) = revisions(store)
    against(old, store)
    apply(store, other_budget())
    planner(store, bench, told).step()
    assert len(bench.seen) == 2
    new = added(store, old)
    assert new.spec.recalled is None
    assert not new.spec.proposal.reasons[0].startswith("starts from")
    assert any(line.startswith(f"not recalled: {old.name}: ") and why in line for line in told.lines), told.lines


def test_an_expired_passport_is_not_recalled(tmp_path, monkeypatch):
    bench = Bench()
    store = planned(tmp_path, bench)
    apply(store, other_budget())
    told = Told()
    monkeypatch.setattr("controller.reconcile.planner.now", lambda: now() + timedelta(days=31))
    planner(store, bench, told).step()
    assert any("the passport expired" in line for line in told.lines)


def test_a_stranger_s_key_recalls_nothing(tmp_path, monkeypatch):
    bench, told = Bench(), Told()
    store = planned(tmp_path, bench)
    apply(store, other_budget())
    monkeypatch.setenv("SCHEDCTL_CONFIG", str(tmp_path / "another"))
    planner(store, bench, told).step()
    assert any("no trusted key signed the passport" in line for line in told.lines)
    assert len(bench.seen) == 2


def test_a_passport_that_shows_too_little_is_a_prior(tmp_path):
    bench, told = Bench(), Told()
    store = planned(tmp_path, bench)
    (old,) = revisions(store)
    apply(store, other_budget(verification={"trial": True}))
    planner(store, bench, told).step()
    assert any("it stood no trial" in line for line in told.lines)
    assert added(store, old).spec.proposal.reasons[0].startswith(f"starts from revision {old.name}")


def test_what_a_later_trial_found_worse_is_not_recalled(tmp_path):
    bench, told = Bench(), Told()
    store = planned(tmp_path, bench)
    (old,) = revisions(store)
    bench.trial = worse()
    apply(store, other_budget(verification={"trial": True}))  # the same candidate, tried: worse
    planner(store, bench).step()
    rejected = next(o for o in outcomes(store) if o.plan_key != old.spec.plan_key)
    assert rejected.lessons[0].candidate == old.spec.proposal.substance()
    bench.trial = None
    apply(store, rules(planner={"mode": "rules", "budget": {"usdPerDay": 3}}))
    planner(store, bench, told).step()
    assert any("the same scheduler was rejected by trial" in line for line in told.lines), told.lines
    assert all(r.spec.recalled is None for r in revisions(store))


def test_a_recalled_revision_waits_for_approval_where_the_policy_says_so(tmp_path):
    bench = Bench()
    store = planned(tmp_path, bench)
    (old,) = revisions(store)
    apply(store, other_budget(approval="Manual"))
    planner(store, bench).step()
    said = next(o for o in outcomes(store) if o.plan_key != old.spec.plan_key)
    assert (said.outcome, said.recalled) == ("AwaitingApproval", old.name)
    assert len(revisions(store)) == 1
    assert len(bench.seen) == 1


def test_plan_by_hand_recalls_and_learns_as_the_planner_does(tmp_path):
    bench = Bench()
    store = planned(tmp_path, bench)
    (old,) = revisions(store)
    apply(store, other_budget())
    profile = observed().status.profile.canonical()  # type: ignore[union-attr]
    repo = store.repository.path
    said = run("plan", "-f", "-", "-o", "json", stdin=profile, repo=repo, now=now())
    assert (said.code, json.loads(said.out)) == (0, old.spec.proposal.wire())
    assert said.err == f"Recalled from revision {old.name} (distance 0.00): nobody was asked; --no-recall plans anew\n"
    anew = run("plan", "-f", "-", "-o", "json", "--no-recall", stdin=profile, repo=repo, now=now())
    assert (anew.code, anew.err) == (0, "")
    quarantine(old, store)
    shunned = run("plan", "-f", "-", stdin=profile, repo=repo, now=now())
    assert shunned.err == f"Not recalled: {old.name}: quarantined on n1: runnable task stall\n"


# Learning --------------------------------------------------------------------------------------------------------


def test_a_refused_template_gives_way_to_the_second_best_and_the_lesson_stays(tmp_path):
    bench = Bench(refuses={"batch-order": ("load", "load/unbounded-loop")})
    store = planned(tmp_path, bench, wish=SHARE)
    (refused,) = outcomes(store)
    assert (refused.outcome, refused.attempts) == ("Rejected", 1)
    (lesson,) = refused.lessons
    assert (lesson.stage, lesson.rule, lesson.figures) == ("load", "load/unbounded-loop", {"insns_verified": 17})
    assert planner(store, bench).step()  # a new process: all that is known is in Git
    assert bench.seen == ["batch-order", "latency-first"]
    (made,) = revisions(store)
    assert [(one.template, one.verdict) for one in made.spec.lessons] == [
        ("batch-order", Verdict.REJECTED), ("latency-first", Verdict.PASS),
    ]  # fmt: skip
    assert not planner(store, bench).step()


def test_when_all_are_refused_it_is_said_and_not_tried_again(tmp_path):
    bench = Bench(refuses=dict.fromkeys(("batch-order", "latency-first"), ("liveness", "liveness/stall")))
    store = planned(tmp_path, bench, wish=SHARE)
    while planner(store, bench).step():
        pass
    assert bench.seen == ["batch-order", "latency-first"]
    (said,) = outcomes(store)
    assert (said.outcome, said.reason) == ("NoPlan", "NothingLeft")
    assert "latency-first was rejected by liveness (liveness/stall)" in said.message
    assert len(said.lessons) == 2
    policy = store.statuses()["SchedulerPolicy", "", "default"]
    assert isinstance(policy, SchedulerPolicy)
    assert policy.status is not None
    stalled = policy.status.condition("Stalled")
    assert stalled is not None
    assert stalled.reason == "NothingLeft"


def test_attempts_end_with_the_budget(tmp_path):
    bench = Bench(refuses={"batch-order": ("load", "load/x")})
    store = planned(tmp_path, bench, wish=SHARE, planner={"mode": "rules", "budget": {"attempts": 1}})
    assert not planner(store, bench).step()
    assert bench.seen == ["batch-order"]


# Several planners ------------------------------------------------------------------------------------------------

PLAN = """
import sys, time
from controller.source import GitStore
from controller.reconcile import planner as module
from tests.reconcile.planning import Bench, planner

module.verification_kernels = lambda policy, release: ()

class Slow(Bench):
    def __call__(self, candidate, **asked):
        print("verifying", flush=True)
        time.sleep(float(sys.argv[2]))
        return super().__call__(candidate, **asked)

store = GitStore(sys.argv[1])
store._leases.ttl_s, store._leases.skew_s = 2.0, 1.0
bench = Slow()
end = time.monotonic() + 40
while not store.read().desired.revisions and time.monotonic() < end:
    planner(store, bench).step()
    time.sleep(0.05)
print("seen", len(bench.seen), flush=True)
"""


def process(folder: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PLAN, str(folder), str(seconds)],
        cwd=Path(__file__).parent.parent.parent, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_planners_on_one_repository_plan_a_key_once(tmp_path):
    bare = repository(tmp_path, bare=True)
    GitStore(bare).put_status("n1", [observed()])
    both = [process(bare, 1.5) for _ in range(2)]
    said = [each.communicate(timeout=120)[0].split() for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert sorted(words[-1] for words in said) == ["0", "1"]
    assert len(revisions(GitStore(bare))) == 1
    assert GitStore(bare).repository.refs("refs/schedctl/lease") == {}


def test_what_a_killed_planner_had_begun_another_one_does(tmp_path):
    bare = repository(tmp_path, bare=True)
    GitStore(bare).put_status("n1", [observed()])
    first = process(bare, 100)
    assert first.stdout is not None
    assert first.stdout.readline() == "verifying\n"
    first.kill()
    first.communicate()
    assert process(bare, 0).communicate(timeout=120)[0].split() == ["verifying", "seen", "1"]
    assert len(revisions(GitStore(bare))) == 1


@pytest.mark.parametrize("stage", ["", "load"])
def test_of_a_plan_that_was_taken_over_nothing_is_committed_or_said(tmp_path, stage):
    bench, told = Bench(refuses={"latency-first": (stage, "load/x")}), Told()
    store = GitStore(repository(tmp_path))
    store.put_status("n1", [observed()])

    def taken_over(candidate: Any, **asked: Any) -> Any:
        (ref,) = store.repository.refs("refs/schedctl/lease")
        store.repository.run(
            "update-ref", ref, store.repository.run("hash-object", "-w", "--stdin").stdout.decode().strip()
        )
        return bench(candidate, **asked)

    Planner(store, reporter=told, examine=taken_over).step()
    assert revisions(store) == []
    assert outcomes(store) == []
    assert "another planner has taken this plan over: what was made here is not committed" in told.lines
