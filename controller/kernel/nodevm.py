# SPDX-License-Identifier: Apache-2.0
"""Node VMs: micro-VMs in which a whole node runs, for machines whose own kernel has no sched_ext.

    node = start("n1", kernel=images.resolve("newest"), shares=[repository])
    node.spawn(["schedctl", "agent", "run"], log="/var/log/agent.log")
    print(node.exec(["cat", "/sys/kernel/sched_ext/state"], timeout_s=10).stdout)
    get("n1").stop()

The guest's root is this machine's own file system over virtiofs, read-only, so the same Python, bcc and
project run on the kernel under test; `shares` are writable, at the path they have here. It has no network.
QEMU runs in the background: everything about a node is in <state>/nodes/NAME (node.json with the processes
and their start times, so that a pid that was used again is never signalled; the console's log, kept below a
limit; sockets). Commands reach the guest through a set of virtio-serial ports, one command a port, taken by
locking a file: any process of this machine can run one, several at once. The guest's half is
bpf/guest/node-init.py and bpf/guest/node-exec.py. Unlike the verification guest this one is trusted with
reading this machine's files: it runs schedulers that have passed.
"""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.errors import CouldNotTell, DeadlineExceeded, GuestError, InputError, ToolMissing
from controller.kernel import qemu, virtiofs
from controller.kernel.images import KernelImage, release_of
from controller.kernel.nodeexec import PORTS, Channel, ExecResult, Output, PortClosed
from controller.kernel.processes import Process, end
from controller.paths import cache_dir, config_dir, data_dir, state_dir

CONSOLE_LIMIT = 1 << 20  # bytes of console.log that QEMU may write
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_ROOT_TAG = "schedctl-root"
_SCRATCH = ("/tmp", "/var/tmp", "/var/log", "/var/lib/schedctl", "/root")  # noqa: S108 - tmpfs of the guest
_STOP_S = 10.0

Reporter = Callable[[str], None]


@dataclass(frozen=True)
class NodeVm:
    """A node VM that `start` made. `kernel` is its release; `shares` are the writable folders."""

    name: str
    kernel: str
    cpus: int
    memory_mib: int
    shares: tuple[Path, ...]
    created: float
    qemu: Process
    servers: tuple[Process, ...]

    @property
    def directory(self) -> Path:
        """Its state: node.json, console.log, sockets."""
        return _nodes_dir() / self.name

    @property
    def running(self) -> bool:
        """Whether its QEMU is alive."""
        return self.qemu.alive()

    def console(self, limit: int = 4000) -> str:
        """The end of what its kernel and init printed."""
        return _tail(self.directory / "console.log", limit)

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float | None,
        stdin: bytes | None = None,
        stdout: Output | None = None,
        stderr: Output | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> ExecResult:
        """Run a command in the guest and wait for it; output given to a callback as it comes is not collected.

        The exit code is the command's own, 128+N when signal N ended it, 127 or 126 when it could not be
        started. It ends with this call, however that ends. DeadlineExceeded after `timeout_s` (None waits for
        ever); GuestError with the console when the VM is dead; CouldNotTell when all ports are taken.
        """
        with self._channel() as channel:
            return channel.run(argv, timeout_s=timeout_s, stdin=stdin, output=(stdout, stderr), env=env or {}, cwd=cwd)

    def spawn(self, argv: Sequence[str], *, log: str, env: Mapping[str, str] | None = None, cwd: str = "/") -> int:
        """Start a command that goes on in the guest, its output appended to `log` there; returns its pid there.

        InputError when it cannot be started.
        """
        with self._channel() as channel:
            return channel.start_detached(argv, log=log, env=env or {}, cwd=cwd)

    def stop(self) -> None:
        """Power off, kill what is left after 10 s, and remove every trace. Does nothing when it is gone already."""
        with contextlib.suppress(CouldNotTell, OSError), self._channel() as channel:
            channel.power_off(_STOP_S)
        end([self.qemu, *self.servers])
        now = _load(self.directory)
        if now and now.qemu == self.qemu:  # not another node that got the name since
            shutil.rmtree(self.directory, ignore_errors=True)

    @contextlib.contextmanager
    def _channel(self) -> Iterator[Channel]:
        if not self.running:
            raise self._dead("is dead")
        try:
            with Channel.open(self.directory, self.name) as channel:
                yield channel
        except PortClosed as error:
            raise self._dead("died while it ran a command") from error

    def _dead(self, how: str) -> GuestError:
        return GuestError(
            f"node {self.name} {how}: its QEMU is gone",
            console=self.console(),
            remedy=f"see {self.directory / 'console.log'}, then: schedctl node stop {self.name}",
        )


