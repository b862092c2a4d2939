# SPDX-License-Identifier: Apache-2.0
"""Node VMs: a real node on a real sched_ext kernel, commands in it, and nothing left behind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from controller.errors import DeadlineExceeded, GuestError, InputError, ToolMissing
from controller.kernel import images, nodevm, qemu, virtiofs
from controller.kernel.images import KernelImage
from controller.trust import keys
from tests.conftest import missing

TRACER = """
import time
from bcc import BPF
bpf = BPF(text='BPF_ARRAY(seen, u64, 1); TRACEPOINT_PROBE(sched, sched_switch) { seen.increment(0); return 0; }')
time.sleep(0.5)
print(sum(value.value for value in bpf["seen"].values()))
"""


def require(name: str) -> KernelImage:
    try:
        qemu.find()
        virtiofs.find()
        return images.resolve(name)
    except ToolMissing as error:
        missing(error.message, error.remedy)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("a-state-folder-whose-path-is-too-long-for-the-address-of-a-unix-socket" * 2)
        patch.setenv("SCHEDCTL_STATE", str(folder))
        patch.setenv("SCHEDCTL_CONFIG", str(tmp_path_factory.mktemp("config") / "schedctl"))
        keys.ensure_signing_key()
        yield folder


@pytest.fixture(scope="module")
def share(tmp_path_factory):
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def node(state, share):
    node = nodevm.start("n1", kernel=require("newest"), shares=[share], env={"GREETING": "hello there"})
    yield node
    node.stop()


def sh(node: nodevm.NodeVm, script: str, **options) -> str:
    done = node.exec(["sh", "-c", script], timeout_s=120, **options)
    assert done.exit_code == 0, done
    return done.stdout.decode().strip()


@pytest.mark.kernel
def test_the_node_runs_the_kernel_it_was_given_with_sched_ext(node):
    assert sh(node, "uname -r") == node.kernel == images.resolve("newest").release
    assert sh(node, "hostname") == "n1"
    assert sh(node, "cat /sys/kernel/sched_ext/state") == "disabled"


@pytest.mark.kernel
def test_cgroups_pins_and_tracing_work(node):
    assert "cpu" in sh(node, "cat /sys/fs/cgroup/cgroup.subtree_control").split()
    assert (
        sh(node, "mkdir /sys/fs/cgroup/a && echo 50 > /sys/fs/cgroup/a/cpu.weight && cat /sys/fs/cgroup/a/cpu.weight")
        == "50"
    )
    assert sh(node, "mkdir /sys/fs/bpf/a && ls /sys/fs/bpf") == "a"
    assert "sched_switch" in sh(node, "ls /sys/kernel/tracing/events/sched").split()


@pytest.mark.kernel
def test_the_project_and_its_interpreter_are_there(node):
    script = "import controller, sys; print(controller.__file__, sys.prefix)"
    here = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert node.exec([sys.executable, "-c", script], timeout_s=120).stdout.decode() == here


@pytest.mark.kernel
def test_bcc_traces_there(node):
    done = node.exec([sys.executable, "-c", TRACER], timeout_s=240)
    assert done.exit_code == 0, done
    assert int(done.stdout) > 0


@pytest.mark.kernel
def test_this_machines_files_cannot_be_written_even_by_a_guest_that_remounts_them(node):
    done = node.exec(["sh", "-c", "mount -o remount,rw / && touch /usr/lib/written-by-the-guest"], timeout_s=60)
    assert done.exit_code != 0
    assert b"Read-only file system" in done.stderr
    assert not Path("/usr/lib/written-by-the-guest").exists()


@pytest.mark.kernel
def test_the_node_trusts_what_this_machine_trusts_and_cannot_read_its_signing_key(node):
    assert keys.signing_key_path().exists()
    done = node.exec(["cat", str(keys.signing_key_path())], timeout_s=60)
    assert (done.exit_code, done.stdout) == (1, b"")
    assert b"No such file" in done.stderr
    (trusted,) = keys.trusted_dir().glob("*.pub")
    assert sh(node, f"cat {trusted}") == trusted.read_text().strip()


@pytest.mark.parametrize("trusts", [True, False])
def test_the_server_of_a_nodes_files_does_not_see_the_signing_key(tmp_path, trusts):
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        missing("bubblewrap (bwrap)")
    config = tmp_path / "config"
    config.mkdir()
    (config / "signing.key").write_text("secret")
    if trusts:
        (config / "trusted").mkdir()
        (config / "trusted" / "a.pub").write_text("public")
    sandbox = [bwrap, "--ro-bind", "/", "/", *virtiofs._without_secrets(config), "--"]
    script = f"cd {config} && find . -type f && cat trusted/a.pub; touch x"
    done = subprocess.run([*sandbox, "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == ("./trusted/a.pub\npublic" if trusts else "")
    assert "Read-only file system" in done.stderr
    assert virtiofs._without_secrets(tmp_path / "none") == []


@pytest.mark.kernel
def test_a_share_is_written_from_both_sides_at_once(node, share):
    (share / "from-here").write_text("1")
    assert sh(node, f"cat {share}/from-here && echo 2 > {share}/from-there") == "1"
    assert (share / "from-there").read_text() == "2\n"
    (share / "from-here").write_text("3")
    assert sh(node, f"cat {share}/from-here") == "3"


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 137),
        (["no-such-program"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_the_exit_code_is_the_commands_own(node, argv, code):
    assert node.exec(argv, timeout_s=60).exit_code == code


@pytest.mark.kernel
def test_environment_and_folder_reach_the_command(node):
    assert (
        sh(node, 'echo "$GREETING $MORE"; pwd', env={"MORE": "again"}, cwd="/usr/bin") == "hello there again\n/usr/bin"
    )


@pytest.mark.kernel
def test_input_and_output_pass_whole(node):
    data = os.urandom(2_000_000)
    done = node.exec(["sh", "-c", "tee /dev/stderr | sha256sum"], timeout_s=120, stdin=data)
    assert done.stderr == data
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


@pytest.mark.kernel
def test_output_comes_while_the_command_runs_and_commands_run_at_once(node):
    """The first command ends only when the second, started after its first output came, has met it at a FIFO."""
    sh(node, "mkfifo /run/meeting")
    came = threading.Event()
    done: list[nodevm.ExecResult] = []
    command = ["sh", "-c", "echo waiting; cat /run/meeting"]
    reader = threading.Thread(
        target=lambda: done.append(node.exec(command, timeout_s=120, stdout=lambda _: came.set())), daemon=True
    )
    reader.start()
    assert came.wait(60)
    sh(node, "echo met > /run/meeting")
    reader.join(60)
    assert [each.exit_code for each in done] == [0]


@pytest.mark.kernel
def test_a_command_does_not_outlive_its_deadline(node):
    with pytest.raises(DeadlineExceeded, match="running sleep on node n1"):
        node.exec(["sleep", "98765"], timeout_s=1)
    assert sh(node, "pgrep -f 'sleep [9]8765' || echo gone") == "gone"


@pytest.mark.kernel
def test_a_detached_command_goes_on_after_its_client(node):
    pid = node.spawn(["sh", "-c", "echo started; exec sleep 4321"], log="/var/log/agent/agent.log")
    for _ in range(5):
        sh(node, f"kill -0 {pid}")
    assert sh(node, "cat /var/log/agent/agent.log") == "started"
    with pytest.raises(InputError, match="no-such-program"):
        node.spawn(["no-such-program"], log="/var/log/x")


@pytest.mark.kernel
def test_a_client_that_is_killed_takes_its_command_with_it(node):
    """Its command dies, and the port serves the next client."""
    code = (
        "from controller.kernel.nodevm import get; print(flush=True); get('n1').exec(['sleep', '1357'], timeout_s=99)"
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert client.stdout is not None
    with client:
        client.stdout.readline()
        sh(node, "until pgrep -f 'sleep [1]357'; do sleep 0.1; done")
        client.kill()
    sh(node, "while pgrep -f 'sleep [1]357'; do sleep 0.1; done")


@pytest.mark.kernel
def test_it_is_found_by_name_from_any_process(node):
    assert nodevm.get("n1") == node
    assert [each.name for each in nodevm.list_nodes()] == ["n1"]
    with pytest.raises(InputError, match="runs already"):
        nodevm.start("n1", kernel=require("newest"))
    assert node.running


@pytest.mark.kernel
def test_stopping_leaves_nothing_and_can_be_repeated(state, share):
    other = nodevm.start("n2", kernel=require("oldest"), shares=[share])
    assert sh(other, "uname -r; cat /sys/kernel/sched_ext/state") == f"{other.kernel}\ndisabled"
    processes = (other.qemu, *other.servers)
    assert all(process.alive() for process in processes)
    other.stop()
    assert not any(process.alive() for process in processes)
    assert not other.directory.exists()
    other.stop()


@pytest.mark.kernel
def test_a_node_whose_qemu_died_says_so_and_can_be_stopped(state):
    victim = nodevm.start("n3", kernel=require("newest"))
    os.kill(victim.qemu.pid, signal.SIGKILL)
    while victim.running:
        time.sleep(0.01)
    with pytest.raises(GuestError, match="its QEMU is gone") as caught:
        victim.exec(["true"], timeout_s=10)
    assert caught.value.remedy.endswith("schedctl node stop n3")
    assert not nodevm.get("n3").running
    nodevm.get("n3").stop()
    assert not any(process.alive() for process in victim.servers)
    assert not victim.directory.exists()


@pytest.mark.kernel
def test_a_node_that_does_not_come_up_in_time_leaves_nothing(state):
    with pytest.raises(GuestError, match=r"did not come up within 0.01 s") as caught:
        nodevm.start("n4", kernel=require("newest"), deadline_s=0.01)
    assert caught.value.remedy
    assert not (state / "nodes" / "n4").exists()


def test_a_pid_that_was_used_again_is_never_signalled(tmp_path, monkeypatch):
    monkeypatch.setenv("SCHEDCTL_STATE", str(tmp_path))
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        folder = tmp_path / "nodes" / "old"
        folder.mkdir(parents=True)
        processes = [[bystander.pid, 1], [bystander.pid, 2]]
        known = {"name": "old", "kernel": "7", "cpus": 1, "memoryMib": 512, "shares": [], "created": 0.0}
        (folder / "node.json").write_text(json.dumps({**known, "processes": processes}))
        node = nodevm.get("old")
        assert not node.running
        node.stop()
        assert bystander.poll() is None
        bystander.kill()
    assert not folder.exists()


@pytest.mark.parametrize("name", ["", "N1", "a b", "../x", "-a", "a" * 64])
def test_a_bad_name_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SCHEDCTL_STATE", str(tmp_path))
    image = KernelImage("7.3", tmp_path / "vmlinuz", "file")
    with pytest.raises(InputError, match="is no name for a node"):
        nodevm.start(name, kernel=image)
    with pytest.raises(InputError, match="not found"):
        nodevm.get(name)


def test_what_cannot_be_a_node_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("SCHEDCTL_STATE", str(tmp_path / "state"))
    image = KernelImage("6.12", tmp_path / "vmlinuz", "file")
    with pytest.raises(InputError, match="512 MiB"):
        nodevm.start("n1", kernel=image, memory_mib=16)
    with pytest.raises(InputError, match="it is no folder below /"):
        nodevm.start("n1", kernel=image, shares=[tmp_path / "nothing"])
    with pytest.raises(InputError, match="cannot share / "):
        nodevm.start("n1", kernel=image, shares=[Path("/")])
    (tmp_path / "config").write_text("#\n# CONFIG_SCHED_CLASS_EXT is not set\n")
    with pytest.raises(InputError, match="built without sched_ext"):
        nodevm.start("n1", kernel=image)
    monkeypatch.setenv("SCHEDCTL_STATE", str(tmp_path / "a state"))
    with pytest.raises(InputError, match="without spaces"):
        nodevm.start("n1", kernel=KernelImage("7.3", Path("/vmlinuz"), "file"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["config"]


def test_without_virtiofsd_the_command_that_mends_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SCHEDCTL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SCHEDCTL_VIRTIOFSD", str(tmp_path / "nothing"))
    with pytest.raises(ToolMissing) as caught:
        nodevm.start("n1", kernel=KernelImage("7.3", tmp_path / "vmlinuz", "file"))
    assert caught.value.remedy == "make setup"
    assert not (tmp_path / "state").exists()
