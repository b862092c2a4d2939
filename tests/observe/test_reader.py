# SPDX-License-Identifier: Apache-2.0
"""What the probes' answer becomes: the ends of a window mended, the observer left out."""

from __future__ import annotations

from collections import Counter

import pytest

from controller.observe import reader
from controller.observe.histogram import bucket_of
from controller.observe.reader import GROUP_OWN, KINDS
from controller.observe.sample import Reading, Who

START, STOP = 1_000, 1_001_000
WEB, DB = 2, 3
COUNTS = ("cpu_ns", "wait_ns", "latency_ns", "burst_ns", "sleep_ns", "tasks", "wakeups", "voluntary", "involuntary")
COUNTS += ("migrations", "llc_migrations", "numa_migrations", "forks", "execs", "exits")
NOTHING = dict.fromkeys(COUNTS, 0)
WHO = {WEB: Who(b"web", b"/web.service", 33), DB: Who(b"db", None, 70)}


def task(**more):
    plain = dict.fromkeys(reader._Task._fields, 0) | {"address": 7, "pid": 1 << 22, "group": WEB, "seen": 1}
    return list((plain | more).values())


def cell(kind, group, rest, events):
    return [kind << 28 | group << 12 | rest, events]


def read(**more):
    answer = {
        "start": START,
        "stop": STOP,
        "own": 99,
        "dropped": 0,
        "groups": [[WEB, "web", 10, 33, NOTHING], [DB, "db", 11, 70, NOTHING]],
        "cells": [],
        "tasks": [],
        "stays": [[START + 1, 0]],
        "queues": [],
    }
    return reader.observation(answer | more, {10: b"/web.service"}, Reading(0, {}, {}), Reading(0, {}, {}))


def test_counts_and_cells_belong_to_their_group():
    groups = [[WEB, "web", 10, 33, NOTHING | {"tasks": 1, "forks": 4}], [DB, "db", 11, 70, NOTHING]]
    edge = max(KINDS) + 1
    values = [cell(1, WEB, 40, 5), cell(2, WEB, 41, 6), cell(3, WEB, 42, 7)]
    edges = [cell(edge, WEB, DB, 8), cell(edge, 0, WEB, 2), cell(edge, GROUP_OWN, WEB, 3)]
    seen = read(groups=groups, cells=[*values, *edges])
    assert set(seen.samples) == {WHO[WEB]}, "a group that did nothing is no workload"
    web = seen.samples[WHO[WEB]]
    assert (web.forks, web.latency, web.burst, web.sleep) == (4, {40: 5}, {41: 6}, {42: 7})
    assert seen.edges == Counter({(WHO[WEB], WHO[DB]): 8, (None, WHO[WEB]): 2}), "the observer wakes nobody"


@pytest.mark.parametrize("woke", [0, 1])
def test_what_is_on_a_cpu_at_the_end_counts_its_time_and_how_it_came_there(woke):
    on_cpu = task(woke=woke, waited=500, rested=woke, slept=9000, moved=1 | 2, waker=DB)
    seen = read(tasks=[on_cpu], stays=[[STOP - 300, 7]])
    web = seen.samples[WHO[WEB]]
    assert (web.cpu_ns, web.cut, web.wait_ns) == (300, [300], 500)
    assert (web.migrations, web.llc_migrations, web.numa_migrations) == (1, 1, 0)
    assert web.wakeups == woke
    assert web.latency == ({bucket_of(500): 1} if woke else {})
    assert web.sleep == ({bucket_of(9000): 1} if woke else {})
    assert seen.edges == ({(WHO[DB], WHO[WEB]): 1} if woke else {})
    assert web.tasks == 0, "it was seen leaving a CPU before, and counted there"


def test_what_waits_at_the_end_has_waited_at_least_so_long():
    seen = read(tasks=[task(ready=STOP - 700), task(address=8, group=DB, ready=STOP - 90, moved=8)])
    assert seen.samples[WHO[WEB]].latency == {bucket_of(700): 1}
    assert seen.samples[WHO[DB]].latency == {}, "preempted, not woken"
    assert [seen.samples[who].wait_ns for who in WHO.values()] == [700, 90]


def test_the_observer_is_nobodys_workload():
    assert read(tasks=[task(group=GROUP_OWN, ready=STOP - 5), task(pid=99, ready=STOP - 5)]).samples == {}
    assert read(tasks=[task(group=GROUP_OWN)], stays=[[STOP - 300, 7]]).samples == {}


def test_a_task_that_nobody_knows_is_counted_as_gone():
    seen = read(tasks=[task(group=0, seen=0, ready=STOP - 5)])
    assert [(who.comm, sample.tasks) for who, sample in seen.samples.items()] == [(b"(gone)", 1)]


def test_depths_run_until_the_window_closes():
    seen = read(queues=[[STOP - 400, 2, [100, 50, 0, 0, 0]], [0, 0, [0] * 5], [STOP + 9, 9, [1, 0, 0, 0, 2]]])
    assert seen.depth == {0: (100, 50, 400), 2: (1, 0, 0, 0, 2)}
