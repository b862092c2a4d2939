# SPDX-License-Identifier: Apache-2.0
"""Kernel images to boot: what is on this machine, and what Debian's archive still offers.

Debian builds sched_ext into the kernels of trixie-backports (6.16 and later) and not into the 6.12 kernels
of trixie and bookworm-backports, so images come from that one suite whatever release this machine runs. The
archive's address is the one this machine's apt already uses, the suite is added in a private apt
configuration below the cache, and versions are resolved by pattern when fetched, because old ones leave the
archive. Only the vmlinuz and its config are unpacked; nothing is installed. `newest` and `oldest` mean, for
`pull`, of what the archive offers, and for `resolve`, of what was pulled.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from controller.errors import CouldNotTell, InputError, ToolMissing
from controller.paths import cache_dir

SUITE = "trixie-backports"
FIRST_WITH_SCHED_EXT = (6, 16)  # Debian's 6.12 is built without CONFIG_SCHED_CLASS_EXT
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PACKAGE = re.compile(r"linux-(image|binary)-(\d[^_]*-cloud-amd64)")
_BOOT_FILE = re.compile(r"(?:\./)?(?:boot/(vmlinuz|config)-[^/]+|usr/lib/modules/[^/]+/(vmlinuz|config))")
_BOOT = Path("/boot")


@dataclass(frozen=True, slots=True)
class KernelImage:
    """One bootable vmlinuz: `release` is what `uname -r` says in it; `source` is archive, boot or file."""

    release: str
    path: Path
    source: str

    @property
    def has_sched_ext(self) -> bool | None:
        """What the build configuration beside the image says; None without one (then only booting tells)."""
        for config in (self.path.with_name("config"), self.path.with_name(f"config-{self.release}")):
            try:
                return "\nCONFIG_SCHED_CLASS_EXT=y\n" in config.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
        return None


def version_key(release: str) -> tuple[tuple[int, ...], bool, tuple[int, ...]]:
    """Order as the kernel numbers releases: 6.9 < 6.16 < 7.0-rc1 < 7.0; the packager's suffix breaks ties."""
    number = re.match(r"\d+(?:\.\d+)*", release)
    if number is None:
        return (), False, ()
    rest = release[number.end() :].removesuffix("-amd64")
    digits = tuple(int(part) for part in number.group().split("."))
    return digits, not re.match(r"[-~]?rc\d", rest), tuple(int(part) for part in re.findall(r"\d+", rest))


def release_of(path: Path) -> str:
    """The release an x86 boot image carries in its setup header; InputError when it is not such an image."""
    try:
        with path.open("rb") as file:
            head = file.read(0x10000)
    except OSError as error:
        raise InputError(
            f"reading the kernel image {path}: {error.strerror}",
            remedy="give a readable vmlinuz, or see: schedctl kernel list",
        ) from error
    if len(head) > 0x210 and head[0x202:0x206] == b"HdrS":
        (offset,) = struct.unpack_from("<H", head, 0x20E)
        words = head[offset + 0x200 :].split(b"\0", 1)[0].decode("ascii", "replace").split()
        if offset and words:
            return words[0]
    raise InputError(
        f"{path} is not an x86 Linux boot image (vmlinuz)", remedy="see the usable ones: schedctl kernel list"
    )


def list_images() -> list[KernelImage]:
    """The images on this machine, oldest release first: those pulled into the cache, then those of /boot."""
    pulled = [KernelImage(path.parent.name, path, "archive") for path in _kernels_dir().glob("*/vmlinuz")]
    boot = [
        KernelImage(path.name.removeprefix("vmlinuz-"), path, "boot")
        for path in _BOOT.glob("vmlinuz-*")
        if not path.name.endswith(".old")
    ]
    return sorted([*pulled, *boot], key=lambda image: (version_key(image.release), image.source))


def find_by_release(release: str) -> KernelImage | None:
    """The image on this machine that boots exactly this release, or None."""
    return next((image for image in list_images() if image.release == release), None)


