# SPDX-License-Identifier: Apache-2.0
"""The twin: the document does in sum what the workload did, it ends, rt-app runs it, and its replay is near."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.profile import CgroupCpu, Histogram, WakeEdge, WorkloadProfile, WorkloadStats
from controller.errors import InputError
from controller.kernel import rtapp
from controller.observe import histogram, profile, tracer, twin
from controller.observe.sample import Unavailable
from controller.observe.twin.load import draws, is_kernel, loads, thread_names
from controller.observe.twin.replay import comes_and_goes
from tests.builders import KERNEL, T0, TOPOLOGY
from tests.conftest import missing
from tests.observe.loads import WAKER, running

SECONDS = 5


def hist(*values: float) -> Histogram:
    whole = [round(v) for v in values]
    return histogram.build(Counter(map(histogram.bucket_of, whole)), sum(whole))


def stats(name: str = "shop/web", **given: object) -> WorkloadStats:
    """Four tasks that each wake 100 times a second, run 1 ms and sleep 9 ms."""
    plain: dict[str, object] = {
        "name": name, "keyed_by": "intent", "tasks": 4, "cpu_share": 0.2, "cpu_ns": 2_000_000_000, "wakeups": 2000,
        "voluntary_switches": 2000, "involuntary_switches": 10, "forks": 0,
        "burst": hist(*[500_000] * 1000, *[1_500_000] * 1000), "sleep": hist(*[9_000_000] * 2000),
    }  # fmt: skip
    return WorkloadStats.model_validate(plain | given)


def seen(*workloads: WorkloadStats, edges: tuple[WakeEdge, ...] = ()) -> WorkloadProfile:
    return WorkloadProfile(
        node="n1", taken_at=T0, window_ns=SECONDS * 10**9, observer="bcc", topology=TOPOLOGY, kernel=KERNEL,
        workloads=workloads, wake_edges=edges,
    )  # fmt: skip


def work_us(document: dict[str, Any]) -> int:
    return sum(
        task["loop"] * phase.get("loop", 1) * phase.get("run", 0)
        for task in document["tasks"].values()
        for phase in task["phases"].values()
    )


def times(document: dict[str, Any], event: str) -> int:
    return sum(
        task["loop"] * phase.get("loop", 1)
        for task in document["tasks"].values()
        for phase in task["phases"].values()
        if event in phase
    )


def test_a_clocked_load_has_its_threads_wakeups_work_and_shape():
    document = twin.rtapp(seen(stats()), seconds=5)
    assert list(document["tasks"]) == [f"web-{n}" for n in range(4)]
    assert times(document, "timer") == pytest.approx(2000, rel=0.05)
    assert work_us(document) == pytest.approx(2_000_000 - 2000 * 6, rel=0.05)
    turns = [p["run"] for t in document["tasks"].values() for p in t["phases"].values()]
    assert {round(turn, -2) for turn in turns} == {500, 1500}  # both kinds of turn, not their mean
    periods = [p["timer"]["period"] for t in document["tasks"].values() for p in t["phases"].values()]
    assert sum(periods) / len(periods) == pytest.approx(10_000, rel=0.05)


def test_the_same_seed_gives_the_same_document_and_another_another():
    one, same, other = (twin.rtapp(seen(stats()), seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_half_the_cpus_get_half_the_threads():
    whole, half = twin.rtapp(seen(stats())), twin.rtapp(seen(stats()), cpus=1)
    assert (len(whole["tasks"]), len(half["tasks"])) == (4, 2)
    assert work_us(half) == pytest.approx(work_us(whole) / 2, rel=0.05)


def test_idle_tasks_are_told_from_busy_ones_by_the_sleeps():
    """100 tasks of which 4 do all the work: Little's law."""
    document = twin.rtapp(seen(stats(tasks=100)), seconds=5)
    idle = [t for t in document["tasks"].values() if "once" in t["phases"]]
    assert (len(document["tasks"]), len(idle)) == (100, 96)


def test_a_hog_runs_and_never_sleeps():
    hog = stats(tasks=3, cpu_ns=9_900_000_000, cpu_share=0.99, wakeups=0, voluntary_switches=0,
                involuntary_switches=900, sleep=None)  # fmt: skip
    document = twin.rtapp(seen(hog), seconds=2)
    assert len(document["tasks"]) == 3
    # On two CPUs that are full, three that never sleep would each have run all the time.
    assert work_us(document) == pytest.approx(3 * 2e6, rel=0.02)
    waited = hog.model_copy(update={"wait_ns": 2_100_000_000})
    assert work_us(twin.rtapp(seen(waited), seconds=2)) == pytest.approx(2.4 * 2e6, rel=0.02)
    assert all(set(p) == {"loop", "run"} for t in document["tasks"].values() for p in t["phases"].values())


