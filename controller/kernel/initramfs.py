# SPDX-License-Identifier: Apache-2.0
"""Builds what boots in the micro-VM: one cpio archive, the same bytes for the same inputs, kept in the cache.

It holds busybox, this machine's Python with just the standard modules the agent needs, libbpf, the load generators
and the loader itself: the guest needs no disk and no package manager, and runs the files that run on the node. The
cache key is the digest of every input, so a changed loader or a new libbpf gives a new image and nothing is ever stale.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import py_compile
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from controller.errors import ToolMissing
from controller.kernel import leftovers, libbpf
from controller.paths import cache_dir, data_dir

PORT_NAME = "schedctl.agent"
_REMEDY = "make setup"
_KEEP = 3  # images of about 50 MB
_FORMAT = 2  # raise it when the layout below changes
_ROOT = "opt/schedctl"
_PACKAGE = Path(__file__).resolve().parents[1]
_STDLIB = Path(os.__file__).resolve().parent
_COMPILERS = ("clang-19", "clang", "gcc", "cc")
_OPTIONAL_TOOLS = ("cyclictest", "hackbench", "rt-app", "stress-ng")
_APPLETS = ("sh", "mount", "mkdir", "cat", "sleep", "poweroff", "taskset", "nproc", "ps", "kill", "true", "dd")

# The agent does without these, and they would bring large libraries: the modules above them have a fallback.
_LEFT_OUT = ("_bz2", "_hashlib", "_lzma", "_ssl")

# Imports what the guest will import, the way it will, and prints the files that this took.
_LIST_MODULES = f"""import json, sys
sys.modules.update(dict.fromkeys({_LEFT_OUT!r}))
sys.path.insert(0, {str(_PACKAGE.parent)!r})
import encodings.ascii, encodings.latin_1, encodings.utf_8, traceback
import controller.kernel.guest_agent
files = {{getattr(module, "__file__", None) for module in sys.modules.values()}}
print(json.dumps(sorted(filter(None, files))))
"""

_INIT = f"""#!/bin/sh
export PATH=/bin:/usr/bin LD_LIBRARY_PATH=/lib HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup && echo "+cpu +cpuset" > /sys/fs/cgroup/cgroup.subtree_control
python3 -I -S /{_ROOT}/start.py
poweroff -f
"""

_START = f"""import sys
sys.path.insert(0, "/{_ROOT}")
from controller.kernel.guest_agent import main
main("{PORT_NAME}")
"""


def build() -> Path:
    """The image's path, made now unless the cache has it. Raises ToolMissing for what it is made of."""
    load_generator, trial_workloads = build_load_generator(), build_load_generator("schedtrial")
    return _build(_digest(load_generator, trial_workloads), load_generator, trial_workloads)


def build_load_generator(name: str = "schedload") -> Path:
    """A program of bpf/guest (`schedload`, `schedtrial`), compiled once per source and compiler. Raises ToolMissing."""
    source = data_dir("bpf") / "guest" / f"{name}.c"
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise ToolMissing(f"cannot build {source.name}: no C compiler ({', '.join(_COMPILERS)})", remedy=_REMEDY)
    key = hashlib.sha256(source.read_bytes() + _identity(Path(compiler)).encode()).hexdigest()[:16]
    binary = cache_dir() / "guest" / f"{name}-{key}"
    if not binary.exists():
        with leftovers.folder(binary.parent, ".compiling-") as scratch:
            made = scratch / name
            _compile(compiler, source, made)
            made.replace(binary)
    return binary


