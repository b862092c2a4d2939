# SPDX-License-Identifier: Apache-2.0
"""Compiles an untrusted BPF scheduler: clang in a bubblewrap sandbox that holds clang and nothing else.

The sandbox has no network, no /proc, no /dev, none of this machine's files but clang's own binary and the libraries it
is linked with (read-only), and the one folder of headers that a candidate may include. Source goes in and object comes
out through descriptors of unnamed files; CPU time, address space, output size and wall time are limited. Compilation is
two runs of clang: preprocess, look at the result (`c_screen`), then compile exactly that text. Diagnostics are kept
only where they speak of the candidate's own lines, so that no other file's text can come out in a message.

A verdict needs the sandbox: without bubblewrap, or if it cannot be set up, nothing is compiled and nothing passes.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from controller.errors import CouldNotTell, DeadlineExceeded, ToolMissing
from controller.kernel.c_screen import BuildRejected, screen, screen_expanded

MINIMUM = 17
PREPROCESS_SECONDS = 3
COMPILE_SECONDS = 7
"""CPU time of the two runs of clang: 10 s together, of which a scheduler takes 0.2."""
ADDRESS_SPACE = 1 << 30
OUTPUT_BYTES = 8 << 20
WALL_SECONDS = 60
MAX_DIAGNOSTICS = 64 << 10
CANDIDATE = "candidate.bpf.c"

_REMEDY = "make setup"
_DIAGNOSTIC = re.compile(rf"^{re.escape(CANDIDATE)}:(\d+):(\d+): (fatal error|error|warning|note): (.*)$")
_FLAGS = (
    *("-target", "bpf", "-std=gnu11", "-O2", "-g", "-Wall", "-nostdinc", "-mcpu=v3"),
    # BTF is made of the debug information; asking for CodeView, which no ELF target has, leaves the DWARF out.
    *("-gcodeview", "-fno-addrsig"),
    *("-fno-caret-diagnostics", "-fno-color-diagnostics", "-fno-crash-diagnostics", "-ferror-limit=20"),
    *("-fmacro-backtrace-limit=1", "-fno-ident", "-ffile-compilation-dir=.", "-Werror=date-time"),
)


@dataclass(frozen=True, slots=True)
class Clang:
    """One usable clang: the real binary (not a link), the whole version, and the libraries it is linked with."""

    binary: Path
    version: str
    libraries: tuple[tuple[str, Path], ...]


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """What clang says of one place in the candidate; `severity` is `error`, `warning` or `note`."""

    line: int
    column: int
    severity: str
    message: str

    def __str__(self) -> str:
        return f"{CANDIDATE}:{self.line}:{self.column}: {self.severity}: {self.message}"


@dataclass(frozen=True, slots=True)
class CompiledObject:
    """A relocatable BPF object, and clang's warnings."""

    object: bytes
    diagnostics: tuple[Diagnostic, ...]
    clang: str


@dataclass(frozen=True, slots=True)
class _Run:
    code: int
    stdout: bytes
    diagnostics: tuple[Diagnostic, ...]
    memory_out: bool
    cpu_seconds: int
    """How much it was given."""


def find() -> Clang:
    """The clang to use: SCHEDCTL_CLANG when it is set, else the newest on the PATH. Raises ToolMissing."""
    named = os.environ.get("SCHEDCTL_CLANG")
    names = [named] if named else ["clang", *(f"clang-{n}" for n in range(40, MINIMUM - 1, -1))]
    found = [path for path in (shutil.which(name) for name in names) if path]
    if not found:
        raise ToolMissing(f"cannot compile: no {named or 'clang'} on this machine", remedy=_REMEDY)
    clangs = [_examine_clang(path) for path in found]
    best = max(clangs, key=lambda c: _numbers(c.version))
    if _numbers(best.version)[0] < MINIMUM:
        raise ToolMissing(
            f"cannot compile: {best.binary} is clang {best.version}, and before {MINIMUM} its objects with weak kfuncs "
            "are refused by libbpf",
            remedy=_REMEDY,
        )
    return best


