# SPDX-License-Identifier: Apache-2.0
"""What each scenario takes for a failure, on numbers such as the guest gives."""

from __future__ import annotations

import re

import pytest

from controller.cli.main import main
from controller.verify import scenarios
from controller.verify.scenarios import SCENARIOS, Limit
from controller.verify.scenarios.registry import scenario

KERNEL = {
    "idle-wakeup": {"p50_us": 200.0, "p99_us": 800.0, "woken": 1.0},
    "affinity-churn": {"moves": 85000.0, "least_moves": 21000.0},
    "fork-storm": {"forks": 2000.0, "max_us": 7000.0},
    "exec-churn": {"execs": 900.0, "least_execs": 280.0, "max_us": 30_000.0},
    "weighted-shares": {
        "heavy_share": 0.75, "light_share": 0.25, "heavy_least_share": 0.18, "light_least_share": 0.06,
        "cpu_ms": 4000.0, "slowest_s": 2.7,
    },
    "cgroup-shares": {
        "heavy_share": 0.75, "light_share": 0.25, "heavy_least_share": 0.37, "light_least_share": 0.12,
        "cpu_ms": 4000.0, "slowest_s": 2.2,
    },
    "late-waker": {
        "p50_us": 150.0, "max_us": 5000.0, "nice_max_us": 20_000.0, "spin_least_share": 0.245, "slowest_s": 2.7,
    },
    "long-sleeper": {"gap_us": 25_000.0, "least_share": 0.15, "slowest_s": 3.7},
    "pinned-floating": {"pinned_least_share": 0.24, "floating_least_share": 0.24, "spread": 0.05, "slowest_s": 2.2},
    "yield-storm": {"yields": 30000.0, "least_yields": 1000.0, "spin_least_share": 0.4, "slowest_s": 2.0},
    "wakeup-storm": {"rounds": 30000.0, "least_rounds": 200.0, "spin_least_share": 0.09, "slowest_s": 1.9},
    "rt-hog": {
        "gap_us": 60_000.0, "bound_gap_us": 830_000.0, "spin_least_share": 0.1, "waker_max_us": 6000.0,
        "hog_ms": 800.0, "slowest_s": 1.9,
    },
    "hotplug": {
        "gap_us": 90_000.0, "spin_least_share": 0.2, "back_share": 0.95, "slowest_s": 1.8, "came_back": 0.0,
    },
    "kworker-latency": {"p50_us": 3000.0, "max_us": 20_000.0, "slowest_s": 1.7},
    "many-tasks": {"made_ms": 600.0, "first_ms": 5.0, "last_ms": 900.0},
    "soak": {
        "gap_us": 80_000.0, "least_share": 0.03, "waker_max_us": 8000.0, "sleeper_max_us": 3000.0,
        "cyclictest_max_us": 6000.0, "slowest_s": 6.3,
    },
}  # fmt: skip
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
EVERY_LIMIT = [(s.name, limit) for s in SCENARIOS for limit in s.limits]


def judged(name: str, **changes: float) -> list[tuple[str, str]]:
    complaints = BY_NAME[name].judge(KERNEL[name] | changes, KERNEL[name])
    return [(c.severity, c.message) for c in complaints]


def test_there_are_at_least_fourteen_and_each_says_what_it_asks_and_what_fails_it():
    assert len(SCENARIOS) == len(BY_NAME) == len(scenarios.registry.registered()) >= 14
    assert {s.name for s in SCENARIOS if s.compared} == KERNEL.keys()
    for each in SCENARIOS:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", each.name)
        assert each.asks
        assert each.load
        assert each.fails_if


def test_every_scenario_can_fail():
    assert all(any(limit.severity == "error" for limit in s.limits) for s in SCENARIOS if s.compared)
    assert all(s.also_fails for s in SCENARIOS if not s.compared)


def test_two_scenarios_of_one_name_are_a_mistake():
    with pytest.raises(ValueError, match="two scenarios"):
        scenario("soak", asks="", load="")(lambda _arena: {})