def _compile(compiler: str, source: Path, target: Path) -> None:
    command = [compiler, "-O2", "-Wall", "-Werror", "-pthread", "-o", str(target), str(source)]
    env = {
        **os.environ,
        "TMPDIR": str(target.parent),
    }  # a compiler that is killed leaves its files: there they are ours
    # Static, so that it runs anywhere; some distributions have no static libc.
    done = subprocess.run([*command, "-static"], env=env, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        full = os.strerror(errno.ENOSPC)
        if full in done.stderr:
            raise OSError(errno.ENOSPC, full, str(target.parent))
        if done.returncode != 0:
            raise ToolMissing(f"cannot compile {source} with {compiler}: {done.stderr.strip()}", remedy=_REMEDY)


def _build(digest: str, *programs: Path) -> Path:
    image = cache_dir() / "guest" / f"{digest}.cpio"
    if image.exists():
        os.utime(image)
        return image
    tree = _Tree()
    _add_system(tree, programs)
    _add_python(tree)
    leftovers.write(image, tree.cpio())
    keep_newest(image.parent, "*.cpio", _KEEP)
    return image


def keep_newest(folder: Path, pattern: str, keep: int) -> None:
    """Delete all files of `folder` that match but the `keep` newest; another process may be doing the same."""

    def age(file: Path) -> float:
        try:
            return file.stat().st_mtime
        except OSError:
            return 0.0

    for file in sorted(folder.glob(pattern), key=age, reverse=True)[keep:]:
        file.unlink(missing_ok=True)


def _digest(*programs: Path) -> str:
    """Over everything the image is made of: our files by content, the machine's by path, size and time."""
    inputs = [_python(), _busybox(), libbpf.library_path(), *programs, *_tools()]
    parts = [str(_FORMAT), sys.version, _INIT, _START, *map(_identity, inputs)]
    parts += [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in _agent_files()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _identity(path: Path) -> str:
    real = path.resolve()
    about = real.stat()
    return f"{real} {about.st_size} {about.st_mtime_ns}"


# ---- what goes in -------------------------------------------------------------------------------------------------


def _agent_files() -> list[Path]:
    kernel = ("__init__", "bpf_object", "guest_agent", "guest_protocol", "libbpf", "loader", "schedext", "topology")
    names = ["__init__", "errors", *(f"kernel/{name}" for name in kernel)]
    return [_PACKAGE / f"{name}.py" for name in names]


def _busybox() -> Path:
    found = shutil.which("busybox")
    if found is None:
        raise ToolMissing("cannot build the guest image: no busybox", remedy=_REMEDY)
    return Path(found)


def _python() -> Path:
    """The interpreter under any virtual environment: its standard library is what goes in."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _tools() -> list[Path]:
    return [Path(found) for found in map(shutil.which, _OPTIONAL_TOOLS) if found]


def _add_system(tree: _Tree, programs: tuple[Path, ...]) -> None:
    for directory in ("dev", "proc", "sys", "tmp", "run", "var/tmp"):
        tree.directory(directory)
    tree.node("dev/console", 5, 1)
    tree.file("init", _INIT.encode(), executable=True)
    tree.program("bin/busybox", _busybox())
    for applet in _APPLETS:
        tree.link(f"bin/{applet}", "busybox")
    for program in programs:
        tree.program(f"bin/{program.name.rpartition('-')[0]}", program)
    tree.library(libbpf.SONAME, libbpf.library_path())
    for tool in _tools():
        tree.program(f"bin/{tool.name}", tool)
    for name, libc in _shared_libraries(_python()):
        # Opened by name when a thread ends by pthread_exit (rt-app's do); no program says that it needs it.
        if name == "libc.so.6" and (unwinder := libc.parent / "libgcc_s.so.1").exists():
            tree.library(unwinder.name, unwinder)


def _add_python(tree: _Tree) -> None:
    """The interpreter, and the modules that the agent's files import."""
    tree.program("usr/bin/python3", _python())
    tree.file(f"{_ROOT}/start.py", _START.encode())
    with leftovers.folder(cache_dir() / "guest", ".modules-") as scratch:
        for path in _agent_files():
            tree.module(f"{_ROOT}/{path.relative_to(_PACKAGE.parent)}", path, scratch)
        for path in _standard_modules():
            place = f"usr/lib/python{sys.version_info.major}.{sys.version_info.minor}/{path.relative_to(_STDLIB)}"
            if path.suffix == ".py":
                tree.module(place, path, scratch)
            else:
                tree.program(place, path)


def _standard_modules() -> list[Path]:
    command = [str(_python()), "-I", "-S", "-B", "-c", _LIST_MODULES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise ToolMissing(f"cannot list the guest's Python modules: {done.stderr.strip()}", remedy=_REMEDY)
    files = {Path(file) for file in json.loads(done.stdout)}
    # Some modules are frozen into the interpreter, but it looks for os.py to find its library.
    return sorted({_STDLIB / "os.py"} | {file for file in files if _STDLIB in file.parents})


def _shared_libraries(program: Path) -> list[tuple[str, Path]]:
    """Name and file of each library that `program` needs; the ELF interpreter under its own path."""
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, timeout=30, check=False)
    found = re.findall(r"^\s*(\S+) => (/\S+)", done.stdout, re.MULTILINE)
    interpreter = re.findall(r"^\s*(/\S+) \(0x", done.stdout, re.MULTILINE)
    return [(name, Path(path)) for name, path in found] + [(path, Path(path)) for path in interpreter]


# ---- the archive --------------------------------------------------------------------------------------------------


@dataclass
class _Entry:
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


@dataclass
class _Tree:
    """A file tree, written as a cpio archive of the "newc" kind: sorted, owned by root, dated 0."""

    entries: dict[str, _Entry] = field(default_factory=dict)

    def directory(self, name: str) -> None:
        """`name` and every directory above it."""
        for path in (Path(name), *Path(name).parents):
            if path != Path():
                self.entries.setdefault(str(path), _Entry(stat.S_IFDIR | 0o755))

    def file(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """A regular file."""
        self.directory(str(Path(name).parent))
        self.entries[name] = _Entry(stat.S_IFREG | (0o755 if executable else 0o644), data)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self.entries[name] = _Entry(stat.S_IFLNK | 0o777, target.encode())

    def node(self, name: str, major: int, minor: int) -> None:
        """A character device."""
        self.entries[name] = _Entry(stat.S_IFCHR | 0o600, device=(major, minor))

    def program(self, name: str, path: Path) -> None:
        """An ELF file with the libraries it needs."""
        self.file(name, path.read_bytes(), executable=True)
        for library, file in _shared_libraries(path):
            self.library(library, file)

    def library(self, name: str, path: Path) -> None:
        """A library and its own ones: in /lib, or under `name` when that is a path (the ELF interpreter)."""
        place = name.lstrip("/") if "/" in name else f"lib/{name}"
        if place not in self.entries:
            self.program(place, path)

    def module(self, name: str, path: Path, scratch: Path) -> None:
        """A Python module, compiled as well: the guest is too slow to do that at each boot."""
        self.file(name, path.read_bytes())
        compiled = scratch / "module.pyc"
        # A hash in place of the time stamp keeps the image's bytes the same, and the guest from looking at the source.
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(path), str(compiled), f"/{name}", doraise=True, invalidation_mode=mode)
        place = Path(name).parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc"
        self.file(str(place), compiled.read_bytes())

    def cpio(self) -> bytes:
        """The archive's bytes."""
        out = bytearray()
        for number, (name, entry) in enumerate([*sorted(self.entries.items()), ("TRAILER!!!", _Entry(0))], 1):
            raw = name.encode() + b"\0"
            fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device, len(raw), 0)
            out += b"070701" + b"".join(b"%08x" % each for each in fields) + raw
            out += bytes(-len(out) % 4) + entry.data
            out += bytes(-len(out) % 4)
        return bytes(out)
