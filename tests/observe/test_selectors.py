# SPDX-License-Identifier: Apache-2.0
"""Intents against the real processes of this host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controller.observe import cgroup_ids, cgroups, match
from controller.observe.selectors import Matcher
from tests.conftest import missing
from tests.observe.loads import SLEEPER, running
from tests.observe.test_grouping import intent


@pytest.fixture
def v2_group():
    """A cgroup `…/schedctl-test-PID.service/inner`, removed afterwards."""
    root = cgroups.mount()
    if root is None:
        missing("a cgroup v2 hierarchy", "mount -t cgroup2 none /sys/fs/cgroup")
    outer = root / f"schedctl-test-{os.getpid()}.service"
    inner = outer / "inner"
    try:
        inner.mkdir(parents=True)
    except OSError as error:
        missing(f"permission to make a cgroup ({error.strerror})", "run as root")
    yield inner
    inner.rmdir()
    outer.rmdir()


def pids(*intents):
    return [{task.pid for task in found.tasks} for found in match(intents)]


def test_by_name_with_case_and_wildcards():
    with running(b"schedctl-One", SLEEPER) as process:
        exact, star, question, lower = pids(
            intent("a", comm=["schedctl-One"]),
            intent("b", comm=["nothing", "schedctl-O*"]),
            intent("c", comm=["schedctl-On?"]),
            intent("d", comm=["schedctl-one"]),
        )
        assert process.pid in exact & star & question
        assert process.pid not in lower


def test_a_hostile_name_is_matched_as_bytes_and_shown_escaped():
    with running(b"bad\n) R \xff\x1b", SLEEPER) as process:
        (found,) = match([intent("a", comm=["bad?) R ??"])])
        (task,) = [task for task in found.tasks if task.pid == process.pid]
        assert task.comm == "bad\\x0a) R \\xff\\x1b"


def test_by_user_name_and_number():
    with running(b"schedctl-two", SLEEPER) as process:
        mine = str(os.getuid())
        by_number, other = pids(
            intent("a", comm=["schedctl-two"], user=[mine]), intent("b", comm=["schedctl-two"], user=["54321"])
        )
        assert by_number == {process.pid}
        assert other == set()
    (unknown,) = match([intent("c", user=["nobody-of-that-name"])])
    assert unknown.tasks == ()
    assert "nobody-of-that-name" in unknown.unresolved


def test_by_cgroup_and_unit(v2_group):
    with running(b"schedctl-three", SLEEPER) as process:
        (v2_group / "cgroup.procs").write_text(str(process.pid))
        unit = v2_group.parent.name
        wanted = [
            intent("a", unit=[unit]),
            intent("b", cgroup=[f"/{unit}/inner"]),
            intent("c", cgroup=["*/inner"], comm=["schedctl-three"]),
            intent("d", cgroup=[unit]),
            intent("e", unit=["schedctl-test-*"], cgroup=["elsewhere"]),
        ]
        assert pids(*wanted) == [{process.pid}] * 4 + [set()]
        task = match(wanted)[0].tasks[0]
        inner, outer = v2_group.stat().st_ino, v2_group.parent.stat().st_ino
        assert (task.cgroup, task.cgroup_id, task.uid) == (f"/{unit}/inner", inner, os.getuid())
        ids = [cgroup_ids(each.spec.workload) for each in wanted]
        assert ids == [{outer, inner}, {inner}, {inner}, {outer, inner}, set()]
        process.kill()
        process.wait()


def test_cgroup_ids_of_a_selector_without_places_are_none():
    assert cgroup_ids(intent("a", comm=["*"]).spec.workload) == set()


def test_ids_of_the_root_are_all():
    tree = {1: b"/", 2: b"/a", 3: b"/a/b", 4: b"/c"}
    assert Matcher(intent("a", cgroup=["/"]).spec.workload).ids(tree) == {1, 2, 3, 4}
    assert Matcher(intent("a", cgroup=["a"]).spec.workload).ids(tree) == {2, 3}
    assert Matcher(intent("a", cgroup=["?"]).spec.workload).ids(tree) == {2, 3, 4}


def test_a_pod_selector_is_named_as_unresolved():
    (found,) = match([intent("a", comm=["*"], podSelector={"app": "web"})])
    assert found.tasks == ()
    assert "podSelector" in found.unresolved


def test_tasks_that_vanish_are_left_out(tmp_path):
    (tmp_path / "123" / "task" / "123").mkdir(parents=True)
    (tmp_path / "124").mkdir()
    (tmp_path / "125" / "task" / "125").mkdir(parents=True)
    (tmp_path / "125" / "status").write_text("Uid:\t7\t8\t9\t10\n")
    (tmp_path / "125" / "task" / "125" / "comm").write_bytes(b"left\n")
    (found,) = match([intent("a", comm=["*"])], proc=tmp_path)
    assert [(task.pid, task.uid, task.cgroup_id) for task in found.tasks] == [(125, 7, None)]


def test_mounts_are_found_and_v1_is_said_to_have_none(tmp_path):
    info = tmp_path / "mountinfo"
    info.write_text(
        "30 1 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n31 1 0:2 / /a\\040b rw shared:1 - cgroup2 none rw\n"
    )
    assert cgroups.mount(info) == Path("/a b")
    info.write_text("30 1 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n")
    assert cgroups.mount(info) is None
    assert cgroups.paths(None) == {}
