# SPDX-License-Identifier: Apache-2.0
"""Topology from sysfs trees of machines we do not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.errors import KernelError
from controller.kernel.topology import Topology, parse_list, read


def machine(
    root: Path, packages: int, cores: int, threads: int, *, llcs: int = 0, numa: int = 1, caches: bool = True
) -> Path:
    """A sysfs tree of packages x cores x threads CPUs; `llcs` caches in all (one a package unless told)."""
    total = packages * cores * threads
    share = total // (llcs or packages)
    (root / "cpu").mkdir(parents=True)
    (root / "cpu" / "online").write_text(f"0-{total - 1}\n")
    (root / "node").mkdir()
    (root / "node" / "online").write_text(f"0-{numa - 1}\n" if numa > 1 else "0\n")
    for cpu in range(total):
        place = root / "cpu" / f"cpu{cpu}"
        (place / "topology").mkdir(parents=True)
        (place / "topology" / "physical_package_id").write_text(f"{cpu // (cores * threads)}\n")
        (place / "topology" / "core_id").write_text(f"{cpu // threads % cores}\n")
        for level in (1, 2, 3) if caches else ():
            index = place / "cache" / f"index{level}"
            index.mkdir(parents=True)
            (index / "level").write_text(f"{level}\n")
            first = cpu // share * share
            shared = f"{first}-{first + share - 1}" if level == 3 else str(cpu)
            (index / "shared_cpu_list").write_text(f"{shared}\n")
    return root


@pytest.mark.parametrize(
    ("shape", "options", "topology", "klass"),
    [
        ((1, 1, 1), {}, Topology(1, 1, 1, 1, 1, 1), "cpus1.pkg1.smt1.llc1.numa1"),
        ((1, 2, 1), {}, Topology(2, 1, 2, 1, 1, 1), "cpus2.pkg1.smt1.llc1.numa1"),
        ((1, 3, 1), {}, Topology(3, 1, 3, 1, 1, 1), "cpus4.pkg1.smt1.llc1.numa1"),
        ((1, 4, 2), {"llcs": 2}, Topology(8, 1, 4, 2, 2, 1), "cpus8.pkg1.smt2.llc2.numa1"),
        ((2, 8, 2), {"numa": 2}, Topology(32, 2, 8, 2, 2, 2), "cpus16+.pkg2.smt2.llc2.numa2"),
        ((2, 1, 1), {"caches": False}, Topology(2, 2, 1, 1, 2, 1), "cpus2.pkg2.smt1.llc2.numa1"),
    ],
)
def test_shapes_and_their_classes(tmp_path, shape, options, topology, klass):
    found = read(machine(tmp_path / "system", *shape, **options))
    assert found == topology
    assert found.klass == klass


def test_cpus_off_line_do_not_count(tmp_path):
    root = machine(tmp_path / "system", 1, 4, 1)
    (root / "cpu" / "online").write_text("0,2\n")
    assert read(root).cpus == 2


def test_a_sysfs_that_says_nothing_is_an_error(tmp_path):
    with pytest.raises(KernelError, match="mount sysfs"):
        read(tmp_path)


def test_kernel_lists():
    assert parse_list("0-2,5,8-9\n") == [0, 1, 2, 5, 8, 9]
    for bad in ("", "a", "1-b"):
        with pytest.raises(ValueError):
            parse_list(bad)


def test_this_machine_has_a_topology():
    assert read().cpus >= 1
