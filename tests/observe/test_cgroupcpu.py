# SPDX-License-Identifier: Apache-2.0
"""What a cgroup is given and took, in v1, v2 and hybrid hierarchies: trees of files, and this host's own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from controller.api.profile import Pressure
from controller.observe import cgroupcpu, profile
from controller.observe.cgroupcpu import Hierarchy, clocks, describe, hierarchy, path_of_process, weight_of_shares
from controller.observe.sample import CgroupClock
from tests.conftest import missing
from tests.observe.loads import HOG, running


def tree(root, files):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def mounts(tmp_path, *lines):
    file = tmp_path / "mountinfo"
    file.write_text("".join(f"{30 + number} 25 0:{number} {line}\n" for number, line in enumerate(lines)))
    return file


V2 = "/ {root} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "/ {root} rw,nosuid shared:9 - cgroup cgroup rw,{controllers}"


def test_v2(tmp_path):
    root = tree(
        tmp_path / "v2",
        {
            "system.slice/web.service/cpu.weight": "300\n",
            "system.slice/web.service/cpu.max": "150000 100000\n",
            "system.slice/web.service/cpu.stat": (
                "usage_usec 5000\nuser_usec 1\nsystem_usec 2\nnr_periods 10\nnr_throttled 4\nthrottled_usec 700\n"
            ),
            "system.slice/web.service/cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\n",
            "system.slice/web.service/memory.pressure": "some avg10=0.00 total=0\nfull avg10=0.25 total=0\n",
        },
    )
    where = hierarchy(mounts(tmp_path, V2.format(root=root)))
    assert where == Hierarchy(root, root, v1=False)
    then = {b"/system.slice/web.service": CgroupClock(1_000_000, 4, 4, 100_000)}
    found = describe(b"/system.slice/web.service", then, clocks(where), where)
    assert (found.path, found.weight, found.quota) == ("/system.slice/web.service", 300, 1.5)
    assert (found.usage_ns, found.periods, found.throttled_periods, found.throttled_ns) == (4_000_000, 6, 0, 600_000)
    assert found.pressure == Pressure(cpu=1.5, memory=0.0, memory_full=0.25)


def test_v2_without_a_limit_or_a_cpu_controller(tmp_path):
    root = tree(
        tmp_path / "v2",
        {"a/cpu.max": "max 100000\n", "a/cpu.weight": "100\n", "b/cpu.stat": "usage_usec 7\n", "c/cgroup.procs": ""},
    )
    where = Hierarchy(root, root, v1=False)
    readings = clocks(where)
    unlimited, plain, bare = (describe(path, {}, readings, where) for path in (b"/a", b"/b", b"/c"))
    assert (unlimited.weight, unlimited.quota) == (100, None)
    assert (plain.weight, plain.quota, plain.usage_ns, plain.periods) == (None, None, 7000, None)
    assert (bare.weight, bare.quota, bare.usage_ns, bare.periods, bare.pressure) == (None, None, None, None, None)


@pytest.mark.parametrize("together", [True, False])
def test_v1(tmp_path, together):
    stat = {"docker/x/cpu.stat": "nr_periods 20\nnr_throttled 5\nthrottled_time 900\n"}
    cpu = {"docker/x/cpu.shares": "512\n", "docker/x/cpu.cfs_quota_us": "50000\n"}
    cpu |= {"docker/x/cpu.cfs_period_us": "100000\n"} | stat
    usage = {"docker/x/cpuacct.usage": "4000\n"}
    if together:
        root = tree(tmp_path / "cpu,cpuacct", cpu | usage)
        lines = [V1.format(root=root, controllers="cpu,cpuacct")]
        expected = Hierarchy(root, root, v1=True)
    else:
        first, second = tree(tmp_path / "cpu", cpu), tree(tmp_path / "cpuacct", usage)
        lines = [V1.format(root=second, controllers="cpuacct"), V1.format(root=first, controllers="cpu")]
        expected = Hierarchy(first, second, v1=True)
    where = hierarchy(mounts(tmp_path, *lines))
    assert where == expected
    found = describe(b"/docker/x", {b"/docker/x": CgroupClock(1000, 10, 1, 0)}, clocks(where), where)
    assert (found.weight, found.quota) == (50, 0.5)
    assert (found.usage_ns, found.periods, found.throttled_periods, found.throttled_ns) == (3000, 10, 4, 900)


def test_v1_without_a_limit(tmp_path):
    root = tree(tmp_path, {"a/cpu.shares": "1024\n", "a/cpu.cfs_quota_us": "-1\n", "a/cpu.cfs_period_us": "100000\n"})
    found = describe(b"/a", {}, {}, Hierarchy(root, root, v1=True))
    assert (found.weight, found.quota) == (100, None)


def test_on_a_hybrid_host_the_controller_is_where_it_is_mounted(tmp_path):
    cpu, unified = tmp_path / "cpu", tmp_path / "unified"
    both = [V1.format(root=cpu, controllers="cpu,cpuacct"), V2.format(root=unified)]
    assert hierarchy(mounts(tmp_path, *both)) == Hierarchy(cpu, cpu, v1=True)
    named = ["/ /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd", V2.format(root=unified)]
    assert hierarchy(mounts(tmp_path, *named)) == Hierarchy(unified, unified, v1=False)
    assert hierarchy(mounts(tmp_path, "/ /proc rw - proc proc rw")) is None
    assert hierarchy(tmp_path / "nothing") is None


def test_a_processs_path_is_in_its_controllers_line(tmp_path):
    (tmp_path / "cgroup").write_text("9:name=systemd:/s\n4:cpuset:/no\n2:cpu,cpuacct:/docker/a:b\n0::/unified\n")
    v1, v2 = Hierarchy(tmp_path, tmp_path, v1=True), Hierarchy(tmp_path, tmp_path, v1=False)
    assert path_of_process(tmp_path, v1) == b"/docker/a:b"
    assert path_of_process(tmp_path, v2) == b"/unified"
    assert path_of_process(tmp_path / "gone", v1) is None


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (512, 50), (1024, 100), (2048, 200), (262144, 10_000)])
def test_shares_are_weights(shares, weight):
    assert weight_of_shares(shares) == weight


def test_very_many_cgroups_are_not_read(tmp_path, monkeypatch):
    root = tree(tmp_path, {f"g{number}/cpu.stat": "usage_usec 1\n" for number in range(5)})
    where = Hierarchy(root, root, v1=False)
    assert len(clocks(where)) == 5
    monkeypatch.setattr(cgroupcpu, "MOST", 4)
    assert clocks(where) == {}


@pytest.mark.alone
def test_this_hosts_own_limit_and_throttling():
    where = hierarchy()
    if where is None or os.geteuid() != 0:
        missing("a cgroup hierarchy that can be written", "run as root with cgroups mounted")
    group = where.cpu / f"schedctl-cgroup-{os.getpid()}.service"
    group.mkdir()
    try:
        limit = group / ("cpu.cfs_quota_us" if where.v1 else "cpu.max")
        if not limit.exists():
            missing("a cpu controller in the cgroup hierarchy", "enable it in cgroup.subtree_control")
        limit.write_text("20000" if where.v1 else "20000 100000")
        (group / ("cpu.shares" if where.v1 else "cpu.weight")).write_text("2048" if where.v1 else "200")
        with running(b"cgroup-hog", HOG) as hog:
            (group / "cgroup.procs").write_text(str(hog.pid))
            if where.v1:
                for other in {where.usage} - {where.cpu}:
                    (other / group.name).mkdir()
                    (other / group.name / "cgroup.procs").write_text(str(hog.pid))
            time.sleep(0.2)
            seen = profile(1.0, force_procfs=True)
        found = next(w.cgroup for w in seen.workloads if "cgroup-hog" in w.comms)
        assert (found.path, found.weight, found.quota) == (f"/{group.name}", 200, 0.2)
        assert found.periods == pytest.approx(10, abs=4)
        assert found.throttled_periods >= 5
        assert found.throttled_ns > 300_000_000
        assert 100_000_000 < found.usage_ns < 400_000_000
    finally:
        for folder in {where.cpu / group.name, where.usage / group.name}:
            _remove(folder)


def _remove(folder: Path) -> None:
    for _attempt in range(100):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # the killed process is still leaving
            time.sleep(0.05)
        else:
            return