def compile_bpf(source: str, include: Path) -> CompiledObject:
    """Compile the C text `source`, which may include the headers in the folder `include` and no others.

    Raises BuildRejected (a CandidateRejected) with the line for anything the candidate did: a construct that is not
    allowed, an error, a limit exceeded, a compiler crash. Raises ToolMissing without clang or bubblewrap,
    CouldNotTell when the sandbox cannot be set up, DeadlineExceeded when this machine was too slow to tell. 0.3 s.
    """
    if not include.is_dir():
        raise CouldNotTell(f"compiling: the headers' folder {include} is not there", remedy="reinstall schedctl")
    headers = {str(path.relative_to(include)) for path in sorted(include.rglob("*.h")) if path.is_file()}
    screen(source, headers)
    text = _utf8(source)
    sandbox = _programs()
    clang = find()
    expanded = _run(
        sandbox, clang, text, include, ("-E", "-x", "c", CANDIDATE), stdin=b"", cpu_seconds=PREPROCESS_SECONDS
    )
    _judge(expanded, "preprocessing")
    screen_expanded(expanded.stdout.decode("utf-8", "replace"))
    # The candidate and the headers stay visible: clang copies source lines into BTF, for the kernel's verifier log.
    compiled = _run(
        sandbox, clang, text, include, ("-c", "-x", "cpp-output", "-"),
        stdin=expanded.stdout, cpu_seconds=COMPILE_SECONDS,
    )  # fmt: skip
    _judge(compiled, "compiling")
    return CompiledObject(compiled.stdout, compiled.diagnostics, clang.version)


def _utf8(source: str) -> bytes:
    try:
        return source.encode()
    except UnicodeEncodeError as error:
        raise BuildRejected("the source is not Unicode text") from error


def _judge(run: _Run, doing: str) -> None:
    errors = [d for d in run.diagnostics if d.severity in ("error", "fatal error")]
    evidence = "\n".join(map(str, run.diagnostics))[:MAX_DIAGNOSTICS]
    number = -run.code if run.code < 0 else run.code - 128  # the sandbox reports a signal as 128 + its number
    if run.code in (126, 127):  # said by prlimit and by the loader: clang itself never ran
        raise CouldNotTell(f"{doing}: clang does not start in the sandbox", remedy="see: schedctl doctor")
    if run.memory_out:
        problem = f"{doing} it takes more than {ADDRESS_SPACE >> 30} GiB of memory"
    elif number in (signal.SIGXCPU, signal.SIGKILL):
        problem = f"{doing} it takes more than {run.cpu_seconds} s of CPU time"
    elif number == signal.SIGXFSZ or len(run.stdout) >= OUTPUT_BYTES:
        problem = f"{doing} it gives more than {OUTPUT_BYTES >> 20} MiB"
    elif errors:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise BuildRejected(f"it does not compile: {first.message}{more}", first.line, evidence=evidence)
    elif number > 0:
        problem = f"{doing} it crashes clang ({signal.Signals(number).name if number < 65 else number})"
    elif run.code:
        problem = f"{doing} it fails outside the candidate's own lines (clang exits {run.code})"
    elif not run.stdout:
        problem = f"{doing} it gives nothing"
    else:
        return
    raise BuildRejected(problem, evidence=evidence, remedy="make the scheduler simpler")


def _programs() -> tuple[str, str]:
    """bubblewrap and prlimit, without which no untrusted C is compiled."""
    found = shutil.which("bwrap"), shutil.which("prlimit")
    if found[0] is None or found[1] is None:
        missing = "bwrap (bubblewrap)" if found[0] is None else "prlimit (util-linux)"
        raise ToolMissing(f"cannot compile untrusted C: no {missing} on this machine", remedy=_REMEDY)
    return found[0], found[1]


def _run(
    programs: tuple[str, str],
    clang: Clang,
    source: bytes,
    include: Path,
    arguments: tuple[str, ...],
    *,
    stdin: bytes,
    cpu_seconds: int,
) -> _Run:
    bwrap, prlimit = programs
    with ExitStack() as stack:

        def unnamed(content: bytes = b"") -> IO[bytes]:
            file = stack.enter_context(tempfile.TemporaryFile())
            file.write(content)
            file.flush()
            file.seek(0)
            return file

        text, given, stdout, stderr, status = unnamed(source), unnamed(stdin), unnamed(), unnamed(), unnamed()
        limits = [f"--cpu={cpu_seconds}", f"--as={ADDRESS_SPACE}", f"--fsize={OUTPUT_BYTES}", "--core=0", "--nofile=64"]
        sandbox = _sandbox(bwrap, clang, prlimit, include, text.fileno(), status.fileno())
        # The limits bind clang alone: bubblewrap has its own needs.
        command = [
            *sandbox,
            str(_examine_program(prlimit)[0]),
            *limits,
            str(clang.binary),
            *_FLAGS,
            "-Iinclude",
            *arguments,
            "-o",
            "-",
        ]
        _wait(
            subprocess.Popen(
                command,
                stdin=given,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(text.fileno(), status.fileno()),
                env={},
                start_new_session=True,
            ),
            cpu_seconds,
        )
        for file in (stdout, stderr, status):
            file.seek(0)
        said = stderr.read(MAX_DIAGNOSTICS).decode("utf-8", "replace")
        code = _exit_code(status.read(4096))
        if code is None:
            raise CouldNotTell(
                f"cannot compile untrusted C: the sandbox cannot be set up: {said.strip()[:300]}",
                remedy="allow bubblewrap user namespaces (sysctl user.max_user_namespaces), or run as root",
            )
        memory_out = "out of memory" in said or "bad_alloc" in said
        return _Run(code, stdout.read(OUTPUT_BYTES + 1), _diagnostics(said), memory_out, cpu_seconds)


