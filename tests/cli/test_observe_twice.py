# SPDX-License-Identifier: Apache-2.0
"""`observe diff` and `observe twin`: from recorded profiles, and once for real."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from controller.api import WorkloadProfile
from controller.cli.profile import encodable
from controller.observe import cgroups, twin
from controller.observe.place import own_cgroup
from tests.cli.harness import check_golden, run, transcript
from tests.cli.test_tables import histogram, profile
from tests.conftest import missing


def other() -> WorkloadProfile:
    """The same node, with the intent's workload waiting ten times as long and waking three times as often."""
    first, *rest = profile().workloads
    changed = first.model_copy(
        update={"wakeups": 3 * 12345, "wakeup_latency": histogram((10_000, 27000), (10_000_000, 9000))}
    )
    return profile().model_copy(update={"workloads": (changed, *rest)})


@pytest.fixture(autouse=True)
def recorded(tmp_path, monkeypatch):
    """a.json and b.json; no policy repository."""
    monkeypatch.delenv("SCHEDCTL_REPO", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_bytes(profile().canonical())
    (tmp_path / "b.json").write_bytes(other().canonical())
    return tmp_path


def test_diff_to_the_letter():
    lines = [
        "observe diff a.json b.json", "observe diff a.json b.json -o wide", "observe diff a.json a.json",
        "observe diff", "observe diff a.json nofile", "observe diff a.json b.json a.json", "observe diff - -",
        "observe diff a.json b.json --for 1s", "observe diff a.json b.json -o table",
    ]  # fmt: skip
    check_golden("observe-diff", transcript(lines, None))


def test_diff_as_data():
    found = json.loads(run("observe", "diff", "a.json", "b.json", "-o", "json").out)["changes"]
    assert found == yaml.safe_load(run("observe", "diff", "a.json", "-", "-o", "yaml", stdin=other().canonical()).out)[
        "changes"
    ]  # fmt: skip
    wakeups = next(change for change in found if change["what"] == "wakeups")
    assert wakeups["workload"] == "shop/checkout"
    assert wakeups["after"] / wakeups["before"] == pytest.approx(3)
    assert found[-1]["what"] == "distance"


def test_diff_of_a_recorded_and_the_live_load():
    said = run("observe", "diff", "a.json", "--procfs", "--for", "100ms")
    assert said.code == 1
    assert "shop/checkout" in said.out


def test_a_hostile_profile_cannot_write_to_the_terminal():
    hostile = other().model_copy(
        update={"workloads": tuple(w.model_copy(update={"name": w.name + "\x1b[2J\n"}) for w in other().workloads)}
    )
    for output in ("words", "wide"):
        said = run("observe", "diff", "a.json", "-", "-o", output, stdin=hostile.canonical())
        assert not {c for c in said.out + said.err if c < " "} - {"\n"}


def test_twin_prints_a_document_of_rt_app():
    said = run("observe", "twin", "a.json", "--workload", "shop/checkout", "--length", "3s", "--seed", "7")
    assert (said.code, said.err) == (0, "")
    expected = twin.rtapp(profile(), workload="shop/checkout", seed=7, seconds=3)
    assert json.loads(said.out) == json.loads(json.dumps(expected))
    assert run("observe", "twin", "-", "-o", "yaml", stdin=profile().canonical()).code == 0


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["a.json", "--workload", "nope"], "the profile has no workload nope"),
        (["a.json", "--length", "0s"], "must be at least 50ms and at most 1h"),
        (["a.json", "--within", "2", "--check"], "must be from 0 to 1"),
        (["a.json", "-o", "table"], "-o table goes with --check"),
        (["a.json", "--cpus", "0"], "at least one CPU"),
        (["nofile"], 'the path "nofile" does not exist'),
        (["a.json", "--for", "1s"], "a recorded profile goes with neither --for nor --procfs"),
    ],
)
def test_twin_refuses(argv, error):
    said = run("observe", "twin", *argv)
    assert (said.code, said.out) == (1, "")
    assert error in said.err
    assert "bug" not in said.err


def test_words_on_a_terminal_that_is_not_utf8():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert encodable("1.5 µs → 2", stream) == "1.5 us -> 2"
    assert encodable("1.5 µs → 2", io.StringIO()) == "1.5 µs → 2"


@pytest.mark.bcc
def test_twin_is_run_and_compared(recorded):
    if os.geteuid() != 0:
        missing("root", "run as root")
    if shutil.which("rt-app") is None:
        missing("rt-app", "apt-get install rt-app")
    said = run("observe", "twin", "a.json", "--workload", "shop/checkout", "--check", "--length", "1s", "--within", "1")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert 0 <= found["distance"] <= 1
    assert found["near"] is True
    assert {f["workload"] for f in found["features"]} == {"shop/checkout"}
    far = run("observe", "twin", "a.json", "--check", "--length", "500ms", "--within", "0", "-o", "table")
    assert far.code == 1
    assert far.out.splitlines()[0].split() == ["WORKLOAD", "FEATURE", "ORIGINAL", "REPLAY", "DIFFERENCE"]
    assert far.out.splitlines()[-1].endswith("not near enough (0)")
    mounted = cgroups.mount()
    assert mounted is None or not list(mounted.glob("schedctl-twin-*"))


def test_a_cgroup_of_its_own_is_gone_afterwards_with_all_that_is_in_it():
    with own_cgroup("schedctl-test-place") as here:
        if here is None:
            missing("a cgroup v2 hierarchy and the right to make a cgroup in it", "run as root")
        process = subprocess.Popen([*here.enter, "sleep", "60"])
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
            pass
        assert cgroups.of_process(Path(f"/proc/{process.pid}")) == here.workload.encode()
    process.wait(60)
    mounted = cgroups.mount()
    assert mounted is not None
    assert not list(mounted.glob("schedctl-test-place-*"))
