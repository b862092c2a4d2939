# SPDX-License-Identifier: Apache-2.0
"""The scheduler's table of cgroups says what there is now: on maps of this machine's own kernel."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import c_char_p, c_int, c_uint32, c_void_p
from pathlib import Path

import pytest

from controller.deploy.deployment import CGROUP_MAP, CONTROL_MAP, fill
from controller.errors import InputError
from controller.kernel import libbpf, loader
from tests.conftest import missing

_HASH, _ARRAY = 1, 2
ROOM = 8


def made(name: str, kind: int, key: int, value: int, rows: int) -> loader.Map:
    create = libbpf.library().bpf_map_create
    create.restype, create.argtypes = c_int, [c_uint32, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p]
    fd = create(kind, name[:15].encode(), key, value, rows, None)
    if fd < 0:
        missing(f"the right to make BPF maps ({libbpf.reason(libbpf.last_error())})", "run as root")
    return loader.Map(name, fd)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[loader.Pinned]:
    maps = (made(CGROUP_MAP, _HASH, 8, 32, ROOM), made(CONTROL_MAP, _ARRAY, 4, 8, 1))
    with loader.Pinned(tmp_path, -1, {each.name: each for each in maps}) as pinned:
        yield pinned


def rows(scheduler: loader.Pinned) -> dict[int, int]:
    found = scheduler.map(CGROUP_MAP)
    return {
        int.from_bytes(key, "little"): int.from_bytes(found.lookup(key) or b"", "little") for key in found.all_keys()
    }


def generation(scheduler: loader.Pinned) -> int:
    return int.from_bytes(scheduler.map_lookup(CONTROL_MAP, bytes(4)) or b"", "little")


def test_the_table_follows_what_there_is_and_tasks_are_matched_anew_only_then(scheduler: loader.Pinned):
    assert fill(scheduler, {5: {1}, 6: {1, 200}}) == 0
    assert rows(scheduler) == {5: 1 << 1, 6: 1 << 1 | 1 << 200}
    assert generation(scheduler) == 1
    fill(scheduler, {6: {1, 200}, 5: {1}})
    assert generation(scheduler) == 1, "nothing changed"
    fill(scheduler, {6: {2}, 7: {1}})
    assert rows(scheduler) == {6: 1 << 2, 7: 1 << 1}
    assert generation(scheduler) == 2
    fill(scheduler, {})
    assert rows(scheduler) == {}
    assert generation(scheduler) == 3


def test_cgroups_that_come_and_go_never_fill_it(scheduler: loader.Pinned):
    for first in range(100, 1000, ROOM):
        assert fill(scheduler, {number: {1} for number in range(first, first + ROOM)}) == 0
    assert len(rows(scheduler)) == ROOM


def test_of_too_many_the_oldest_are_kept_and_the_rest_is_counted(scheduler: loader.Pinned):
    assert fill(scheduler, {number: {1} for number in reversed(range(50, 50 + ROOM + 3))}) == 3
    assert sorted(rows(scheduler)) == list(range(50, 50 + ROOM))


def test_who_has_no_table_is_told_no_cgroups(tmp_path: Path):
    with loader.Pinned(tmp_path, -1, {}) as plain:
        assert fill(plain, {}) == 0
        with pytest.raises(InputError):
            fill(plain, {5: {1}})


def test_deleting_what_is_not_there_is_no_error(scheduler: loader.Pinned):
    table = scheduler.map(CGROUP_MAP)
    table.delete(bytes(8))
    assert table.all_keys() == []
