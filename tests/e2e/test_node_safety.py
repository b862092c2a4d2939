# SPDX-License-Identifier: Apache-2.0
"""The safety rules of the design on a real kernel, with the real agent: these tests are one story, in order.

A node VM runs the agent; the scheduler is attached on probation, the agent is killed, promoted, killed again, a bad
scheduler is committed under a valid signature, and at last everything is broken and `schedctl eject` must still work.
"""

from __future__ import annotations

import re

import pytest

from tests.e2e.conftest import POLICY, STATE, World

pytestmark = pytest.mark.kernel


def test_an_object_that_is_not_the_verified_one_is_never_attached(world: World):
    made = world.commit_scheduler("good", "good", tampered=True)
    world.agent_once(code=1)
    assert world.ops() == "disabled"
    assert world.condition("Stalled")[1] == "Refused"
    assert "object" in world.condition("Stalled")[2]
    world.store.delete([made.key], "test")
    world.commit_scheduler("good", "good")


def test_on_probation_the_kernel_falls_back_when_the_agent_is_killed(world: World):
    pid = world.agent_start()
    world.wait_ops("good")
    answer = world.sh(
        f"kill -9 {pid}; for i in $(seq 20); do sleep 0.05; "
        f'[ "$(cat {STATE}/state)" = disabled ] && echo "$i" && exit 0; done; exit 1'
    )
    assert 1 <= int(answer) <= 20
    assert world.ops() == "disabled"


def test_the_next_agent_starts_over_and_does_not_blame_the_scheduler(world: World):
    pid = world.agent_start()
    world.wait_ops("good")
    status = world.node().status
    assert status is not None
    assert status.quarantine == ()
    assert any(e.reason == "AgentExit" for e in status.events)
    world.kill9(pid)


def test_promoted_it_stays_when_the_agent_ends_or_is_killed_and_is_adopted(world: World):
    world.apply(POLICY % "2s")
    world.agent_once()
    assert world.ops() == "good"
    assert world.condition("Ready")[:2] == ("True", "Promoted")
    attached = world.enable_seq()
    pid = world.agent_start()
    world.sh("sleep 3")
    world.kill9(pid)
    assert world.ops() == "good"
    world.agent_once()
    assert world.ops() == "good"
    assert world.enable_seq() == attached, "an adopted scheduler is not attached again"
    assert world.condition("Ready")[:2] == ("True", "Promoted")


def test_top_shows_who_schedules_and_its_counters_as_the_kernel_has_them(world: World):
    before = world.counters()
    text = world.schedctl("top", "--procfs", "-d", "200ms", "--once")
    after = world.counters()
    assert "scheduler: good (default-good Promoted)\ncounters: " in text
    shown = counted(text)
    assert {"enabled", "rejected", "hotplugs"} < shown.keys(), "and at least one of the scheduler's own"
    assert shown["enabled"] == world.enable_seq() > 0
    for name, value in shown.items():
        assert before[name] <= value <= after[name]
    view = world.view("top", "--procfs", "-d", "200ms", "-n", "2")
    assert "scheduler: good (default-good Promoted)" in view
    assert counted(view)["enabled"] == shown["enabled"]


def counted(text: str) -> dict[str, int]:
    """The counters that a frame shows."""
    line = next(line for line in reversed(text.splitlines()) if "counters: " in line)
    return {name: int(value) for name, value in re.findall(r"(\w+) (\d+)", line.partition("counters: ")[2])}


def test_a_revision_with_other_weights_is_in_force_without_a_detach(world: World):
    first = world.commit_fair(100)
    world.agent_once()
    assert world.ops() == first.spec.ops_name
    attached = world.enable_seq()
    second = world.commit_fair(300)
    world.agent_once()
    assert world.ops() == first.spec.ops_name
    assert world.enable_seq() == attached
    status = world.node().status
    assert status is not None
    assert status.attached is not None
    assert (status.attached.revision, status.attached.loaded) == (second.name, first.name)
    assert status.attached.phase == "Promoted"
    assert f"with the knobs of {second.name}" in world.condition("Attached")[2]
    world.store.delete([second.key, first.key], "test")
    world.agent_once()
    assert world.ops() == "good"


def test_a_scheduler_that_stalls_is_quarantined_and_the_last_good_one_comes_back(world: World):
    world.commit_scheduler("loses_tasks", "loses_tasks", name='"loses_tasks",\n\t.timeout_ms = 2000')
    world.agent_once(code=1)
    world.wait_ops("good")
    status = world.node().status
    assert status is not None
    assert len(status.quarantine) == 1
    assert "stall" in status.quarantine[0].reason
    assert world.condition("Stalled")[1] == "Quarantined"
    assert world.condition("Degraded")[0] == "True"


def test_the_quarantine_survives_the_agent(world: World):
    before = world.enable_seq()
    world.agent_once(code=1)
    world.agent_once(code=1)
    assert world.ops() == "good"
    assert world.enable_seq() == before, "nothing was attached again"


def test_a_broken_repository_changes_nothing(world: World):
    world.sh(f"mv {world.repo}/.git/HEAD {world.repo}/.git/HEAD.gone")
    try:
        world.schedctl("agent", "run", "--role", "node", "--once", "--repo", str(world.repo), code=1)
        assert world.ops() == "good"
    finally:
        world.sh(f"mv {world.repo}/.git/HEAD.gone {world.repo}/.git/HEAD")


def test_eject_works_when_agent_git_and_journal_are_broken_and_holds(world: World):
    world.sh(f"mv {world.repo}/.git {world.repo}/gone; echo '{{' > /run/schedctl/state/journal.json")
    try:
        world.schedctl("eject")
        assert world.ops() == "disabled"
    finally:
        world.sh(f"mv {world.repo}/gone {world.repo}/.git")
    world.agent_once(code=1)
    assert world.ops() == "disabled"
    assert world.condition("Stalled")[1] == "Ejected"


def test_eject_takes_a_scheduler_away_from_an_agent_on_probation(world: World):
    world.apply(POLICY % "1h")
    world.sh("rm -f /run/schedctl/state/journal.json")
    world.schedctl("eject", "--release")
    world.store.delete([("SchedulerRevision", "", "default-loses-tasks")], "test")
    pid = world.agent_start()
    world.wait_ops("good")
    world.sh(f"kill -STOP {pid}")
    world.schedctl("eject")
    assert world.ops() == "disabled"
    world.sh(f"kill -CONT {pid}; sleep 4")
    assert world.ops() == "disabled"
    world.kill9(pid)
