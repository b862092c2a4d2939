# SPDX-License-Identifier: Apache-2.0
"""Real kernel images, objects compiled from the fixtures, and one booted guest a module."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.errors import ToolMissing
from controller.kernel import images
from controller.kernel.microvm import Guest, boot
from tests.conftest import missing

FIXTURES = Path(__file__).parent / "fixtures"


def kernel_image(which: str) -> Path:
    """The `newest` or `oldest` image: of those pulled, or of the folder SCHEDCTL_TEST_KERNELS."""
    folder = os.environ.get("SCHEDCTL_TEST_KERNELS")
    if folder:
        found = sorted(Path(folder).rglob("vmlinuz*"), key=lambda path: images.version_key(images.release_of(path)))
        if not found:
            missing(f"a kernel image in {folder}")
        return found[-1 if which == "newest" else 0]
    try:
        return images.resolve(which).path
    except ToolMissing as error:
        missing(str(error))


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every fixture scheduler, compiled: {name: object file}."""
    compiler = next(filter(None, map(shutil.which, ("clang-19", "clang"))), None)
    if compiler is None:
        missing("clang")
    folder = tmp_path_factory.mktemp("objects")
    made = {}
    for source in FIXTURES.glob("*.bpf.c"):
        name = source.name.removesuffix(".bpf.c")
        made[name] = folder / f"{name}.bpf.o"
        command = [
            compiler,
            "-g",
            "-O2",
            "-Wall",
            "-Werror",
            "-target",
            "bpf",
            "-c",
            str(source),
            "-o",
            str(made[name]),
        ]
        subprocess.run(command, check=True, timeout=60)
    return made


@pytest.fixture(scope="module")
def newest_kernel() -> Path:
    """The newest kernel image on this machine."""
    return kernel_image("newest")


@pytest.fixture(scope="module", params=["newest", "oldest"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A booted guest on the newest and on the oldest kernel."""
    kernel = kernel_image(request.param)
    if request.param == "oldest" and kernel == kernel_image("newest"):
        missing("a second kernel image")
    with boot(kernel) as booted:
        yield booted