def start(
    name: str,
    *,
    kernel: KernelImage | Path,
    cpus: int = 2,
    memory_mib: int = 1536,
    shares: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
    deadline_s: float = 120,
    reporter: Reporter | None = None,
) -> NodeVm:
    """Boot a node VM and return once it runs commands; it stays when this process ends.

    `shares` are folders of this machine, writable at the same path in the guest. `env` is added to what
    every command there gets. InputError for a bad name, a taken one, a bad share or a kernel without
    sched_ext; ToolMissing; GuestError with the console when it does not come up within `deadline_s`. On any
    error nothing stays behind.
    """
    say = reporter or (lambda _: None)
    image = kernel if isinstance(kernel, KernelImage) else KernelImage(release_of(kernel), kernel.absolute(), "file")
    folders = _checked(name, image, cpus, memory_mib, shares)
    emulator = qemu.find()
    virtiofs.find()
    directory = _claim(name)
    processes: list[Process] = []
    try:
        # The guest cannot keep bytecode, and its emulator would compile as long as it runs, at each command.
        compileall.compile_dir(Path(__file__).parents[1], quiet=2)
        guest_root = {"tag": _ROOT_TAG, "path": "/"}
        mounts = [{"tag": f"share{index}", "path": str(folder)} for index, folder in enumerate(folders)]
        _write_guest_files(directory, name, mounts, env or {})
        for mount in (guest_root, *mounts):
            processes += _serve(directory, mount)
        say(f"booting {image.release} as node {name}")
        command = [
            *emulator.command(qemu.accelerator(emulator, image.path)),
            *_machine(name, cpus, memory_mib, [guest_root, *mounts]),
            *("-kernel", str(image.path), "-append", _command_line(directory)),
        ]
        machine = _run_qemu(command, directory)
        processes.insert(0, machine)
        servers = tuple(processes[1:])
        node = NodeVm(name, image.release, cpus, memory_mib, folders, time.time(), machine, servers)
        _save(node)
        _await_ready(node, deadline_s)
    except BaseException:
        end(processes)
        shutil.rmtree(directory, ignore_errors=True)
        raise
    say(f"node {name} is up")
    return node


def get(name: str) -> NodeVm:
    """The node of that name, also when its QEMU has died (then `running` is false). InputError when there is none."""
    node = _load(_nodes_dir() / name) if _NAME.fullmatch(name) else None
    if node is None:
        known = ", ".join(node.name for node in list_nodes())
        raise InputError(
            f'node VM "{name}" not found' + (f"; there is: {known}" if known else ""),
            remedy=f"schedctl node start {name}" if _NAME.fullmatch(name) else "schedctl node start node1",
        )
    return node


def list_nodes() -> list[NodeVm]:
    """Every node VM with state on this machine, by name."""
    if not _nodes_dir().is_dir():
        return []
    found = (_load(entry) for entry in sorted(_nodes_dir().iterdir()) if entry.is_dir())
    return [node for node in found if node]


def _checked(name: str, image: KernelImage, cpus: int, memory_mib: int, shares: Sequence[Path]) -> tuple[Path, ...]:
    """The shares as resolved paths, once everything the user gave makes sense."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for a node", remedy="use lower-case letters, digits and '-', at most 63")
    if cpus < 1 or memory_mib < 512:
        raise InputError(f"a node VM needs a CPU and 512 MiB, not {cpus} and {memory_mib} MiB", remedy="give it more")
    if image.has_sched_ext is False:
        raise InputError(
            f"kernel {image.release} is built without sched_ext (CONFIG_SCHED_CLASS_EXT)",
            remedy="use one that has it: schedctl kernel list",
        )
    if re.search(r"[\s\"]", str(_nodes_dir())):
        raise InputError(
            f"the kernel command line cannot name {_nodes_dir()}",
            remedy="set SCHEDCTL_STATE to a folder without spaces and quotes in its path",
        )
    folders = []
    for share in shares:
        folder = share.resolve()
        if not folder.is_dir() or folder == Path("/"):
            raise InputError(f"cannot share {share} with a node VM: it is no folder below /", remedy="name one")
        folders.append(folder)
    return tuple(folders)


def _nodes_dir() -> Path:
    return state_dir() / "nodes"


def _claim(name: str) -> Path:
    """Make the node's folder: whoever makes it owns the name. What a dead node left is removed first."""
    directory = _nodes_dir() / name
    old = _load(directory)
    if old and old.running:
        raise InputError(f"node {name} runs already", remedy=f"schedctl node stop {name}")
    if old:
        old.stop()
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError as error:
        raise InputError(
            f"node {name} is being started, or its start was killed", remedy=f"if it was killed: rm -r {directory}"
        ) from error
    return directory


