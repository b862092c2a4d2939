# SPDX-License-Identifier: Apache-2.0
"""What a policy's promoted plans cost and save: by the trials in signed passports of a real campaign, else unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controller.api import Attachment, NodeScheduler, Objective, PlanCost, SchedulerRevision, StageResult, Verdict
from controller.reconcile.payback import by_policy
from controller.source import GitStore
from controller.trust import keys
from tests.api.test_fingerprint import stats
from tests.builders import T0, intent
from tests.cli.harness import run
from tests.reconcile.planning import DAY, Bench, observed, planner, repository, rules
from tests.reconcile.test_planner import revisions

FIGURES = {
    "baseline.class.makespan.gain_percent": 25.0,
    "baseline.class.makespan.low_percent": 0.0,
    "baseline.class.makespan.high_percent": 100.0,
    "pairs": 24,
}


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"SCHEDCTL_{name}", str(tmp_path / name))
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setattr("controller.reconcile.planner.verification_kernels", lambda policy, release: ())


def tried(figures: dict[str, Any] = FIGURES) -> StageResult:
    return StageResult(stage="trial", verdict=Verdict.PASS, summary="authored", figures=figures)


def planned(tmp_path: Path, trial: StageResult | None) -> tuple[GitStore, SchedulerRevision]:
    """A repository whose planner made a revision, with this trial in its passport."""
    wanted = intent()
    objective = Objective.model_validate({"metric": "makespan", "goal": "minimize"})
    wanted = wanted.model_copy(update={"spec": wanted.spec.model_copy(update={"objective": objective})})
    store = GitStore(repository(tmp_path, rules(), wanted))
    store.put_status("n1", [observed()])
    planner(store, Bench(trial=trial)).step()
    (made,) = revisions(store)
    return store, made


def runs(store: GitStore, name: str, revision: SchedulerRevision, phase: str = "Promoted") -> NodeScheduler:
    attached = Attachment(ops_name=revision.spec.ops_name, revision=revision.name, since=T0, phase=phase)
    node = observed(name, attached=attached)
    store.put_status(name, [node])
    return node


def paid(store: GitStore) -> Any:
    desired = store.read().desired
    assert desired is not None
    return by_policy(store, desired, store.nodes()).get("default")


def share() -> float:
    return stats("shop/checkout", **DAY).cpu_share


def test_what_nobody_promoted_saves_nothing_yet(tmp_path: Path) -> None:
    store, made = planned(tmp_path, tried())
    assert paid(store) is None
    runs(store, "n1", made, "Probation")
    assert paid(store) is None


def test_the_passports_trial_times_the_nodes_that_run_it(tmp_path: Path) -> None:
    store, made = planned(tmp_path, tried())
    runs(store, "n1", made)
    one = paid(store)
    cpus = 2
    expected = share() * cpus * 3600 * 0.25 / 1.25
    assert made.spec.target.topology_class.startswith(f"cpus{cpus}")
    assert one.saved == pytest.approx((0, expected, share() * cpus * 3600 / 2))
    assert (one.usd, one.calls, one.nodes, one.known) == (0, 0, 1, 1)
    runs(store, "n2", made)
    two = paid(store)
    assert two.saved == pytest.approx(tuple(2 * end for end in one.saved))
    assert two.usd == 0, "planned once"
    repo = Path(store.repository.path)
    said = run("budget", repo=repo).out.splitlines()
    assert said[0].split("  ")[-1].strip() == "CPU SAVED"
    assert "$0.0000 (0 model calls)" in said[1]
    assert two.saved_text() in said[1]
    told = json.loads(run("budget", "-o", "json", repo=repo).out)["policies"][0]["payback"]
    assert (told["nodes"], told["planUsd"], told["savedCpuSecondsPerHour"]["low"]) == (2, 0, 0)


def test_without_a_trial_it_is_unknown(tmp_path: Path) -> None:
    store, made = planned(tmp_path, None)
    runs(store, "n1", made)
    found = paid(store)
    assert (found.saved, found.saved_text(), found.known, found.nodes) == (None, "unknown", 0, 1)
    assert found.why == "no trial measured it"
    repo = Path(store.repository.path)
    told = json.loads(run("budget", "-o", "json", repo=repo).out)["policies"][0]["payback"]
    assert (told["savedCpuSecondsPerHour"], told["why"]) == ("unknown", "no trial measured it")


def test_a_passport_that_nobody_trusted_signed_proves_no_saving(tmp_path: Path) -> None:
    store, made = planned(tmp_path, tried())
    runs(store, "n1", made)
    assert paid(store).saved is not None
    for key in keys.trusted_dir().iterdir():
        key.unlink()
    found = paid(store)
    assert found.saved is None
    assert found.why


def test_figures_in_a_manifest_are_not_taken_for_a_trial(tmp_path: Path) -> None:
    """The lessons are beside the passport, and nobody signed them."""
    store, made = planned(tmp_path, tried())
    runs(store, "n1", made)
    honest = paid(store).saved
    file = next(Path(store.repository.path).glob("revisions/*.yaml"))
    text = file.read_text()
    assert "gain_percent: 25.0" in text
    file.write_text(text.replace("gain_percent: 25.0", "gain_percent: 900.0"))
    import subprocess

    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(file.parent), *identity, "commit", "-qam", "greater"], check=True)
    assert paid(store).saved == honest


def test_an_unknown_cost_stays_unknown(tmp_path: Path) -> None:
    store, made = planned(tmp_path, tried())
    desired = store.read().desired
    assert desired is not None
    for cost, expected in (
        (None, (None, None)),
        (PlanCost(calls=3), (None, 3)),
        (PlanCost(calls=3, usd=0.5), (0.5, 3)),
    ):
        costly = made.model_copy(update={"spec": made.spec.model_copy(update={"cost": cost})})
        given = desired.model_copy(update={"revisions": (costly,)})
        found = by_policy(store, given, [runs(store, "n1", made)])["default"]
        assert (found.usd, found.calls) == expected
