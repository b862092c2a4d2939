# SPDX-License-Identifier: Apache-2.0
"""Every table, to the letter."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from controller.api import (
    CgroupCpu,
    Classification,
    CpuStats,
    Finding,
    Histogram,
    IntentMatch,
    KernelColumn,
    Passport,
    Pressure,
    StageResult,
    Verdict,
    WakeEdge,
    WorkloadProfile,
    WorkloadStats,
)
from controller.cli.profile import bars, has_blocks, nanoseconds, profile_table, sections, spark
from controller.cli.text import age, align, table
from controller.cli.verify import exit_code, report
from tests import builders
from tests.cli.harness import NOW, T0, Said, check_golden, run, transcript


def test_get(reporting):
    lines = [
        "get intents",
        "get intent -A",
        "get intent -n shop -o wide",
        "get intent web --show-labels",
        "get intent -l app=web,tier!=back",
        "get intent -l !app",
        "get intent --no-headers -A",
        "get SchedulingIntent,spol -A",
        "get intent/web spol/default",
        "get spol -o wide",
        "get srev -o wide",
        "get nsch",
        "get nsch -o wide",
        "get all -A -o name",
        "get stpl",
    ]
    check_golden("get", transcript(lines, reporting))


def test_get_structured(reporting):
    lines = [
        "get intent checkout -n shop -o yaml",
        "get intent web -o json",
        "get intent -o yaml",
        "get nsch n1 -o yaml",
    ]
    check_golden("get-structured", transcript(lines, reporting))


def test_get_what_is_not_there(repo):
    lines = [
        "get intent nope",
        "get intent web nope",
        "get intent -n nowhere",
        "get intent -n nowhere -o yaml",
        "get nsch",
        "get intent -A -l app=none",
        "get pods",
        "get",
        "get intent web -A",
        "get intent web -l a=b",
        "get intent -l a=b=c",
        "get intent/web spol",
        "get intent -o wider",
    ]
    check_golden("get-missing", transcript(lines, repo))


def test_describe(reporting):
    lines = ["describe intent checkout -n shop", "describe spol/default", "describe nsch n1", "describe srev",
             "describe intent nope", "describe intent -n nowhere"]  # fmt: skip
    check_golden("describe", transcript(lines, reporting))


def test_status_and_events(reporting):
    lines = [
        "status", "status -o wide", "status n1 --no-headers", "status n2",
        "events", "events --types=Warning", "events --types=Bad", "events n1 -o json",
    ]  # fmt: skip
    check_golden("status", transcript(lines, reporting))


def test_status_before_any_node_reports(repo):
    check_golden("status-none", transcript(["status", "events"], repo))


def test_status_doubts_a_node_that_has_fallen_silent(reporting):
    said = run("status", repo=reporting, now=NOW + timedelta(minutes=12))
    assert said.out.splitlines()[1].split()[:5] == ["n1", "enabled", "default-0123456789", "Promoted", "Unknown"]
    assert "no word from its agent for 12m" in said.out


def test_explain():
    lines = [
        "explain intent", "explain intent.spec.objective", "explain intent.spec.objective.metric",
        "explain schedulerpolicies.schedctl.dev.spec.rollout", "explain spol.spec --recursive",
        "explain stpl.spec.suits", "explain intent.spec.nope", "explain pods", "explain", "explain a b",
    ]  # fmt: skip
    check_golden("explain", transcript(lines, None))


def histogram(*buckets: tuple[int, int]) -> Histogram:
    edges = tuple(edge for edge, _ in buckets)
    return Histogram(edges=edges, widths=edges, counts=tuple(n for _, n in buckets))


def profile() -> WorkloadProfile:
    """Everything that a profile can say, and a workload of which almost nothing is known."""
    return WorkloadProfile(
        node="n1", taken_at=T0, window_ns=10_000_000_000, observer="bcc", topology=builders.TOPOLOGY,
        kernel=builders.KERNEL, pressure=Pressure(cpu=12.5, io=0.25, io_full=0.1),
        workloads=(
            WorkloadStats(
                name="shop/checkout", keyed_by="intent", tasks=12, cpu_share=0.4321, cpu_ns=8_642_000_000,
                comms=("php-fpm", "nginx"),
                wakeups=12345, voluntary_switches=12000, involuntary_switches=800, migrations=61, forks=0,
                wait_ns=3_400_000_000, llc_migrations=7, numa_migrations=0, execs=1, exits=2,
                wakeup_latency=histogram((1_000, 90), (1_000_000, 10)), burst=histogram((200_000, 5)),
                sleep=histogram((8_000_000, 5)),
                cgroup=CgroupCpu(
                    path="/kubepods.slice/x", weight=300, quota=1.5, periods=100, throttled_periods=24,
                    throttled_ns=120_000_000, container="0123456789abcdef0123", pod="1b4e28ba-2fa1", qos="Burstable",
                ),
                classification=Classification(kind="latency", confidence=0.93, because=("short bursts", "sleeps")),
            ),
            WorkloadStats(name="a\x1b[31mname", keyed_by="comm", tasks=1, cpu_share=0.001, cpu_ns=1, wakeups=3),
            WorkloadStats(name="others", keyed_by="others", tasks=80, cpu_share=0, cpu_ns=0),
        ),
        cpus=(
            CpuStats(cpu=0, busy_share=0.5, steal_share=0.01, capacity=1024, wait_ns=2_500_000_000, depth=(5, 3, 2)),
            CpuStats(cpu=1, busy_share=0.25),
        ),
        wake_edges=(
            WakeEdge(waker="", wakee="shop/checkout", wakeups=9000),
            *(WakeEdge(waker="shop/checkout", wakee=f"w{number}", wakeups=30 - number) for number in range(22)),
        ),
    )  # fmt: skip


def test_observe_table():
    check_golden("observe", profile_table(profile()))


def test_observe_wide():
    check_golden("observe-wide", profile_table(profile(), wide=True) + "\n" + sections(profile()))


def test_a_recorded_profile_is_shown_as_a_live_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.json").write_text(json.dumps(profile().wire()), encoding="utf-8")
    text = profile_table(profile())
    assert run("observe", "-f", "p.json") == run("observe", "--from=p.json") == Said(0, text, "")
    assert run("observe", "-f", "-", stdin=profile().canonical()).out == text
    wide = run("observe", "-f", "p.json", "-o", "wide")
    assert wide.out == profile_table(profile(), wide=True) + "\n" + sections(profile())
    for output in ("json", "yaml"):
        said = run("observe", "-f", "p.json", "-o", output, "--record", "again.json")
        assert WorkloadProfile.model_validate(yaml.safe_load(said.out)) == profile()
        assert WorkloadProfile.model_validate_json((tmp_path / "again.json").read_bytes()) == profile()
    bare = profile().model_copy(update={"cpus": (), "wake_edges": (), "pressure": Pressure()})
    assert run("observe", "-f", "-", "-o", "wide", stdin=bare.canonical()).out == profile_table(bare, wide=True)
    refused = "error: a recorded profile goes with neither --for nor --procfs"
    assert run("observe", "-f", "p.json", "--for", "1s").err.startswith(refused)


def test_a_hostile_profile_cannot_write_to_the_terminal():
    hostile = profile().model_copy(
        update={"degraded": "a\x1b[2J\nb", "matches": (IntentMatch(intent="x\x1b", tasks=0, unresolved="\x07"),)}
    )
    said = run("observe", "-f", "-", "-o", "wide", stdin=hostile.canonical())
    assert not {c for c in said.out + said.err if c < " "} - {"\n"}


def test_sparklines():
    assert spark(histogram((1_000, 90), (1_000_000, 10)), blocks=False) == "@....:...."
    assert spark(histogram((1_000, 90), (1_000_000, 10)), blocks=True) == "█····▁····"
    assert spark(histogram((10, 1), (1 << 40, 2)), blocks=False) == "+........@"  # beyond both ends
    assert spark(None, blocks=True) == spark(Histogram(), blocks=True) == "-"
    assert bars([0, 0], blocks=False) == ".."
    assert bars([], blocks=False) == ""
    assert bars([1, 100, 50], blocks=True) == "▁█▄"


@pytest.mark.parametrize(
    ("encoding", "tty", "term", "blocks"),
    [("utf-8", True, "xterm", True), ("UTF8", True, "tmux", True), ("utf-8", False, "xterm", False),
     ("ascii", True, "xterm", False), ("utf-8", True, "dumb", False), ("utf-8", True, "", False)],
)  # fmt: skip
def test_bars_are_blocks_on_a_terminal_that_has_them(encoding, tty, term, blocks):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    stream.isatty = lambda: tty
    assert has_blocks(stream, term) is blocks


def test_the_published_schema_is_the_model():
    published = (Path(__file__).parents[2] / "docs" / "profile.schema.json").read_text("utf-8")
    assert run("observe", "schema").out == published, "run: make profile-schema"
    names = json.loads(published)
    properties = {"": names["properties"]} | {n: d.get("properties", {}) for n, d in names["$defs"].items()}
    assert set(profile().wire()) <= set(properties[""])
    assert set(profile().wire()["workloads"][0]) <= set(properties["WorkloadStats"])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0ns"), (999, "999ns"), (1_000, "1.00us"), (12_340, "12.3us"), (999_000, "999us"), (4_560_000, "4.56ms"),
     (1.2e9, "1.20s"), (1.5e11, "150s")],
)  # fmt: skip
def test_measured_times(value, text):
    assert nanoseconds(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (303, "5m3s"), (599, "9m59s"), (600, "10m"),
     (10799, "179m"), (10800, "3h"), (11000, "3h3m"), (28799, "7h59m"), (28800, "8h"), (172799, "47h"),
     (172800, "2d"), (273600, "3d4h"), (691199, "7d23h"), (691200, "8d"), (63071999, "729d"), (63072000, "2y"),
     (94700000, "3y1d"), (400000000, "12y")],
)  # fmt: skip
def test_age_is_kubectls(seconds, text):
    assert age(T0, T0 + timedelta(seconds=seconds)) == text


def test_age_without_a_start():
    assert age(None, NOW) == "<unknown>"


def test_columns_are_at_least_six_wide_and_three_apart():
    assert table(["A", "LONGER", "B"], [["1", "2", "3"]]) == "A     LONGER   B\n1     2        3\n"


def test_a_heading_breaks_the_column_as_go_does():
    rows = [["Name:", "x"], ["Spec:"], ["  Weight:", "1"], ["  A:", "2"]]
    assert align(rows, padding=2) == "Name:  x\nSpec:\n  Weight:  1\n  A:       2\n"


def test_cells_cannot_write_to_the_terminal():
    out = table(["NAME"], [["\x1b]0;x\x07evil"], ["two\nlines"]])
    assert out == "NAME\n\\x1b]0;x\\x07evil\ntwo...\n"


def passport(verdict: str, stages, kernels=()):
    return Passport(
        verdict=Verdict(verdict), stages=stages, kernels=kernels, issued_at=T0, expires_at=T0 + timedelta(days=30)
    )


def stage(name: str, verdict: str = "pass", summary: str = "fine", **more):
    return StageResult(stage=name, verdict=Verdict(verdict), summary=summary, seconds=0.125, **more)


def column(release: str, *stages, topology_class: str = "cpus2"):
    return KernelColumn(release=release, btf_digest=builders.BTF, topology_class=topology_class, stages=stages)


def test_verify_report():
    early = (stage("lint", summary="14 rules"), stage("build", summary="21 KB of BPF"), stage("audit"))
    passed = passport(
        "pass",
        early,
        (
            column("6.16.3-a", stage("load"), stage("liveness", summary="4 scenarios")),
            column("7.3.4-b", stage("load"), stage("liveness", summary="4 scenarios")),
        ),
    )
    finding = Finding(rule="lint/lost-task", severity="error", message="the task is lost", line=42, fix="insert it")
    vague = Finding(rule="lint/guess", severity="warn", message="maybe\nnot")
    rejected = passport("rejected", (stage("lint", "rejected", "1 error", findings=(finding, vague)),))
    unknown = passport(
        "error",
        early,
        (column("6.16.3-a", stage("load", "error", "the guest died", evidence="one\n\x1b[2Jtwo\n")),),
    )
    sizes = ("cpus2.pkg1.smt1.llc1.numa1", "cpus8.pkg2.smt2.llc2.numa1")
    several = passport(
        "rejected",
        early,
        (
            *(column("6.16.3-a", stage("load"), stage("liveness"), topology_class=size) for size in sizes),
            column("7.3.4-b", stage("load"), stage("liveness"), topology_class=sizes[0]),
            column("7.3.4-b", stage("load"), stage("liveness", "rejected", "starves"), topology_class=sizes[1]),
        ),
    )
    texts = [report(each, "x.bpf.c") for each in (passed, several, rejected, unknown, passport("notRun", early))]
    check_golden("verify", "\n".join(texts))
    assert [exit_code(each) for each in (passed, rejected, unknown, passport("notRun", early))] == [0, 1, 2, 2]