@pytest.mark.parametrize("name", KERNEL)
def test_the_kernels_own_scheduler_passes(name):
    assert judged(name) == []


@pytest.mark.parametrize(("name", "limit"), EVERY_LIMIT, ids=[f"{name}.{limit.figure}" for name, limit in EVERY_LIMIT])
def test_each_limit_is_just_where_its_sentence_says(name, limit: Limit):
    """On the bound there is nothing to say; a thousandth beyond it there is, with both numbers and the limit."""
    bound = limit.factor * KERNEL[name][limit.figure] + limit.plus
    beyond = bound * (1.001 if limit.worse == "above" else 0.999)
    assert [told for told in judged(name, **{limit.figure: bound}) if told[0] == limit.severity] == []
    ((severity, message),) = [told for told in judged(name, **{limit.figure: beyond}) if told[0] == limit.severity]
    assert severity == limit.severity
    assert message.startswith(limit.of)
    assert "with the kernel's own scheduler (the limit is" in message
    assert f"{limit.factor:.3g}" in limit.sentence()
    assert limit.sentence() in BY_NAME[name].fails_if


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("idle-wakeup", {"p50_us": 1900.0, "p99_us": 90_000.0}),
        ("fork-storm", {"forks": 300.0, "max_us": 200_000.0}),
        ("affinity-churn", {"moves": 9000.0, "least_moves": 2000.0}),
        ("late-waker", {"p50_us": 40_000.0, "max_us": 120_000.0}),  # a FIFO queue with slices of 20 ms
        ("kworker-latency", {"p50_us": 60_000.0, "max_us": 140_000.0}),
        ("yield-storm", {"yields": 400.0, "least_yields": 60.0, "spin_least_share": 0.45}),
        ("wakeup-storm", {"rounds": 600.0, "least_rounds": 40.0, "spin_least_share": 0.47}),
        (
            "rt-hog",
            {"gap_us": 850_000.0, "bound_gap_us": 1_100_000.0},
        ),  # left waiting on the CPU that was taken, until it was free again
        ("hotplug", {"gap_us": 400_000.0, "came_back": 2.0}),
        ("many-tasks", {"made_ms": 1900.0, "last_ms": 2500.0}),
        ("pinned-floating", {"pinned_least_share": 0.17, "floating_least_share": 0.32}),
        ("cgroup-shares", {"heavy_share": 0.6, "light_share": 0.4}),
    ],
)
def test_slower_is_not_dead(name, changes):
    assert judged(name, **changes) == []


@pytest.mark.parametrize("name", ["weighted-shares", "cgroup-shares"])
def test_a_scheduler_without_weights_is_warned_and_not_rejected(name):
    told = judged(name, heavy_share=0.5, light_share=0.5, heavy_least_share=0.25, light_least_share=0.25)
    assert [severity for severity, _ in told] == ["warn"]
    assert "are ignored" in told[0][1]


@pytest.mark.parametrize(
    ("name", "says"), [("weighted-shares", "nicer gets more"), ("cgroup-shares", "lighter one gets more")]
)
def test_weights_that_are_turned_round_are_an_error(name, says):
    told = judged(name, heavy_share=0.3, light_share=0.7)
    assert [severity for severity, _ in told] == ["error", "warn"]
    assert says in told[0][1]


