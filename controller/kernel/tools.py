# SPDX-License-Identifier: Apache-2.0
"""Everything schedctl needs of a machine, as data: what, why, how to tell, and the command that mends it.

`schedctl doctor` prints `check_all()`. Each check asks the thing itself (loads the library, runs the sandbox) and not
the package database, because a package can be there and not work. An optional requirement is one that only some
machines need: a planner needs no sched_ext in its own kernel, a node no kernel images.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from controller.errors import SchedctlError
from controller.kernel import clang, images, libbpf, qemu, schedext, virtiofs
from controller.paths import cache_dir

_SETUP = "make setup"


class Unmet(Exception):
    """A check's way to say no: what was found instead, and the remedy where it is not the requirement's usual one."""

    def __init__(self, found: str, remedy: str = "") -> None:
        super().__init__(found)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `found` and `need` are a few words each, for a table."""

    name: str
    ok: bool
    found: str
    need: str
    why: str
    remedy: str
    optional: bool

    @property
    def status(self) -> str:
        """`OK`, `Missing`, or `Absent` for an optional one: only `Missing` makes doctor fail."""
        return "OK" if self.ok else "Absent" if self.optional else "Missing"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing. `check` returns what it found, or raises Unmet or an error of ours."""

    name: str
    need: str
    why: str
    check: Callable[[], str]
    remedy: str
    optional: bool = False

    def examine(self) -> Finding:
        """Run the check; a tool that does not even run is unmet, never an exception."""
        remedy = self.remedy
        try:
            ok, found, remedy = True, self.check(), ""
        except Unmet as error:
            ok, found, remedy = False, str(error), error.remedy or remedy
        except (SchedctlError, OSError, ImportError, subprocess.SubprocessError) as error:
            ok, found = False, str(getattr(error, "message", error))
        return Finding(self.name, ok, found, self.need, self.why, remedy, self.optional)


def check_all() -> list[Finding]:
    """Examine every requirement; takes some seconds, of which KVM takes most when it was not tried since boot."""
    return [requirement.examine() for requirement in requirements()]


def requirements() -> list[Requirement]:
    """All of them, in the order a person would mend them."""
    return [*_building(), *_booting(), *_observing(), *_loads(), *_this_machine()]


def _building() -> list[Requirement]:
    return [
        Requirement("python", ">= 3.11", "schedctl itself", _python, _install("python3")),
        Requirement("git", "any", "the policy repository", lambda: _version("git", "--version"), _install("git")),
        Requirement("clang", f">= {clang.MINIMUM}", "compiles schedulers", _clang, _install("clang-19")),
        Requirement("libc-headers", "any", "compiles the load of trials", _libc_headers, _install("libc6-dev")),
        Requirement("bubblewrap", "any", "the compiler's sandbox", _bubblewrap, _install("bubblewrap")),
        Requirement("libbpf", _dotted(libbpf.MINIMUM), "loads schedulers", libbpf.version, _newer("libbpf1")),
        Requirement("bpftool", "any", "inspects objects", lambda: _version("bpftool", "version"), _newer("bpftool")),
    ]


def _booting() -> list[Requirement]:
    why = "boots kernels to verify on"
    return [
        Requirement("qemu", _dotted(qemu.MINIMUM), why, _qemu, _newer("qemu-system-x86")),
        Requirement("busybox", "static", "user space of the verification guest", _busybox, _install("busybox-static")),
        Requirement("virtiofsd", "any", "user space of node VMs", lambda: virtiofs.find().version, _newer("virtiofsd")),
        Requirement("kernels", "2 images", why, _kernels, "schedctl kernel pull newest oldest"),
        Requirement("kvm", "optional", "makes micro-VMs several times faster", _kvm, "use a machine with KVM", True),
    ]


def _observing() -> list[Requirement]:
    return [
        Requirement("bcc", "any", "traces what runs", _bcc, _SETUP),
        Requirement("kernel-headers", "merged", "bcc compiles against them", _headers, _SETUP),
    ]


def _loads() -> list[Requirement]:
    why = "load of trials and benchmarks"
    return [
        Requirement("stress-ng", "any", why, lambda: _version("stress-ng", "--version"), _install("stress-ng")),
        Requirement("rt-app", "any", why, lambda: _program("rt-app"), _install("rt-app")),
        Requirement("cyclictest", "any", why, lambda: _program("cyclictest"), _install("rt-tests")),
        Requirement("hackbench", "any", why, lambda: _program("hackbench"), _install("rt-tests")),
    ]


def _this_machine() -> list[Requirement]:
    node = "schedctl node start, or boot a kernel built with CONFIG_SCHED_CLASS_EXT"
    pins, typed = "/sys/fs/bpf", "boot a kernel built with CONFIG_DEBUG_INFO_BTF"
    return [
        Requirement("sched_ext", "on a node", "attaches schedulers", _sched_ext, node, True),
        Requirement("btf", "to observe", "tells the probes where the kernel has what", _btf, typed, True),
        Requirement("bpffs", "on a node", "pins schedulers", lambda: _mounted("bpf"), f"mount -t bpf bpf {pins}", True),
    ]


def _python() -> str:
    found = _dotted(sys.version_info[:3], prefix="")
    return found if sys.version_info >= (3, 11) else _unmet(found)


def _clang() -> str:
    try:
        return clang.find().version
    except SchedctlError:
        raise Unmet(_version("clang", "--version")) from None


def _libc_headers() -> str:
    header = Path("/usr/include/stdio.h")
    return str(header) if header.is_file() else _unmet("none")


def _bubblewrap() -> str:
    version = _version("bwrap", "--version")
    command = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "--dev", "/dev", "--proc", "/proc", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        remedy = "sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000"
        raise Unmet(f"{version}, but the kernel refuses it namespaces", remedy)
    return version


def _qemu() -> str:
    try:
        return _dotted(qemu.find().version, prefix="")
    except SchedctlError:
        raise Unmet(_version("qemu-system-x86_64", "--version")) from None


def _busybox() -> str:
    from elftools.elf.elffile import ELFFile

    path = _program("busybox")
    with Path(path).open("rb") as file:
        dynamic = ELFFile(file).get_section_by_name(".interp") is not None
    return _unmet(f"{path}, dynamic") if dynamic else path


def _kernels() -> str:
    usable = [image.release for image in images.list_images() if image.source == "archive" or image.has_sched_ext]
    return ", ".join(usable) if len(usable) >= 2 else _unmet(", ".join(usable) or "none")


def _kvm() -> str:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise Unmet("no /dev/kvm to use")
    options = qemu.accelerator(qemu.find(), images.resolve("newest").path)
    return "works" if "kvm" in options else _unmet("/dev/kvm runs no kernel")


def _bcc() -> str:
    module = importlib.import_module("bcc")
    if not hasattr(module, "BPF"):
        raise Unmet("another bcc (PyPI's)")
    return str(module.__version__)


def _headers() -> str:
    tree = cache_dir() / "headers"
    # One file of each of the two trees; a link is dead once the package it points into is gone.
    whole = all((tree / file).is_file() for file in ("include/linux/kconfig.h", "include/generated/autoconf.h"))
    return (tree / ".release").read_text(encoding="utf-8").strip() if whole else _unmet("none")


def _sched_ext() -> str:
    release = os.uname().release
    return release if Path("/sys/kernel/sched_ext").is_dir() else _unmet(f"not in {release}")


def _btf() -> str:
    return str(schedext.VMLINUX_BTF) if schedext.VMLINUX_BTF.exists() else _unmet("not in this kernel")


def _mounted(kind: str) -> str:
    """Where it is mounted; that root could mount it on this kernel is enough, since the agent does."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if fields[2] == kind:
            return fields[1]
    known = f"nodev\t{kind}\n" in Path("/proc/filesystems").read_text(encoding="utf-8")
    if not known:
        raise Unmet("not in this kernel")
    return "can be mounted" if os.geteuid() == 0 else _unmet("not mounted, and this is not root")


def _program(name: str) -> str:
    return shutil.which(name) or _unmet("none")


def _version(name: str, argument: str) -> str:
    done = subprocess.run([_program(name), argument], capture_output=True, text=True, timeout=20, check=False)
    found = re.search(r"\d+(?:\.\d+)+", done.stdout)
    return found[0] if found else _unmet(f"does not run: {name} {argument}")


def _unmet(found: str) -> str:
    raise Unmet(found)


def _dotted(version: tuple[int, ...], prefix: str = ">= ") -> str:
    return prefix + ".".join(map(str, version))


def _install(package: str) -> str:
    return f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install {package}"


def _newer(package: str) -> str:
    """What Debian 12 lacks, setup gets from elsewhere without changing the system's sources."""
    return _SETUP if images.os_codename() == "bookworm" else _install(package)