def test_preempted_bursts_become_turns():
    """Bursts of 3 ms that are cut by preemption nine times in ten: turns of 30 ms."""
    cut = stats(
        cpu_ns=3_000_000_000, wakeups=100, voluntary_switches=100, involuntary_switches=900,
        burst=hist(*[3_000_000] * 1000), sleep=None,
    )  # fmt: skip
    document = twin.rtapp(seen(cut), seconds=5)
    turns = [p["run"] for t in document["tasks"].values() for p in t["phases"].values()]
    assert sum(turns) / len(turns) == pytest.approx(30_000, rel=0.05)
    assert max(turns) > 2 * min(turns)


def test_tasks_that_come_and_go_are_nearly_as_many_and_spread_over_the_time():
    """A thread of rt-app wakes thrice before its first turn: with seven in ten of the tasks the wakeups come near."""
    storm = stats(tasks=502, forks=500, wakeups=1500, voluntary_switches=1500, cpu_ns=5_000_000_000)
    document = twin.rtapp(seen(storm), seconds=5)
    delays = sorted(task["delay"] for task in document["tasks"].values())
    assert len(delays) == pytest.approx(0.7 * 502, abs=5)
    assert (delays[0] < 50_000, 4_900_000 < delays[-1] < 5_000_000) == (True, True)
    assert work_us(document) == pytest.approx(5_000_000, rel=0.05)
    twice = twin.rtapp(seen(storm), seconds=10)  # more than rt-app can have at once
    assert len(twice["tasks"]) < 512
    assert work_us(twice) == pytest.approx(10_000_000, rel=0.05)


def test_no_more_tasks_that_come_and_go_run_at_a_time_than_wanted_a_cpu():
    """A make of two jobs on two CPUs: of two hundred threads two run, and neither job ends before the other."""
    make = stats(tasks=450, forks=450, wakeups=1000, voluntary_switches=1000, cpu_ns=9_800_000_000, wait_ns=200_000_000)
    document = twin.rtapp(seen(make), seconds=5)
    work: dict[str, int] = {}
    for task in document["tasks"].values():
        phases = list(task["phases"].values())
        held = phases[0]["lock"]
        assert [held] == [phase["unlock"] for phase in phases if "unlock" in phase] == [phases[-1]["unlock"]]
        assert ["lock" in phase for phase in phases] == [True] + [False] * (len(phases) - 1)
        assert "delay" not in task
        work[held] = work.get(held, 0) + task["loop"] * sum(phase.get("run", 0) for phase in phases)
    assert len(work) == 2
    assert min(work.values()) > 0.97 * max(work.values())
    alone = twin.rtapp(seen(make), seconds=5, cpus=1)
    assert len({task["phases"]["t0"]["lock"] for task in alone["tasks"].values()}) == 1


def chain() -> WorkloadProfile:
    client = stats("client", keyed_by="comm", tasks=1, cpu_ns=500_000_000, wakeups=2000, voluntary_switches=2000,
                   burst=hist(*[250_000] * 2000), sleep=None)  # fmt: skip
    server = stats("server", keyed_by="comm", tasks=1, cpu_ns=200_000_000, wakeups=1000, voluntary_switches=1000,
                   burst=hist(*[200_000] * 1000), sleep=None)  # fmt: skip
    edges = (
        WakeEdge(waker="", wakee="client", wakeups=1000), WakeEdge(waker="server", wakee="client", wakeups=1000),
        WakeEdge(waker="client", wakee="server", wakeups=1000),
    )  # fmt: skip
    return seen(client, server, edges=edges)


def test_a_wake_chain_is_a_pair_that_hands_over_as_often():
    document = twin.rtapp(chain(), seconds=5)
    syncs = Counter()
    for name, task in document["tasks"].items():
        for phase in task["phases"].values():
            if "sync" in phase:
                assert list(phase)[-3:] == ["lock", "sync", "unlock"]
                syncs[name, phase["sync"]["ref"]] += phase["loop"] * task["loop"]
    # The same number on either side: one more, and its thread would wait for ever.
    assert len(syncs) == 2
    assert len({ref for _, ref in syncs}) == 1
    assert len(set(syncs.values())) == 1
    assert syncs.most_common(1)[0][1] == pytest.approx(1000, rel=0.05)
    assert times(document, "timer") == pytest.approx(1000, rel=0.1)  # the client's own clock