def resolve(name: str) -> KernelImage:
    """`newest`, `oldest` (of those pulled), `node` (the running kernel's own), a release, or a path.

    ToolMissing with the command that fetches it when it is not here; InputError for a file that is no image.
    """
    if name in ("newest", "oldest"):
        pulled = [image for image in list_images() if image.source == "archive"]
        if not pulled:
            raise ToolMissing(
                f"no kernel image has been pulled, so there is no {name} one",
                remedy=f"schedctl kernel pull {name}",
            )
        return pulled[-1] if name == "newest" else pulled[0]
    if name == "node":
        release = os.uname().release
        image = find_by_release(release)
        if image is None:
            raise ToolMissing(
                f"the running kernel's own image /boot/vmlinuz-{release} is not there",
                remedy="name another: --kernel newest (schedctl kernel pull newest)",
            )
        return image
    if "/" in name:
        path = Path(name).absolute()
        return KernelImage(release_of(path), path, "file")
    if not re.fullmatch(r"\d[\w.+~-]*", name):
        raise InputError(
            f"{name!r} is not a kernel image: give newest, oldest, node, a release or a path",
            remedy="schedctl kernel list",
        )
    image = find_by_release(name)
    if image is None:
        raise ToolMissing(f"kernel image {name} is not on this machine", remedy=f"schedctl kernel pull {name}")
    return image


def pull(which: str) -> KernelImage:
    """Fetch the `newest` or `oldest` image the archive offers, or the newest whose release matches a pattern.

    A pattern is a release, a beginning of one (`6.18`), or a glob (`7.*`). An image that is here already is
    not fetched again. Asks the archive (about 1 s, and 14 to 50 MB for the image itself) unless an exact
    release is in the cache; with SCHEDCTL_OFFLINE=1 it never asks and only what is in the cache is found.
    """
    here = {image.release: image for image in list_images() if image.source == "archive"}
    if which in here:
        return here[which]
    if os.environ.get("SCHEDCTL_OFFLINE") == "1":
        release = choose(here, which)
        if release is None:
            raise ToolMissing(
                f"no kernel image for {which!r} in {_kernels_dir()}, and SCHEDCTL_OFFLINE=1 forbids fetching",
                remedy=f"with a network: SCHEDCTL_OFFLINE=0 schedctl kernel pull {which}",
            )
        return here[release]
    archive = _Archive.open()
    names = archive.package_names()
    offered = candidates(names)
    release = choose(offered, which)
    if release is None:
        ordered = sorted(offered, key=version_key)
        span = f"{ordered[0]} to {ordered[-1]}" if ordered else "none at all"
        raise InputError(
            f"no kernel image of {SUITE} matches {which!r}; it offers {span}",
            remedy="schedctl kernel pull newest",
        )
    if release in here:
        return here[release]
    config = f"linux-base-{release}"  # since 6.19 the config has a package of its own
    return _fetch(archive, release, [offered[release], *([config] if config in names else [])])


def candidates(packages: Iterable[str]) -> dict[str, str]:
    """{release: package that holds its vmlinuz} for the cloud kernels with sched_ext among `packages`.

    Until 6.18 linux-image-* holds the vmlinuz; from 6.19 it is a shell and linux-binary-* holds it.
    """
    found: dict[str, str] = {}
    for package in packages:
        match = _PACKAGE.fullmatch(package)
        if match and version_key(match[2])[0] >= FIRST_WITH_SCHED_EXT:
            kind, release = match.groups()
            if kind == "binary" or release not in found:
                found[release] = package
    return found


def choose(releases: Iterable[str], which: str) -> str | None:
    """The release that `newest`, `oldest` or a pattern (beginning of a release, or glob) picks, or None."""
    ordered = sorted(releases, key=version_key)
    if which in ("newest", "oldest"):
        return (ordered[-1] if which == "newest" else ordered[0]) if ordered else None
    if not which:
        return None
    matching = [
        release
        for release in ordered
        if fnmatch.fnmatchcase(release, which) or re.match(re.escape(which) + r"(?!\d)", release)
    ]
    return matching[-1] if matching else None


def _kernels_dir() -> Path:
    return cache_dir() / "kernels"


