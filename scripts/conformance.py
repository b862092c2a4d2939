# SPDX-License-Identifier: Apache-2.0
"""Do our verdicts agree with the kernel's own selftests of sched_ext: `make conformance`.

The selftests' schedulers come from the distribution's linux-source package of the packaged kernel that is nearest (the
private apt configuration of controller/kernel/images.py; nothing is vendored, what was unpacked stays in the cache).
Each is compiled with its own headers against that kernel's BTF, then loaded, attached and given tasks to run in the
micro-VM, and what the verifier says of it is compared with what the selftest's .c file says must happen. EXPECTED has
that per test, with the words in the .c file that say so: they must still be there, or the row is `unknown`, as is every
test without a row. The sources are the distribution's, hence compiled outside the sandbox, which takes no vmlinux.h.

What a selftest's user space would do besides (turn a CPU off, hammer affinities) is not done here. Where we ask for
more than the kernel does, that is told beside, and is no disagreement: `audit` takes no other programs in a scheduler's
object, and an object with several tables of operations, of which user space attaches one after the other, is
`stricter`: a passport speaks of one scheduler.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from controller.errors import CandidateRejected, CouldNotTell, KernelError, SchedctlError, ToolMissing  # noqa: E402
from controller.kernel import clang, images  # noqa: E402
from controller.kernel.images import KernelImage  # noqa: E402
from controller.kernel.microvm import Guest, boot  # noqa: E402
from controller.paths import cache_dir  # noqa: E402
from controller.verify.audit import audit  # noqa: E402
from controller.verify.load import LoadRejected, load  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "conformance.json"
TESTS = "tools/testing/selftests/sched_ext"
_WANTED = re.compile(
    rf"[^/]+/(?:{TESTS}/.*|tools/sched_ext/include/.*|tools/lib/bpf/\w+(?:\.bpf)?\.h|include/uapi/linux/bpf\.h|"
    r"tools/include/uapi/(?:linux|asm-generic)/[\w-]+\.h|scripts/bpf_doc\.py)"
)
USER_SPACE = {"dsp_local_on": {"nr_cpus": 2}}
"""Read-only variables that a selftest's user space sets before it loads."""

_SEVERAL = "the object must hold exactly one struct sched_ext_ops"
STAYS, LEAVES, ERROR, REFUSED = "stays in charge", "leaves by itself", "thrown out", "refused at load"
_ERROR_KINDS, _BY_BPF = (1024, 1025, 1026), 65


@dataclass(frozen=True, slots=True)
class Expected:
    """What must happen, and the words in the selftest (FILE: pattern) that say so."""

    what: str
    says: str
    file: str = ""
    reason: str = ""
    because: str = ""  # what the kernel or we must say of it: the right outcome for another reason does not agree