def test_what_wakes_too_soon_for_a_timer_is_chained_where_nobody_counted_wakers():
    fast = stats(tasks=8, wakeups=400_000, voluntary_switches=400_000, cpu_ns=9_000_000_000, sleep=None,
                 burst=hist(*[22_000] * 1000))  # fmt: skip
    document = twin.rtapp(seen(fast), seconds=2)
    assert times(document, "timer") == 0
    assert times(document, "sync") == pytest.approx(160_000, rel=0.05)


def test_a_waker_that_is_never_woken_back_is_no_chain():
    """A timer that breaks into another task is counted as that task's wakeup: both stay clocked."""
    one, other = stats("one", keyed_by="comm"), stats("other", keyed_by="comm")
    document = twin.rtapp(seen(one, other, edges=(WakeEdge(waker="one", wakee="other", wakeups=1000),)), seconds=5)
    assert times(document, "sync") == 0
    assert times(document, "timer") == pytest.approx(4000, rel=0.05)


def test_a_replay_begins_at_the_start_only_where_tasks_come_and_go():
    storm = stats(tasks=502, forks=500, wakeups=1500, voluntary_switches=1500, cpu_ns=5_000_000_000, sleep=None)
    hog = stats(tasks=3, cpu_ns=9_900_000_000, wakeups=0, voluntary_switches=0, involuntary_switches=900, sleep=None)
    fast = stats(tasks=8, wakeups=400_000, voluntary_switches=400_000, cpu_ns=9_000_000_000, sleep=None)
    found = [comes_and_goes(twin.rtapp(seen(each), seconds=5), 5) for each in (storm, stats(), hog, fast)]
    assert found == [True, False, False, False]


def test_lengths_are_in_loops_of_the_machine():
    machine = twin.rtapp(seen(stats()))["global"]["calibration"]
    here = twin.rtapp(seen(stats()), loop_ns=8.4)
    assert (machine, here["global"]["calibration"]) == ("CPU0", 8)
    assert work_us(here) == pytest.approx(work_us(twin.rtapp(seen(stats()))) * 8 / 8.4, rel=0.02)


def test_the_speed_of_rt_app_is_read_from_its_log():
    rows = ["#idx perf run period", *(f"   0 100000 {took} {took + 10}" for took in (1680, 1680, 1690, 1700, 5690))]
    assert rtapp.loop_ns(rows) == 16.8
    assert rtapp.loop_ns(rows[:1]) is None


def test_a_cgroups_weight_becomes_a_nice_value():
    document = twin.rtapp(seen(stats(cgroup=CgroupCpu(path="/x", weight=33))))
    assert {task["priority"] for task in document["tasks"].values()} == {5}
    assert all("priority" not in task for task in twin.rtapp(seen(stats()))["tasks"].values())


counts = st.one_of(st.none(), st.integers(0, 10**7))
shapes = st.one_of(st.none(), st.lists(st.integers(1, 10**10), max_size=30).map(lambda values: hist(*values)))


@settings(max_examples=60)
@given(
    st.integers(0, 2000), st.integers(0, 10**10), counts, counts, counts, st.integers(0, 2000), shapes, shapes,
    st.lists(st.tuples(st.sampled_from(["", "a", "b", "gone"]), st.integers(0, 10**6)), max_size=4),
    st.sampled_from([1, 2, 64]), st.sampled_from([0.05, 2.0]),
)  # fmt: skip
def test_any_profile_gives_a_document_that_rt_app_takes(
    tasks, cpu_ns, wakeups, voluntary, cut, forks, burst, sleep, wakers, cpus, seconds
):
    one = stats("a", keyed_by="comm", tasks=tasks, cpu_ns=cpu_ns, wakeups=wakeups, voluntary_switches=voluntary,
                involuntary_switches=cut, forks=forks, burst=burst, sleep=sleep)  # fmt: skip
    both = tuple(WakeEdge(waker=waker, wakee=wakee, wakeups=n) for waker, n in wakers for wakee in ("a", "b"))
    document = twin.rtapp(seen(one, stats("b", keyed_by="comm"), edges=both), cpus=cpus, seconds=seconds)
    assert 1 <= len(document["tasks"]) <= 512 + 4  # of each kind at least one
    for name, task in document["tasks"].items():
        assert len(name) <= 15
        for phase in task["phases"].values():
            numbers = [task["loop"], phase.get("loop", 1), phase.get("run", 1), phase.get("sleep", 1)]
            numbers.append(phase["timer"]["period"] if "timer" in phase else 1)
            assert all(isinstance(number, int) and 1 <= number < 1 << 31 for number in numbers)