def _write_guest_files(directory: Path, name: str, shares: list[dict[str, str]], env: Mapping[str, str]) -> None:
    """Put into the node's folder what its init reads; a running node does not change when the project does."""
    for file in ("node-init.py", "node-exec.py"):
        shutil.copyfile(data_dir("bpf") / "guest" / file, directory / file)
    (directory / "node-init.py").chmod(0o755)
    project = Path(__file__).resolve().parents[2]
    needed = (project, Path(sys.prefix), Path(sys.base_prefix), cache_dir(), config_dir())
    headers = cache_dir() / "headers"
    config = {
        "name": name,
        "server": str(directory / "node-exec.py"),
        "scratch": _SCRATCH,
        "keep": sorted({str(path.resolve()) for path in needed if path.exists()}),
        "shares": shares,
        "env": {
            "PATH": f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "SCHEDCTL_CACHE": str(cache_dir()),
            "SCHEDCTL_CONFIG": str(config_dir()),
            "SCHEDCTL_STATE": "/run/schedctl",
            **({"BCC_KERNEL_SOURCE": str(headers)} if headers.is_dir() else {}),
            **env,
        },
    }
    (directory / "guest.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _serve(directory: Path, mount: Mapping[str, str]) -> list[Process]:
    """A virtiofsd for one mount. The socket is bound through the folder's descriptor: its path may be too long."""
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{mount['tag']}.sock")
            listener.listen(1)
            log = directory / f"{mount['tag']}.log"
            return virtiofs.serve(Path(mount["path"]), listener, log, writable=mount["path"] != "/")
    finally:
        os.close(folder)


def _machine(name: str, cpus: int, memory_mib: int, mounts: Sequence[Mapping[str, str]]) -> list[str]:
    options = ["-name", f"schedctl-node-{name}", "-smp", str(cpus), "-m", str(memory_mib)]
    # virtiofsd reads and writes the guest's memory itself, hence shared.
    options += ["-object", f"memory-backend-memfd,id=ram,size={memory_mib}M,share=on", "-numa", "node,memdev=ram"]
    options += ["-serial", "file:console.log", "-device", f"virtio-serial-pci,max_ports={PORTS + 1}"]
    for port in range(PORTS):
        options += ["-chardev", f"socket,id=exec{port},path=exec{port}.sock,server=on,wait=off"]
        options += ["-device", f"virtserialport,chardev=exec{port},name=schedctl.exec.{port}"]
    for mount in mounts:
        tag = mount["tag"]
        options += ["-chardev", f"socket,id={tag},path={tag}.sock"]
        options += ["-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]
    return [*options, "-pidfile", "qemu.pid", "-daemonize"]


def _command_line(directory: Path) -> str:
    kernel = "console=ttyS0 quiet panic=-1 mitigations=off"
    root = f"rootfstype=virtiofs root={_ROOT_TAG} ro"
    return f"{kernel} {root} init={directory}/node-init.py SCHEDCTL_NODE={directory}/guest.json"


def _run_qemu(command: list[str], directory: Path) -> Process:
    """Start QEMU in the background; it returns from -daemonize once its devices are there."""
    try:
        # Ignored signals are inherited: without SIGXFSZ a full console log costs output, not the VM.
        done = subprocess.run(
            command, cwd=directory, capture_output=True, timeout=60, check=False, restore_signals=False
        )
    except OSError as error:
        raise ToolMissing(f"starting a node VM: {command[0]}: {error.strerror}", remedy="make setup") from error
    except subprocess.TimeoutExpired as error:
        raise CouldNotTell("starting a node VM: QEMU said nothing for 60 s", remedy="schedctl doctor") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise CouldNotTell(f"starting a node VM: QEMU exits {done.returncode}: {said}", remedy="schedctl doctor")
    pid = int((directory / "qemu.pid").read_text())
    process = Process.of(pid)
    if process is None:
        raise GuestError("starting a node VM: QEMU died at once", console=_tail(directory / "console.log", 4000))
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (CONSOLE_LIMIT, CONSOLE_LIMIT))  # after the guest's memory is made
    return process


def _await_ready(node: NodeVm, deadline_s: float) -> None:
    try:
        with node._channel() as channel:
            channel.ping(deadline_s)
    except DeadlineExceeded as error:
        raise GuestError(
            f"node {node.name} did not come up within {deadline_s:g} s",
            console=node.console(),
            remedy="give it more time, or try another kernel: schedctl kernel list",
        ) from error


def _save(node: NodeVm) -> None:
    state = {
        "name": node.name,
        "kernel": node.kernel,
        "cpus": node.cpus,
        "memoryMib": node.memory_mib,
        "shares": [str(share) for share in node.shares],
        "created": node.created,
        "processes": [[process.pid, process.started] for process in (node.qemu, *node.servers)],
    }
    part = node.directory / "node.json.part"
    part.write_text(json.dumps(state, indent=1), encoding="utf-8")
    part.rename(node.directory / "node.json")


def _load(directory: Path) -> NodeVm | None:
    try:
        state = json.loads((directory / "node.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    machine, *servers = (Process(pid, started) for pid, started in state["processes"])
    shares = tuple(Path(share) for share in state["shares"])
    return NodeVm(
        state["name"],
        state["kernel"],
        state["cpus"],
        state["memoryMib"],
        shares,
        state["created"],
        machine,
        tuple(servers),
    )


def _tail(file: Path, limit: int) -> str:
    try:
        return file.read_bytes()[-limit:].decode(errors="replace")
    except OSError:
        return ""
