# SPDX-License-Identifier: Apache-2.0
"""Kernel images: which one a name means, what the archive offers, and a real pull."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.errors import CouldNotTell, InputError, SchedctlError, ToolMissing
from controller.kernel import images
from tests.conftest import missing

OFFERED = [
    "linux-image-6.12.90+deb12.1-cloud-amd64",  # before sched_ext
    "linux-image-6.16.3+deb13-cloud-amd64",
    "linux-image-6.16.12+deb13-cloud-amd64",
    "linux-image-6.18.15+deb13-cloud-amd64",
    "linux-image-6.18.15+deb13-cloud-amd64-dbg",
    "linux-image-6.18.15+deb13-cloud-amd64-unsigned",
    "linux-image-6.18.15+deb13-rt-amd64",
    "linux-image-7.3.4+deb13-cloud-amd64",
    "linux-binary-7.3.4+deb13-cloud-amd64",
    "linux-binary-unsigned-7.3.4+deb13-cloud-amd64",
    "linux-image-cloud-amd64",
    "linux-headers-7.3.4+deb13-cloud-amd64",
]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCHEDCTL_CACHE", str(tmp_path))
    return tmp_path


def boot_image(path: Path, release: str) -> Path:
    """A file with the setup header of an x86 boot image, as far as anything but a boot reads it."""
    head = bytearray(0x1000)
    head[0x1FE:0x200] = b"\x55\xaa"
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = (0x600).to_bytes(2, "little")
    text = f"{release} (builder) #1 SMP\0".encode()
    head[0x800 : 0x800 + len(text)] = text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head)
    return path


def pulled(cache: Path, release: str) -> Path:
    return boot_image(cache / "kernels" / release / "vmlinuz", release)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("6.9.1-amd64", "6.16.3+deb13-cloud-amd64"),
        ("6.16.3+deb13-cloud-amd64", "6.16.12+deb13-cloud-amd64"),
        ("6.19.14+deb13-cloud-amd64", "7.0.4+deb13-cloud-amd64"),
        ("7.0-rc1+deb14-cloud-amd64", "7.0-rc12+deb14-cloud-amd64"),
        ("7.0-rc12+deb14-cloud-amd64", "7.0+deb14-cloud-amd64"),
        ("6.12.90+deb12-cloud-amd64", "6.12.90+deb12.1-cloud-amd64"),
    ],
)
def test_releases_are_ordered_by_number_and_not_by_letter(older, newer):
    assert images.version_key(older) < images.version_key(newer)


def test_candidates_are_the_kernels_with_sched_ext_and_the_package_that_holds_each():
    assert (
        images.candidates(OFFERED)
        == images.candidates(reversed(OFFERED))
        == {
            "6.16.3+deb13-cloud-amd64": "linux-image-6.16.3+deb13-cloud-amd64",
            "6.16.12+deb13-cloud-amd64": "linux-image-6.16.12+deb13-cloud-amd64",
            "6.18.15+deb13-cloud-amd64": "linux-image-6.18.15+deb13-cloud-amd64",
            "7.3.4+deb13-cloud-amd64": "linux-binary-7.3.4+deb13-cloud-amd64",
        }
    )


@pytest.mark.parametrize(
    ("which", "release"),
    [
        ("newest", "7.3.4+deb13-cloud-amd64"),
        ("oldest", "6.16.3+deb13-cloud-amd64"),
        ("6.16", "6.16.12+deb13-cloud-amd64"),
        ("6.16.3", "6.16.3+deb13-cloud-amd64"),
        ("6.1", None),
        ("6.*", "6.18.15+deb13-cloud-amd64"),
        ("6.18.15+deb13-cloud-amd64", "6.18.15+deb13-cloud-amd64"),
        ("9", None),
        ("", None),
    ],
)
def test_a_pattern_picks_the_newest_release_it_matches(which, release):
    assert images.choose(images.candidates(OFFERED), which) == release


def test_newest_and_oldest_are_of_those_pulled(cache):
    for release in ("6.9.1-cloud-amd64", "6.16.3-cloud-amd64", "7.3.4-cloud-amd64"):
        pulled(cache, release)
    assert images.resolve("newest").release == "7.3.4-cloud-amd64"
    assert images.resolve("oldest").release == "6.9.1-cloud-amd64"
    assert images.resolve("6.16.3-cloud-amd64") == images.find_by_release("6.16.3-cloud-amd64")


def test_a_path_is_known_by_the_release_in_its_header(cache, tmp_path):
    image = images.resolve(str(boot_image(tmp_path / "odd name", "7.1.2-mine")))
    assert (image.release, image.source) == ("7.1.2-mine", "file")


def test_whether_it_has_sched_ext_is_in_the_configuration_beside_it(cache):
    path = pulled(cache, "7.3.4-cloud-amd64")
    image = images.resolve("newest")
    assert image.has_sched_ext is None
    path.with_name("config").write_text("#\nCONFIG_SCHED_CLASS_EXT=y\n")
    assert image.has_sched_ext is True
    path.with_name("config").write_text("#\n# CONFIG_SCHED_CLASS_EXT is not set\n")
    assert image.has_sched_ext is False


@pytest.mark.parametrize("name", ["", "latest", "../newest\n", "vmlinuz", "-o"])
def test_a_name_that_can_mean_nothing_is_refused(cache, name):
    with pytest.raises(InputError) as caught:
        images.resolve(name)
    assert caught.value.remedy


def test_a_file_that_is_no_image_is_refused(cache, tmp_path):
    text = tmp_path / "vmlinuz"
    text.write_text("not a kernel")
    with pytest.raises(InputError, match="is not an x86 Linux boot image"):
        images.resolve(str(text))
    with pytest.raises(InputError, match="No such file"):
        images.resolve(str(tmp_path / "nothing"))


@pytest.mark.parametrize("name", ["newest", "oldest", "6.99.1-cloud-amd64"])
def test_an_image_that_is_not_here_names_the_command_that_fetches_it(cache, name):
    with pytest.raises(ToolMissing) as caught:
        images.resolve(name)
    assert caught.value.remedy == f"schedctl kernel pull {name}"


def test_offline_finds_what_is_here_and_names_what_is_not(cache, monkeypatch):
    monkeypatch.setenv("SCHEDCTL_OFFLINE", "1")
    pulled(cache, "6.16.3-cloud-amd64")
    assert images.pull("newest").release == "6.16.3-cloud-amd64"
    with pytest.raises(ToolMissing, match="SCHEDCTL_OFFLINE=1"):
        images.pull("7")
    assert not (cache / "apt").exists()


def test_a_release_that_is_here_is_not_fetched_again(cache):
    path = pulled(cache, "6.16.3-cloud-amd64")
    assert images.pull("6.16.3-cloud-amd64").path == path
    assert not (cache / "apt").exists()


def test_pulls_a_real_kernel_and_leaves_the_system_alone(cache):
    sources = Path("/etc/apt")
    before = sorted((str(file), file.stat().st_mtime_ns) for file in sources.rglob("*"))
    try:
        image = images.pull("newest")
    except (ToolMissing, CouldNotTell) as error:
        missing(f"the package archive ({error.message})", "a network and apt's sources")
    assert images.release_of(image.path) == image.release
    assert image.has_sched_ext is not False
    assert [entry.name for entry in (cache / "kernels").iterdir()] == [image.release]  # no work folder stays
    inode = image.path.stat().st_ino
    assert images.pull("newest").path.stat().st_ino == inode
    with pytest.raises(SchedctlError, match=r"no kernel image of .* matches '5\.4'"):
        images.pull("5.4")
    assert before == sorted((str(file), file.stat().st_mtime_ns) for file in sources.rglob("*"))