def test_names_are_plain_short_and_unlike():
    names = ["/system.slice/docker-0123456789abcdef.scope", "shop/checkout", "a/checkout", "кириллица", "kworker"]
    found = thread_names(names)
    assert found["shop/checkout"] == "checkout"
    assert found["a/checkout"] == "checkout2"
    assert len(set(found.values())) == len(names)
    assert all(len(f"{base}-511") <= 15 and base.isascii() and "/" not in base for base in found.values())


def test_kernel_threads_come_by_themselves():
    kernel = ["kworker", "ksoftirqd", "rcu_preempt", "jbd2/vda-8", "irq/24-nvme", "migration"]
    assert all(is_kernel(stats(name, keyed_by="comm")) for name in kernel)
    assert not any(is_kernel(stats(name, keyed_by="comm")) for name in ("redis", "rcu_user", "kworkers-of-ours")[::2])
    both = seen(stats(), stats("kworker", keyed_by="comm"))
    assert [load.name for load in loads(both, None, 1)] == ["shop/web"]


def test_what_cannot_be_twinned_is_said():
    with pytest.raises(InputError, match="no workload nope") as told:
        twin.rtapp(seen(stats()), workload="nope")
    assert "shop/web" in told.value.remedy
    with pytest.raises(InputError, match="nothing ran"):
        twin.rtapp(seen(stats("kworker", keyed_by="comm")))
    with pytest.raises(InputError, match="at least one CPU"):
        twin.rtapp(seen(stats()), cpus=0)


def test_draws_have_the_shape_of_the_histogram():
    values = draws(hist(*[1000] * 900, *[100_000] * 100), 100, random.Random(1))
    assert sum(value > 50_000 for value in values) == 10


def test_a_profile_from_proc_is_enough():
    blind = stats(wakeups=None, forks=None, burst=None, sleep=None)
    document = twin.rtapp(seen(blind), seconds=5)
    assert work_us(document) == pytest.approx(2_000_000, rel=0.05)


def rt_app() -> None:
    if shutil.which("rt-app") is None:
        missing("rt-app", "apt-get install rt-app")


@pytest.mark.parametrize("made", [seen(stats()), chain()], ids=["clocked", "chain"])
def test_rt_app_runs_the_document_to_its_end(made, tmp_path):
    """No duration: each thread ends when its work is done, those of a chain too, and every turn is logged."""
    rt_app()
    document = twin.rtapp(made, seconds=0.5, loop_ns=10)
    document["global"] |= {"logdir": str(tmp_path), "log_basename": "twin"}
    path = tmp_path / "twin.json"
    path.write_text(json.dumps(document))
    subprocess.run(["rt-app", str(path)], check=True, timeout=60, capture_output=True)
    logs = {p.name.rpartition("-")[0].removeprefix("twin-"): p for p in Path(tmp_path).glob("twin-*.log")}
    assert logs.keys() == document["tasks"].keys()
    for name, task in document["tasks"].items():
        turns = task["loop"] * sum(p.get("loop", 1) for p in task["phases"].values())
        rows = [line for line in logs[name].read_text().splitlines() if not line.startswith("#")]
        assert len(rows) == turns


@pytest.mark.bcc
def test_the_replay_of_a_periodic_load_is_near_it():
    rt_app()
    try:
        tracer._requirements()
    except Unavailable as error:
        missing(str(error))
    with running(b"tw-waker", WAKER):
        original = profile(1.5)
    _, again = twin.rehearse(original, 1.5, workload="tw-waker")
    found = twin.fidelity(original, again, workload="tw-waker")
    # Bursts are cut by whatever else runs here; these are not.
    by_name = {f.feature: f.difference for f in found.features}
    assert by_name["wakeups"] < 0.25
    assert by_name["turn"] < 0.4
    assert by_name["tasks"] == 0
    assert "distance 0." in found.words()
    with pytest.raises(InputError, match="no threads of the twin"):
        twin.fidelity(original, original, workload="tw-waker")