def test_errors_are_told_before_warnings():
    told = judged("weighted-shares", heavy_share=0.5, heavy_least_share=0.01)
    assert [severity for severity, _ in told] == ["error", "warn"]


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("idle-wakeup", {"p50_us": 250_000.0}, "250.0 ms, 0.2 ms .*kicked"),
        ("idle-wakeup", {"woken": 0.1}, "happened: 0.1, 1 "),
        ("fork-storm", {"forks": 40.0}, "forks: 40, 2000"),
        ("fork-storm", {"max_us": 1_900_000.0}, "1.9 s, 7.0 ms"),
        ("exec-churn", {"least_execs": 2.0}, "slowest parent had executed: 2, 280"),
        ("affinity-churn", {"least_moves": 3.0}, "changes its CPUs: 3, 21000"),
        ("weighted-shares", {"light_least_share": 0.001}, "nice 5: 0.10%, 6.00%.*starves"),
        ("weighted-shares", {"slowest_s": 5.1}, "5.1 s, 2.7 s.*starves"),
        ("cgroup-shares", {"light_least_share": 0.0}, "of weight 33: 0.00%.*starves"),
        ("late-waker", {"p50_us": 400_000.0}, "400.0 ms"),
        ("late-waker", {"spin_least_share": 0.01}, "busy task.*starves"),
        ("late-waker", {"nice_max_us": 1_900_000.0}, "of nice 10 that slept: 1.9 s"),
        ("pinned-floating", {"pinned_least_share": 0.02}, "bound to one CPU"),
        ("long-sleeper", {"gap_us": 1_800_000.0}, "did not run: 1.8 s.*claims"),
        ("rt-hog", {"waker_max_us": 900_000.0}, "task that slept: 900.0 ms"),
        ("yield-storm", {"spin_least_share": 0.01}, "yielding does not let it in"),
        ("yield-storm", {"least_yields": 1.0}, "slowest task that yields: 1, 1000"),
        ("wakeup-storm", {"spin_least_share": 0.004}, "before who computes, without end"),
        ("wakeup-storm", {"least_rounds": 2.0}, "slowest pair: 2, 200"),
        ("rt-hog", {"gap_us": 2_400_000.0}, "real-time task held one CPU and after: 2.4 s"),
        ("rt-hog", {"bound_gap_us": 2_400_000.0}, "bound to that CPU did not run: 2.4 s"),
        ("hotplug", {"back_share": 0.0}, "not served any more"),
        ("kworker-latency", {"max_us": 2_000_000.0}, "workers of all CPUs were done: 2.0 s"),
        ("many-tasks", {"last_ms": 9000.0}, "last of 2000 tasks was done: 9.0 s"),
        ("soak", {"cyclictest_max_us": 2_500_000.0}, "cyclictest: 2.5 s"),
    ],
)
def test_what_is_forgotten_or_far_too_late_is_an_error(name, changes, says):
    told = judged(name, **changes)
    assert [severity for severity, _ in told] == ["error"]
    assert re.search(says, told[0][1])


def test_a_tool_that_is_not_installed_is_not_held_against_anybody():
    kernel = {name: value for name, value in KERNEL["soak"].items() if name != "cyclictest_max_us"}
    assert BY_NAME["soak"].judge(kernel, kernel) == []


def test_hotplug_needs_a_cpu_to_spare():
    assert {s.name for s in SCENARIOS if s.not_here(1)} == {"hotplug"}
    assert "2 CPUs" in BY_NAME["hotplug"].not_here(1)
    assert not any(s.not_here(2) for s in SCENARIOS)


def test_another_definition_is_another_digest(monkeypatch, tmp_path):
    before = scenarios.digest()
    monkeypatch.setattr(scenarios, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "shares.py").write_text("SECONDS = 3")
    assert scenarios.digest() != before


class TestExplain:
    @pytest.mark.parametrize("name", BY_NAME)
    def test_each_scenario_is_explained_with_its_factors(self, name, capsys):
        assert main(["explain", f"liveness/{name}"]) == 0
        told = capsys.readouterr().out
        assert BY_NAME[name].asks in told
        for limit in BY_NAME[name].limits:
            assert limit.sentence() in told

    def test_the_list(self, capsys):
        assert main(["explain", "liveness"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == len(SCENARIOS) + 1

    def test_an_unknown_one_is_answered_with_the_nearest(self, capsys):
        assert main(["explain", "liveness/hotplg"]) == 1
        assert "liveness/hotplug" in capsys.readouterr().err