_NO_EXIT = r"uei\.kind, EXIT_KIND\(SCX_EXIT_(?:NONE|UNREG)\)"
_ATTACHES = r"bpf_map__attach_struct_ops"
_IS_ERROR = r"uei\.kind, EXIT_KIND\(SCX_EXIT_ERROR\)"
EXPECTED = {
    "allowed_cpus": Expected(STAYS, _NO_EXIT),
    "create_dsq": Expected(STAYS, _ATTACHES),
    "ddsp_bogus_dsq_fail": Expected(ERROR, _IS_ERROR, reason="a DSQ that is not there", because="DSQ 0xcafef00d"),
    "ddsp_vtimelocal_fail": Expected(ERROR, _IS_ERROR, reason="a local DSQ has no virtual time", because="vtime"),
    "dequeue": Expected(STAYS, _NO_EXIT),
    "dequeue_iter": Expected(STAYS, _NO_EXIT),
    "dequeue_remote": Expected(STAYS, _NO_EXIT),
    "dsp_local_on": Expected(STAYS, _NO_EXIT),
    "enable_cmask": Expected(STAYS, _NO_EXIT),
    "enq_last_no_enq_fails": Expected(ERROR, r"exit_kind\)", reason="SCX_OPS_ENQ_LAST without ops.enqueue",
                                       because="SCX_OPS_ENQ_LAST"),
    "enq_select_cpu": Expected(STAYS, _NO_EXIT),
    "exit": Expected(LEAVES, r"EXIT_KIND\(SCX_EXIT_UNREG_BPF\)", reason="the first exit point is select_cpu"),
    "init_enable_count": Expected(STAYS, _ATTACHES),
    "maximal": Expected(STAYS, _ATTACHES),
    "maybe_null": Expected(STAYS, r"maybe_null__open_and_load|run_test"),
    "maybe_null_fail_dsp": Expected(REFUSED, r"maybe_null_fail_dsp__open_and_load", "maybe_null.c",
                                    "ops.dispatch uses prev, which may be NULL", "load/null-pointer"),
    "maybe_null_fail_yld": Expected(REFUSED, r"maybe_null_fail_yld__open_and_load", "maybe_null.c",
                                    "ops.yield uses to, which may be NULL", "load/null-pointer"),
    "minimal": Expected(STAYS, _ATTACHES),
    "non_scx_kfunc_deny": Expected(REFUSED, r"err = non_scx_kfunc_deny__load",
                                   reason="a struct_ops that is no scheduler calls a scheduler's kfunc"),
    "peek_dsq": Expected(STAYS, _NO_EXIT),
    "rt_stall": Expected(STAYS, _NO_EXIT),
    "select_cpu_dfl": Expected(STAYS, _ATTACHES),
    "select_cpu_dfl_nodispatch": Expected(STAYS, _ATTACHES),
    "select_cpu_dispatch": Expected(STAYS, _ATTACHES),
    "select_cpu_dispatch_bad_dsq": Expected(ERROR, _IS_ERROR, reason="a DSQ that is not there, from select_cpu",
                                            because="DSQ"),
    "select_cpu_dispatch_dbl_dsp": Expected(ERROR, _IS_ERROR, reason="two inserts of one task",
                                            because="dispatched|inserted"),
    "select_cpu_vtime": Expected(STAYS, _ATTACHES),
}  # fmt: skip
"""By the name of the .bpf.c file. Not here, hence unknown: what only its own user space brings about (cyclic_kick_wait,
hotplug, nohz_tick, numa and prog_run: it takes CPUs off line, sets flags in the table or runs programs)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One selftest: what it says must happen, what our verdict is, and whether they agree."""

    test: str
    expected: str
    got: str
    agrees: str
    detail: str
    audit: str


def source_of(release: str) -> Path:
    """The unpacked parts of the linux-source package nearest to the kernel `release`, from the cache or the archive."""
    series = ".".join(release.split("+")[0].split(".")[:2])
    kept = cache_dir() / "selftests"
    here = {path.name: path for path in kept.glob("linux-source-*") if (path / TESTS).is_dir()}
    if f"linux-source-{series}" in here:
        return here[f"linux-source-{series}"]
    if os.environ.get("SCHEDCTL_OFFLINE") == "1":
        raise ToolMissing(
            f"the selftests of Linux {series} are not in {kept}, and SCHEDCTL_OFFLINE=1 forbids fetching",
            remedy="with a network: SCHEDCTL_OFFLINE=0 make conformance",
        )
    archive = images._Archive.open()
    offered = sorted(
        (name for name in archive.package_names() if re.fullmatch(r"linux-source-\d+\.\d+", name)),
        key=lambda name: _distance(name, series),
    )
    if not offered:
        raise ToolMissing("the archive has no linux-source package", remedy="apt-get update, or run it later")
    package = offered[0]
    if package not in here:
        _unpack(archive, package, kept)
    return kept / package


def _distance(package: str, series: str) -> tuple[int, int]:
    (a, b), (c, d) = (tuple(map(int, text.split("."))) for text in (package.removeprefix("linux-source-"), series))
    return abs(a - c), abs(b - d)


def _unpack(archive: images._Archive, package: str, kept: Path) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=kept) as work:
        deb = archive.download([package], Path(work))[0]
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as outer:
            with tarfile.open(fileobj=outer.stdout, mode="r|") as package_tar:
                for member in package_tar:
                    inner = package_tar.extractfile(member) if member.name.endswith(".tar.xz") else None
                    if inner is not None:
                        with tarfile.open(fileobj=inner, mode="r|xz") as tree:
                            _extract(tree, Path(work) / "tree")
            outer.stdout and outer.stdout.close()
        tree_of = Path(work) / "tree"
        if not (tree_of / TESTS).is_dir():
            raise CouldNotTell(f"{package} holds no {TESTS}", remedy="try again with another kernel")
        tree_of.rename(kept / package)


def _extract(tree: tarfile.TarFile, into: Path) -> None:
    """Plain files whose path is wanted, without the first folder of their path."""
    for member in tree:
        if not member.isfile() or not _WANTED.fullmatch(member.name) or ".." in member.name.split("/"):
            continue
        content = tree.extractfile(member)
        target = into / member.name.partition("/")[2]
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            target.write_bytes(content.read())