def _sandbox(bwrap: str, clang: Clang, prlimit: str, include: Path, source: int, status: int) -> list[str]:
    limiter, limiter_libraries = _examine_program(prlimit)
    binds = {str(limiter): limiter, str(clang.binary): clang.binary, **dict((*clang.libraries, *limiter_libraries))}
    # Without /proc the loader does not know $ORIGIN, relative to which clang looks for its libraries.
    folders = ":".join(sorted({os.path.dirname(inside) for inside, _ in clang.libraries}))  # noqa: PTH120
    return [
        bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
        "--clearenv", "--setenv", "LD_LIBRARY_PATH", folders, "--json-status-fd", str(status),
        "--size", str(OUTPUT_BYTES), "--tmpfs", "/work", "--chdir", "/work",
        "--ro-bind", str(include), "/work/include",
        "--perms", "0444", "--ro-bind-data", str(source), f"/work/{CANDIDATE}",
        *(word for inside, outside in sorted(binds.items()) for word in ("--ro-bind", str(outside), inside)),
        "--remount-ro", "/", "--",
    ]  # fmt: skip


def _wait(process: subprocess.Popen[bytes], cpu_seconds: int) -> None:
    try:
        # Popen.wait with a timeout looks every 50 ms: up to a quarter of what a compilation takes.
        pidfd = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            ended = poll.poll(WALL_SECONDS * 1000)
        finally:
            os.close(pidfd)
        process.wait(timeout=None if ended else 0)
    except BaseException as error:
        process.kill()  # bubblewrap's end ends the process-id namespace and with it clang
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise DeadlineExceeded(
                f"compiling took more than {WALL_SECONDS} s without using {cpu_seconds} s of CPU time",
                remedy="run it again when this machine is less busy",
            ) from error
        raise


def _exit_code(status: bytes) -> int | None:
    """The sandboxed program's exit code; None when bubblewrap never started it."""
    for line in status.splitlines():
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, dict) and isinstance(document.get("exit-code"), int):
            return int(document["exit-code"])
    return None


def _diagnostics(said: str) -> tuple[Diagnostic, ...]:
    found = []
    for line in said.splitlines():
        match = _DIAGNOSTIC.match(line)
        if match:
            severity = "error" if match[3] == "fatal error" else match[3]
            found.append(Diagnostic(max(int(match[1]), 1), int(match[2]), severity, match[4][:1000]))
    return tuple(found)


@lru_cache(maxsize=32)
def _examine_clang(path: str) -> Clang:
    binary, libraries = _examine_program(path)
    match = re.search(r"clang version (\d+(?:\.\d+)*)", _output([str(binary), "--version"]))
    if match is None:
        raise ToolMissing(f"cannot compile: {path} does not call itself clang", remedy=_REMEDY)
    return Clang(binary, match[1], libraries)


@lru_cache(maxsize=32)
def _examine_program(path: str) -> tuple[Path, tuple[tuple[str, Path], ...]]:
    """The real file of a program of ours and (path that the loader asks for, real file) of each of its libraries."""
    binary = Path(path).resolve()
    libraries = re.findall(r"^\s*(?:\S+ => )?(/\S+) \(0x", _output(["ldd", str(binary)]), re.MULTILINE)
    return binary, tuple((os.path.normpath(name), Path(name).resolve()) for name in libraries)


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolMissing(f"cannot compile: {command[0]} does not run: {error}", remedy=_REMEDY) from error
    return done.stdout


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