def _fetch(archive: _Archive, release: str, packages: list[str]) -> KernelImage:
    """Unpack vmlinuz and config of `packages` into the cache; other processes see all of it or nothing."""
    kernels = _kernels_dir()
    kernels.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=kernels) as work:
        staging = Path(work, "image")
        staging.mkdir(mode=0o755)
        for deb in archive.download(packages, Path(work)):
            _unpack_boot_files(deb, staging)
        vmlinuz = staging / "vmlinuz"
        if not vmlinuz.is_file():
            raise CouldNotTell(
                f"fetching kernel {release}: {', '.join(packages)} holds no vmlinuz",
                remedy="try another: schedctl kernel pull oldest",
            )
        release_of(vmlinuz)
        target = kernels / release
        try:
            staging.rename(target)
        except OSError:  # another pull was faster
            if not (target / "vmlinuz").is_file():
                raise
    return KernelImage(release, target / "vmlinuz", "archive")


def _unpack_boot_files(deb: Path, into: Path) -> None:
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as dpkg,
        tarfile.open(fileobj=dpkg.stdout, mode="r|") as tar,
    ):
        for member in tar:
            match = _BOOT_FILE.fullmatch(member.name)
            source = tar.extractfile(member) if match and member.isfile() else None
            if match and source:
                with Path(into, match[1] or match[2]).open("wb") as file:
                    shutil.copyfileobj(source, file)
    if dpkg.returncode:
        raise CouldNotTell(f"unpacking {deb.name}: dpkg-deb exits {dpkg.returncode}", remedy="run it again")


class _Archive:
    """The backports suite through a private apt configuration; the system's own sources stay as they are."""

    def __init__(self, root: Path) -> None:
        self._options = [
            *("-o", f"Dir::Etc::sourcelist={root / 'sources.list'}", "-o", "Dir::Etc::sourceparts=-"),
            *("-o", f"Dir::State::Lists={root / 'lists'}", "-o", f"Dir::Cache={root / 'cache'}"),
            *("-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20"),
        ]

    @classmethod
    def open(cls) -> _Archive:
        """Write the configuration and bring its index up to date."""
        root = cache_dir() / "apt"
        for folder in ("lists/partial", "cache/archives/partial"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        if not KEYRING.is_file():
            raise ToolMissing(
                f"the archive's keys {KEYRING} are not there", remedy="apt-get install debian-archive-keyring"
            )
        source = f"deb [arch=amd64 signed-by={KEYRING}] {_archive_address()} {SUITE} main\n"
        (root / "sources.list").write_text(source, encoding="utf-8")
        archive = cls(root)
        archive._run("apt-get", "-qq", "--error-on=any", "update", doing=f"reading the index of {SUITE}")
        return archive

    def package_names(self) -> set[str]:
        text = self._run("apt-cache", "pkgnames", "linux-", doing="listing kernel packages")
        return set(text.split())

    def download(self, packages: list[str], into: Path) -> list[Path]:
        self._run("apt-get", "-qq", "download", *packages, doing=f"fetching {', '.join(packages)}", cwd=into)
        return sorted(into.glob("*.deb"))

    def _run(self, tool: str, *arguments: str, doing: str, cwd: Path | None = None) -> str:
        return _apt([tool, *self._options, *arguments], doing, cwd)


def _archive_address() -> str:
    """The address of the Debian archive in this machine's own apt configuration."""
    codename = os_codename()
    by_index = ["Created-By: Packages", f"Codename: {codename}", "Origin: Debian"]
    # Before the first apt-get update only what the sources themselves say is known.
    by_source = ["Created-By: Packages", f"Release: {codename}", "Component: main"]
    for wanted in (by_index, by_source):
        command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted]
        addresses = _apt(command, "reading apt's configuration").split()
        if addresses:
            return addresses[0]
    raise ToolMissing(
        f"fetching kernels: this machine's apt knows no Debian archive for {codename or 'its release'}",
        remedy="add Debian's main archive to /etc/apt/sources.list.d, or name a kernel by path",
    )


def os_codename() -> str:
    """This Debian's code name, such as `trixie`; "" when it does not say."""
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return ""
    match = re.search(r'^VERSION_CODENAME="?([\w-]+)"?$', text, re.MULTILINE)
    return match[1] if match else ""


def _apt(command: list[str], doing: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise ToolMissing(
            f"{doing}: {command[0]} is not on this machine", remedy="use a Debian, or name a kernel by path"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise CouldNotTell(f"{doing}: no answer in 600 s", remedy="check the network") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ToolMissing(
            f"{doing}: {said[-1] if said else f'{command[0]} exits {done.returncode}'}",
            remedy="check the network and apt's sources, or use what is here: schedctl kernel list",
        )
    return done.stdout
