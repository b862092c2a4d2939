# SPDX-License-Identifier: Apache-2.0
"""Why an intent does not match: real processes where one can be made, a /proc of files where it takes another user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from controller.observe import cgroups, explain
from controller.observe.misses import Explanation
from controller.observe.selectors import Matcher
from tests.conftest import missing
from tests.observe.loads import SLEEPER, running
from tests.observe.test_grouping import intent

THREADED = """
import threading
def named():
    ctypes.CDLL(None).prctl(15, b"own-name", 0, 0, 0)
    print("thread", flush=True)
    time.sleep(60)
threading.Thread(target=named, daemon=True).start()
time.sleep(60)
"""


def why(found: Explanation, pid: int) -> list[str]:
    return [near.why for near in found.near if near.task.pid == pid]


def asked(**selector) -> Explanation:
    wanted = intent("a", **selector)
    return explain(wanted, [wanted])


def test_what_matches_and_what_comes_first():
    first, second = intent("first", comm=["misses-*"]), intent("second", comm=["misses-one"])
    with running(b"misses-one", SLEEPER) as process:
        found = explain(second, [first, second])
        assert [(t.pid, t.tid, t.comm, t.uid) for t in found.tasks] == [
            (process.pid, process.pid, "misses-one", os.getuid())
        ]
        assert found.taken == {process.pid: "shop/first"}
        assert explain(first, [first, second]).taken == {}
        assert found.seen == 1 + sum(miss.tasks for miss in found.misses)


def test_the_rest_is_counted_by_the_first_field_that_does_not_fit_the_nearest_first():
    with running(b"misses-two", SLEEPER):
        found = asked(comm=["misses-two"], user=["54321"])
        assert [miss.field for miss in found.misses] == ["user", "comm"]
        user, comm = found.misses
        assert (user.tasks, user.such_as) == (1, (pwd.getpwuid(os.getuid()).pw_name,))
        assert 1 <= len(comm.such_as) <= 5
        assert comm.tasks >= len(comm.such_as)
        assert "misses-two" not in comm.such_as


def test_another_case():
    with running(b"Misses-Three", SLEEPER) as process:
        assert why(asked(comm=["misses-three"]), process.pid) == [
            "comm: differs from misses-three in upper and lower case only"
        ]


def test_a_name_that_the_kernel_cut(tmp_path):
    program = tmp_path / "misses-controller-manager"
    shutil.copy(Path(sys.executable).resolve(), program)
    code = "import sys, time; print('up', flush=True); time.sleep(60)"
    process = subprocess.Popen([program, "-S", "-c", code], stdout=subprocess.PIPE)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            assert why(asked(comm=["*-manager"]), process.pid) == [
                "comm: the kernel keeps 15 bytes of misses-controller-manager: *-manager needs the rest"
            ]
        finally:
            process.kill()


def test_a_name_that_is_in_the_command_line_alone(tmp_path):
    script = tmp_path / "misses-app.py"
    script.write_text("import time; print('up', flush=True); time.sleep(60)")
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            assert why(asked(comm=["misses-app*"]), process.pid) == [
                "comm: misses-app* fits misses-app.py in its command line, not its name"
            ]
            assert why(asked(comm=["mi*"]), process.pid) == []  # would be found in half of all command lines
        finally:
            process.kill()


def test_a_thread_with_a_name_of_its_own():
    with running(b"misses-four", THREADED) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"thread\n"
        found = asked(comm=["misses-four"])
        (near,) = [near for near in found.near if near.task.pid == process.pid]
        assert (near.task.comm, near.task.tid != process.pid, near.why) == (
            "own-name", True, "comm: a thread of misses-four with a name of its own",
        )  # fmt: skip


@pytest.fixture
def proc(tmp_path):
    """A /proc of one process: pid 1, user 0 with the rights of another."""

    def make(comm: bytes, cgroup: str, uids: str = "0 0 0 0") -> Path:
        folder = tmp_path / "1" / "task" / "1"
        folder.mkdir(parents=True)
        (tmp_path / "1" / "comm").write_bytes(comm + b"\n")
        (folder / "comm").write_bytes(comm + b"\n")
        (tmp_path / "1" / "status").write_text("Uid:\t" + uids.replace(" ", "\t") + "\n")
        (tmp_path / "1" / "cgroup").write_text(f"0::{cgroup}\n")
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"unit": ["web"]}, "unit: web lacks the suffix of web.service"),
        ({"unit": ["Web.service"]}, "unit: web.service differs from Web.service in upper and lower case only"),
        (
            {"cgroup": ["web.service"]},
            "cgroup: web.service fits a part of its path only, and patterns are of a whole path: begin with *",
        ),
        ({"cgroup": ["/System.Slice"]}, "cgroup: its path differs from System.Slice in upper and lower case only"),
        ({"cgroup": ["/elsewhere"]}, ""),
        ({"unit": ["db.service"]}, ""),
        ({"comm": ["web"], "unit": ["web"]}, "unit: web lacks the suffix of web.service"),
        ({"comm": ["db"], "unit": ["web"]}, ""),  # two fields do not fit: not near
    ],
)
def test_places_that_nearly_fit(proc, selector, expected):
    wanted = intent("a", **selector)
    found = explain(wanted, [wanted], proc=proc(b"web", "/system.slice/web.service"))
    assert [near.why for near in found.near] == ([expected] if expected else [])
    assert found.tasks == ()


def test_a_user_whose_rights_it_has_without_having_started_it(proc):
    wanted = intent("a", user=["54321"])
    found = explain(wanted, [wanted], proc=proc(b"sudo", "/", uids="0 54321 54321 54321"))
    assert [near.why for near in found.near] == ["user: runs with the rights of 54321, but was started by root"]


def test_a_pod_is_found_by_its_uid_in_the_path(proc):
    path = "/kubepods.slice/kubepods-pod1b4e28ba_2fa1.slice/cri-containerd-0123456789ab.scope"
    folder = proc(b"web", path)
    for pattern in ("*pod1b4e28ba_2fa1*", "*0123456789ab*"):
        wanted = intent("a", cgroup=[pattern])
        assert [task.pid for task in explain(wanted, [wanted], proc=folder).tasks] == [1]


def test_what_cannot_be_evaluated_is_noted_with_a_way_out(proc):
    wanted = intent("a", user=["root", "roott"], podSelector={"app": "web"})
    found = explain(wanted, [wanted], proc=proc(b"web", "/"))
    assert [miss.field for miss in found.misses] == ["podSelector"]
    assert any("Kubernetes API" in note for note in found.notes)
    assert any("use cgroup, such as *pod" in note for note in found.notes)
    assert "user roott is not known; did you mean root?" in found.notes


def test_hidden_processes_are_said_to_be(tmp_path):
    wanted = intent("a", comm=["x"])
    (note,) = [note for note in explain(wanted, [wanted], proc=tmp_path).notes if "hidepid" in note]
    assert "as root" in note


def test_it_needs_no_root(tmp_path):
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        missing("setpriv and root to drop it", "apt-get install util-linux")
    code = (
        "import sys, types; sys.path.insert(0, '.')\n"
        "from controller.api import SchedulingIntent\nfrom controller.observe import explain\n"
        "i = SchedulingIntent.model_validate({'apiVersion': 'schedctl.dev/v1alpha1', 'kind': 'SchedulingIntent',"
        " 'metadata': {'name': 'a'}, 'spec': {'workload': {'user': ['root']},"
        " 'objective': {'metric': 'throughput', 'goal': 'maximize'}}})\n"
        "print(len(explain(i, [i]).tasks) > 0)\n"
    )
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "Permission denied" in done.stderr:
        missing("a source tree that another user can read")
    assert done.stdout == "True\n", done.stderr


def test_fields_say_the_same_as_matches():
    matcher = Matcher(intent("a", comm=["web"], cgroup=["/a"], user=["0"]).spec.workload)
    for comm in (b"web", b"db"):
        for path in (b"/a/b", b"/c", None):
            for uid in (0, 7, None):
                fits = matcher.fields(comm, path, uid)
                assert list(fits) == ["comm", "cgroup", "user"]
                assert all(fits.values()) == matcher.matches(comm, path, uid)
    assert cgroups.lineage(b"/a/b")[0] == b"/"