def headers(source: Path, kernel: KernelImage) -> Path:
    """A folder with the kernel's vmlinux.h, libbpf's headers and the few others that the selftests include."""
    folder = source / f"headers-{kernel.release}"
    if (folder / "vmlinux.h").is_file():
        return folder
    for subfolder in ("bpf", "asm"):
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
    for header in (source / "tools/lib/bpf").glob("*.h"):
        shutil.copy(header, folder / "bpf")
    defs = [sys.executable, str(source / "scripts/bpf_doc.py"), "--header", "--file"]
    defs.append(str(source / "include/uapi/linux/bpf.h"))
    (folder / "bpf" / "bpf_helper_defs.h").write_bytes(_output(defs))
    (folder / "asm" / "errno.h").write_text("#include <asm-generic/errno.h>\n")
    with tempfile.TemporaryDirectory() as work:
        elf = Path(work) / "vmlinux"
        elf.write_bytes(_elf(kernel.path))
        text = _output(["bpftool", "btf", "dump", "file", str(elf), "format", "c"])
    part = folder / "vmlinux.h.part"
    part.write_bytes(text)
    part.rename(folder / "vmlinux.h")
    return folder


def _elf(vmlinuz: Path) -> bytes:
    """The kernel inside a boot image: whichever decompressor makes an ELF file of what follows its magic number."""
    image = vmlinuz.read_bytes()
    for magic, tool in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"), (b"\x1f\x8b\x08", "gzip")):
        at = image.find(magic)
        while at >= 0:
            done = subprocess.run([tool, "-dc"], input=image[at:], capture_output=True, check=False)
            if done.stdout.startswith(b"\x7fELF"):  # what follows the payload makes the tool complain
                return done.stdout
            at = image.find(magic, at + 1)
    raise CouldNotTell(f"unpacking {vmlinuz}: it is packed in no known way", remedy="install zstd and xz-utils")


def _output(command: Sequence[str]) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    except FileNotFoundError as error:
        raise ToolMissing(f"{command[0]} is not on this machine", remedy=f"apt-get install {command[0]}") from error
    if done.returncode:
        raise CouldNotTell(f"`{command[0]} {command[1]}` fails: {done.stderr.decode('utf-8', 'replace')[-300:]}")
    return done.stdout


def compile_test(name: str, source: Path, folder: Path) -> bytes:
    """The object of one selftest; CandidateRejected("build") with clang's first words when it does not compile."""
    tests = source / TESTS
    includes = [tests / "include", tests / "include/bpf-compat", folder, source / "tools/sched_ext/include"]
    includes += [tests, source / "tools/include/uapi"]
    flags = [
        "-g",
        "-O2",
        "-mcpu=v3",
        "-target",
        "bpf",
        "-D__TARGET_ARCH_x86",
        "-mlittle-endian",
        "-fms-extensions",
        "-w",
    ]
    flags += ["-Wno-incompatible-function-pointer-types"]
    command = [str(clang.find().binary), *flags, *(f"-I{path}" for path in includes), "-c", f"{name}.bpf.c", "-o", "-"]
    done = subprocess.run(command, cwd=tests, capture_output=True, check=False, timeout=120)
    if done.returncode:
        said = re.search(r"error: .*", done.stderr.decode("utf-8", "replace"))
        raise CandidateRejected("build", said[0] if said else "it does not compile")
    return done.stdout


