# SPDX-License-Identifier: Apache-2.0
"""Finds QEMU and says how to run a kernel on it: which binary, which accelerator, which CPU model.

`/dev/kvm` may be there and still not run a kernel (nested or emulated KVM), so KVM is believed only after it ran
guest instructions and then a real kernel up to its own "no root filesystem" panic. The answer is kept per boot of this
machine, QEMU binary and kernel image. Without KVM the emulator runs with one thread a CPU, which needs QEMU 10: 7.2
lets one virtual CPU run stale code while another patches a static key, and panics the guest with `Oops: int3`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from controller.errors import InputError, ToolMissing
from controller.kernel import leftovers
from controller.paths import cache_dir

MINIMUM = (10, 0)
_REMEDY = "make setup"
_TCG = ("-accel", "tcg,thread=multi", "-cpu", "max")
_KVM = ("-accel", "kvm", "-cpu", "host")
_PROBE_EXIT = 0x2A
_KVM_DEADLINE_S = 20.0
_REACHED_USERLAND = re.compile(rb"Kernel panic - not syncing: (VFS|No working init)")


@dataclass(frozen=True)
class Qemu:
    """One usable `qemu-system-x86_64`."""

    binary: Path
    version: tuple[int, int]

    def command(self, accelerator: tuple[str, ...]) -> list[str]:
        """The arguments every guest starts from: no default devices, no display, power-off instead of reboot."""
        return [
            str(self.binary),
            "-M",
            "q35,usb=off,vmport=off,sata=off,smbus=off,dump-guest-core=off",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            *accelerator,
        ]


def find() -> Qemu:
    """The QEMU to use: SCHEDCTL_QEMU when it is set, else the one on the PATH. Raises ToolMissing."""
    named = os.environ.get("SCHEDCTL_QEMU")
    wanted = named or "qemu-system-x86_64"
    found = shutil.which(wanted)
    if found is None:
        told = " (named by SCHEDCTL_QEMU)" if named else ""
        raise ToolMissing(f"cannot start a micro-VM: no {wanted} on this machine{told}", remedy=_REMEDY)
    version = _version(found)
    if version < MINIMUM:
        raise ToolMissing(
            f"cannot start a micro-VM: {found} is QEMU {version[0]}.{version[1]}, and older than "
            f"{MINIMUM[0]}.{MINIMUM[1]} its emulator breaks guests that patch kernel code",
            remedy=_REMEDY,
        )
    return Qemu(Path(found), version)


def accelerator(qemu: Qemu, kernel: Path) -> tuple[str, ...]:
    """The `-accel`/`-cpu` arguments that run `kernel` here: KVM where it provably works, else the emulator."""
    if os.access("/dev/kvm", os.R_OK | os.W_OK) and _kvm_works(qemu, kernel):
        return _KVM
    return _TCG


def is_kvm(accelerator: tuple[str, ...]) -> bool:
    """Whether these arguments mean KVM."""
    return accelerator == _KVM


def check_image(kernel: Path) -> None:
    """Raises InputError unless `kernel` has the header of a bootable x86 Linux image (bzImage)."""
    remedy = "name a vmlinuz, such as /boot/vmlinuz-$(uname -r) or one that `schedctl kernel list` shows"
    try:
        with kernel.open("rb") as file:
            head = file.read(0x206)
    except OSError as error:
        raise InputError(f"cannot read the kernel image {kernel}: {error.strerror}", remedy=remedy) from error
    if len(head) < 0x206 or head[0x1FE:0x200] != b"\x55\xaa" or head[0x202:0x206] != b"HdrS":
        raise InputError(f"{kernel} is not a bootable Linux kernel image", remedy=remedy)


@lru_cache(maxsize=8)
def _version(binary: str) -> tuple[int, int]:
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolMissing(f"cannot start a micro-VM: {binary} does not run: {error}", remedy=_REMEDY) from error
    match = re.search(r"QEMU emulator version (\d+)\.(\d+)", done.stdout)
    if match is None:
        raise ToolMissing(f"cannot start a micro-VM: {binary} does not call itself QEMU", remedy=_REMEDY)
    return int(match[1]), int(match[2])


def _kvm_works(qemu: Qemu, kernel: Path) -> bool:
    file = _probe_file(qemu, kernel)
    try:
        return bool(json.loads(file.read_text())["works"])
    except (OSError, ValueError, KeyError, TypeError):
        works = _runs_instructions(qemu) and _runs_kernel(qemu, kernel)
    leftovers.write(file, json.dumps({"works": works, "kernel": str(kernel), "qemu": list(qemu.version)}).encode())
    return works


def _probe_file(qemu: Qemu, kernel: Path) -> Path:
    image = kernel.stat()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    key = f"{boot_id} {qemu.binary} {qemu.version} {kernel} {image.st_size} {image.st_mtime_ns}"
    return cache_dir() / "kvm" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _runs_instructions(qemu: Qemu) -> bool:
    """Whether KVM runs three instructions from the reset vector with the CPU model that a guest would get."""
    rom = bytearray(64 * 1024)
    rom[-16:-11] = bytes([0xB0, _PROBE_EXIT, 0xE6, 0xF4, 0xF4])  # mov al, code; out 0xf4, al; hlt
    with leftovers.folder(cache_dir() / "kvm", ".probe-") as scratch:
        (scratch / "rom").write_bytes(rom)
        debug_exit = ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
        command = [*qemu.command(_KVM), "-m", "16", "-bios", str(scratch / "rom"), *debug_exit]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_KVM_DEADLINE_S, check=False)
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == (_PROBE_EXIT << 1 | 1)  # isa-debug-exit's encoding


def _runs_kernel(qemu: Qemu, kernel: Path) -> bool:
    """Whether KVM takes a real kernel through all of its own start-up, to the panic for want of a root."""
    options = ["-m", "256", "-smp", "2", "-kernel", str(kernel), "-serial", "stdio"]
    command = [*qemu.command(_KVM), *options, "-append", "console=ttyS0 quiet panic=-1 mitigations=off"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_KVM_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return _REACHED_USERLAND.search(done.stdout) is not None
