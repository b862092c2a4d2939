# SPDX-License-Identifier: Apache-2.0
"""`schedctl node …` with a real node VM behind it; one boot for the module."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from controller.errors import ToolMissing
from controller.kernel import images, qemu, virtiofs
from tests.cli.harness import git
from tests.conftest import missing

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def vm(tmp_path_factory):
    """A running node VM, and how to call schedctl beside it; stopped at the end."""
    try:
        qemu.find()
        virtiofs.find()
        images.resolve("newest")
    except ToolMissing as error:
        missing(error.message, error.remedy)
    home = tmp_path_factory.mktemp("nodevm")
    repo = home / "policies"
    repo.mkdir()
    git(repo, "init", "--quiet", "-b", "main")
    env = {**os.environ, "SCHEDCTL_STATE": str(home / "state"), "SCHEDCTL_REPO": str(repo)}

    def call(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "controller.cli.main", *argv]
        return subprocess.run(command, env=env, input=stdin, capture_output=True, text=True, timeout=300, check=False)

    try:
        started = call("node", "start", "cli-test", "--kernel", "newest", "--memory", "1Gi")
        assert (started.returncode, started.stdout) == (0, "node/cli-test started\n"), started.stderr
        yield call, repo
    finally:
        stopped = call("node", "stop", "--all")
    assert stopped.stdout == "node/cli-test stopped\n"
    assert call("node", "list").stderr == "No node VMs found\n"


def test_list_shows_it(vm):
    call, repo = vm
    node = json.loads(call("node", "list", "-o", "json").stdout)["nodes"][0]
    release = images.resolve("newest").release
    assert node == {
        "name": "cli-test",
        "running": True,
        "kernel": release,
        "cpus": 2,
        "memoryMi": 1024,
        "shares": [str(repo)],
    }
    assert call("node", "list").stdout.splitlines()[1].split()[:5] == ["cli-test", "Running", release, "2", "1024Mi"]


def test_exec_is_the_command(vm):
    call, repo = vm
    script = 'uname -r; echo "$SCHEDCTL_REPO"; echo trouble >&2; exit 7'
    done = call("node", "exec", "cli-test", "--", "sh", "-c", script)
    assert done.stdout == f"{images.resolve('newest').release}\n{repo}\n"
    assert (done.returncode, done.stderr) == (7, "trouble\n")


def test_stdin_is_passed_when_asked_for(vm):
    call, _ = vm
    assert call("node", "exec", "cli-test", "-i", "--", "cat", stdin="given").stdout == "given"
    assert call("node", "exec", "cli-test", "--", "cat", stdin="given").stdout == ""


def test_detached_commands_go_on(vm):
    call, _ = vm
    done = call("node", "exec", "cli-test", "--detach", "--log", "/var/log/cli-test.log", "--",
                "sh", "-c", "echo began; exec sleep 300")  # fmt: skip
    assert done.stdout.strip().isdigit()
    wait = "until grep -q began /var/log/cli-test.log; do sleep 0.1; done; cat /proc/$1/comm"
    said = call("node", "exec", "cli-test", "--timeout", "60s", "--", "sh", "-c", wait, "sh", done.stdout.strip())
    assert said.stdout == "sleep\n"


def test_a_command_that_takes_too_long_is_ended(vm):
    call, _ = vm
    done = call("node", "exec", "cli-test", "--timeout", "500ms", "--", "sleep", "300")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def test_a_second_node_of_the_name_is_refused(vm):
    call, _ = vm
    done = call("node", "start", "cli-test")
    assert (done.returncode, done.stderr) == (1, "error: node cli-test runs already (schedctl node stop cli-test)\n")
