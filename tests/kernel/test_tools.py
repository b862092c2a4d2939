# SPDX-License-Identifier: Apache-2.0
"""What doctor knows: every requirement really asked, and a remedy for each that is unmet."""

from __future__ import annotations

import pytest

from controller.errors import ToolMissing
from controller.kernel import tools
from controller.kernel.tools import Requirement, Unmet
from tests.conftest import missing


def failing(error: Exception):
    def check() -> str:
        raise error

    return check


def find(name: str) -> tools.Finding:
    return next(requirement for requirement in tools.requirements() if requirement.name == name).examine()


def test_this_machine_is_ready():
    unmet = [finding for finding in tools.check_all() if finding.status == "Missing"]
    if unmet:
        missing(", ".join(f"{finding.name} ({finding.found})" for finding in unmet))


def test_every_requirement_has_a_name_of_its_own_a_reason_and_a_remedy():
    everything = tools.requirements()
    assert len({requirement.name for requirement in everything}) == len(everything)
    assert all(requirement.why and requirement.need and requirement.remedy for requirement in everything)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (Unmet("1.0"), "1.0"),
        (ToolMissing("no such tool", remedy="never shown"), "no such tool"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "[Errno 2] No such file or directory: '/x'"),
        (ImportError("No module named 'x'"), "No module named 'x'"),
    ],
)
def test_a_check_that_fails_in_any_way_is_a_finding(error, found):
    finding = Requirement("x", ">= 2", "to test", failing(error), "mend it").examine()
    assert (finding.status, finding.found, finding.remedy) == ("Missing", found, "mend it")


def test_a_check_may_know_a_better_remedy():
    assert (
        Requirement("x", "y", "z", failing(Unmet("there", "turn it on")), "install it").examine().remedy == "turn it on"
    )


def test_an_optional_one_is_absent_and_not_missing():
    finding = Requirement("x", "y", "z", failing(Unmet("none")), "mend it", optional=True).examine()
    assert (finding.status, finding.ok) == ("Absent", False)


def test_a_met_one_needs_no_remedy():
    finding = Requirement("x", ">= 2", "to test", lambda: "3", "mend it").examine()
    assert (finding.status, finding.found, finding.remedy) == ("OK", "3", "")


@pytest.mark.parametrize("name", ["git", "clang", "bubblewrap", "bpftool", "qemu", "busybox", "stress-ng", "rt-app"])
def test_a_program_that_is_not_on_the_path_is_missing(name, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = find(name)
    assert (finding.status, finding.found) == ("Missing", "none")
    assert finding.remedy


def test_an_old_program_is_missing_and_its_version_is_told(monkeypatch, tmp_path):
    (tmp_path / "qemu-system-x86_64").write_text("#!/bin/sh\necho QEMU emulator version 7.2.22\n")
    (tmp_path / "qemu-system-x86_64").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    finding = find("qemu")
    assert (finding.status, finding.found, finding.need) == ("Missing", "7.2.22", ">= 10.0")


def test_a_busybox_that_needs_libraries_is_not_enough(monkeypatch, tmp_path):
    (tmp_path / "busybox").symlink_to("/bin/ls")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find("busybox").found == f"{tmp_path}/busybox, dynamic"


def test_headers_whose_package_is_gone_are_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("SCHEDCTL_CACHE", str(tmp_path))
    for file in ("include/linux/kconfig.h", "include/generated/autoconf.h"):
        (tmp_path / "headers" / file).parent.mkdir(parents=True)
        (tmp_path / "headers" / file).symlink_to("/usr/src/linux-headers-0/gone.h")
    assert (find("kernel-headers").status, find("kernels").status) == ("Missing", "Missing")