def initialised(image: bytes, values: dict[str, int]) -> bytes:
    """The object with the read-only variables in `values` set, which is what its user space does before loading.

    Among them are the kernel's enums: scx/enums.autogen.bpf.h has a variable __SCX_NAME for SCX_NAME.
    """
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    elf = ELFFile(io.BytesIO(image))
    symbols = elf.get_section_by_name(".symtab")
    if not isinstance(symbols, SymbolTableSection):
        return image
    changed = bytearray(image)
    for symbol in symbols.iter_symbols():
        value, index, size = values.get(symbol.name), symbol["st_shndx"], symbol["st_size"]
        if value is None or not isinstance(index, int) or size not in (1, 2, 4, 8):
            continue
        section = elf.get_section(index)
        if section.name.startswith(".rodata"):
            at = section["sh_offset"] + symbol["st_value"]
            changed[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(changed)


def enums(vmlinux_h: Path) -> dict[str, int]:
    """{__SCX_NAME: value} of every enumerator SCX_NAME of the kernel."""
    rows = re.findall(r"^\t(SCX_\w+) = (-?\d+)U?L*,", vmlinux_h.read_text(encoding="utf-8"), re.MULTILINE)
    return {f"__{name}": int(value) for name, value in rows}


def verdict(guest: Guest, image: bytes) -> tuple[str, str]:
    """What becomes of the object in the guest, with some tasks to run, and the reason in words."""
    try:
        load(guest, image)
    except LoadRejected as error:
        return REFUSED, f"{error.finding.rule}: {error.message}"
    try:
        guest.attach()
    except KernelError as error:
        status = guest.status()
        if status.exit is None:
            return ERROR, error.message
    else:
        guest.run(["schedload", "wakers", "2", "10000", "0.3"], timeout_s=20)
        guest.run(["schedload", "spin", "3", "0.3"], timeout_s=20)
        status = guest.status()
    if status.exit is None:
        guest.detach()
        return STAYS, ""
    kind = status.exit.kind
    told = f"exit kind {kind}: {status.exit.message or status.exit.reason}"
    return (LEAVES if kind == _BY_BPF else ERROR if kind in _ERROR_KINDS else f"exit kind {kind}"), told


def provide_config(guest: Guest, kernel: KernelImage) -> None:
    """Put the kernel's configuration where libbpf looks for it: scx/common.bpf.h asks for some of it by name."""
    config = kernel.path.with_name("config")
    if config.is_file():
        guest.run(["mkdir", "-p", "/boot"], timeout_s=10)
        guest.write_file(f"/boot/config-{guest.facts.release}", config.read_text(encoding="utf-8"))


def row(name: str, source: Path, folder: Path, kernel: KernelImage, guest: Guest) -> Row:
    """One selftest from its source to the comparison."""
    expected = EXPECTED.get(name)
    wanted = "unknown"
    if expected is not None:
        says = source / TESTS / (expected.file or f"{name}.c")
        if says.is_file() and re.search(expected.says, says.read_text(encoding="utf-8", errors="replace")):
            wanted = expected.what
    audited = ""
    try:
        values = {**enums(folder / "vmlinux.h"), **USER_SPACE.get(name, {})}
        image = initialised(compile_test(name, source, folder), values)
        try:
            audit(image)
        except CandidateRejected as error:
            audited = error.message
        provide_config(guest, kernel)
        got, detail = verdict(guest, image)
    except CandidateRejected as error:
        got, detail = f"rejected by {error.stage}", error.message
    right = expected is not None and got == wanted and re.search(expected.because, detail) is not None
    stricter = got == REFUSED and wanted != REFUSED and _SEVERAL in detail
    agrees = "unknown" if wanted == "unknown" else "yes" if right else "stricter" if stricter else "NO"
    return Row(name, wanted, got, agrees, detail[:300], audited[:200])


def run(kernel: KernelImage, only: str = "") -> list[Row]:
    """Every selftest on `kernel`, each in a guest of its own (from the snapshot, where there is one)."""
    source = source_of(kernel.release)
    folder = headers(source, kernel)
    rows = []
    for path in sorted((source / TESTS).glob("*.bpf.c")):
        name = path.name.removesuffix(".bpf.c")
        if only and only not in name:
            continue
        with boot(kernel.path) as guest:
            rows.append(row(name, source, folder, kernel, guest))
        last = rows[-1]
        print(f"{last.agrees:8} {name:30} expected {last.expected:18} got {last.got:20} {last.detail[:90]}", flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 when nothing disagrees, 1 when something does, 2 when it could not tell."""
    parser = argparse.ArgumentParser(description="Our verdicts against the kernel's sched_ext selftests.")
    parser.add_argument("--kernel", default="newest", help="newest (default), oldest or a release")
    parser.add_argument("--only", default="", metavar="WORD", help="tests with this in their name")
    arguments = parser.parse_args(argv)
    try:
        kernel = images.resolve(arguments.kernel)
        rows = run(kernel, arguments.only)
        source = source_of(kernel.release).name
    except SchedctlError as error:
        print(f"could not tell: {error}", file=sys.stderr)
        return 2
    counts = Counter(r.agrees for r in rows)
    print(
        f"\n{source} on {kernel.release}: {counts['yes']} agree, {counts['NO']} disagree, "
        f"{counts['stricter']} we are stricter with, {counts['unknown']} unknown"
    )
    for each in rows:
        if each.audit:
            print(f"audit asks for more: {each.test}: {each.audit}")
    if not arguments.only:
        document = {
            "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "kernel": kernel.release, "source": source,
            "counts": dict(counts), "rows": [asdict(r) for r in rows],
        }  # fmt: skip
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if counts["NO"] else 0


if __name__ == "__main__":
    sys.exit(main())
