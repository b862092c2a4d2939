# SPDX-License-Identifier: Apache-2.0
"""What test_tune_on_kernel runs in a node VM: the life of a scheduler whose knobs change, and whose agent dies.

    python -m tests.deploy.tuning FOLDER

FOLDER holds the revisions a, b and stalls as NAME.json and NAME.o. Each step is a process of its own, as each life of
an agent is; what it saw is one line of JSON on stdout.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from controller.api import Passport, SchedulerRevision, Verdict, now
from controller.deploy import Admitted, Deployment
from controller.kernel import knobs, loader, schedext
from tests.builders import later

STATE = Path("/run/tuning")
PINS = Path("/sys/fs/bpf/tuning")
SYSFS = Path("/sys/kernel/sched_ext")


def admitted(folder: Path, name: str) -> Admitted:
    revision = SchedulerRevision.model_validate_json((folder / f"{name}.json").read_bytes())
    digests = revision.spec.digests
    passport = Passport(
        verdict=Verdict.PASS,
        object_digest=digests.object,
        source_digest=digests.source,
        template_digest=digests.template,
        proposal_digest=digests.proposal,
        ops_name=revision.spec.ops_name,
        stages=(),
        kernels=(),
        issued_at=now(),
        expires_at=later(10**9),
    )
    return Admitted(revision, (folder / f"{name}.o").read_bytes(), passport)


def seen(deployment: Deployment | None = None) -> dict[str, Any]:
    """The kernel's words, and the deployment's when there is one."""
    made: dict[str, Any] = {"ops": schedext.ops_name(), "seq": (SYSFS / "enable_seq").read_text().strip()}
    pinned = PINS / made["ops"] if made["ops"] else None
    made["pinned"] = pinned is not None and (pinned / loader.LINK_NAME).exists()
    if made["pinned"] and pinned is not None:
        with loader.adopt(pinned) as maps:
            made["knobs"] = (maps.map_lookup(knobs.MAP, bytes(4)) or b"").hex()
    if deployment is not None:
        actual, pulse = deployment.actual(), deployment.pulse()
        made["actual"] = actual.wire()
        made["pulse"] = pulse.wire() if pulse is not None else None
        made["events"] = [event.reason for event in deployment.events]
        made["last_exit"] = deployment.last_exit.wire() if deployment.last_exit is not None else None
    return made


def shares() -> float:
    """CPU time that a task called gold gets beside one called lead on one CPU, as a ratio."""
    start = time.monotonic() + 0.5  # both are there by then
    children = {name: _spin(name, start, 3) for name in ("gold", "lead")}
    used = {name: os.wait4(pid, 0)[2] for name, pid in children.items()}
    gold, lead = (used[name].ru_utime + used[name].ru_stime for name in ("gold", "lead"))
    return gold / lead


def _spin(name: str, start: float, seconds: float) -> int:
    """The process id of a task of that name that wants CPU 0 for so long from `start` on, of the monotonic clock."""
    pid = os.fork()
    if pid:
        return pid
    Path("/proc/self/comm").write_text(name)
    os.sched_setaffinity(0, {0})
    time.sleep(max(start - time.monotonic(), 0))
    while time.monotonic() < start + seconds:
        pass
    os._exit(0)


def attach_and_promote(folder: Path) -> dict[str, Any]:
    deployment = Deployment(STATE, pins=PINS)
    deployment.attach(admitted(folder, "a"), {})
    deployment.promote(pin=True)
    return seen(deployment) | {"shares": shares()}


def tune(folder: Path) -> dict[str, Any]:
    deployment = Deployment(STATE, pins=PINS)
    deployment.tune(admitted(folder, "b"), {})
    probation = seen(deployment) | {"shares": shares()}
    deployment.promote(pin=True)
    return {"probation": probation} | seen(deployment)


def die_before_it_is_unpinned(folder: Path) -> dict[str, Any]:
    loader.Pinned.unpin = _die  # type: ignore[method-assign]
    Deployment(STATE, pins=PINS).tune(admitted(folder, "a"), {})
    return {}


def die_after_it_is_unpinned(folder: Path) -> dict[str, Any]:
    deployment = Deployment(STATE, pins=PINS)
    deployment._remember = _die  # type: ignore[method-assign]
    deployment.tune(admitted(folder, "a"), {})
    return {}


def look(_folder: Path) -> dict[str, Any]:
    return seen(Deployment(STATE, pins=PINS))


def bury(_folder: Path) -> dict[str, Any]:
    deployment = Deployment(STATE, pins=PINS)
    died = deployment.actual().died
    assert died is not None
    deployment.bury(died)
    return seen(deployment) | {"died": died.wire()}


def stall(folder: Path) -> dict[str, Any]:
    deployment = Deployment(STATE, pins=PINS)
    deployment.attach(admitted(folder, "stalls"), {})
    spinners = [_spin("gold", time.monotonic(), 6) for _ in range(3)]
    for pid in spinners:
        os.waitpid(pid, 0)
    died = deployment.actual().died
    assert died is not None
    deployment.bury(died)
    return seen(deployment) | {"died": died.wire()}


def _die(*_arguments: object, **_named: object) -> NoReturn:
    os._exit(9)


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "attached": attach_and_promote,
    "tuned": tune,
    "died_pinned": die_before_it_is_unpinned,
    "half_done": lambda _folder: seen(),
    "restored": look,
    "died_unpinned": die_after_it_is_unpinned,
    "fallen_back": bury,
    "stalled": stall,
}


def main() -> None:
    folder = Path(sys.argv[1])
    STATE.mkdir(parents=True, exist_ok=True)
    for name, step in STEPS.items():
        pid = os.fork()
        if not pid:
            print(json.dumps({"step": name} | step(folder)), flush=True)
            os._exit(0)
        print(
            json.dumps({"step": f"{name}.exit", "code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}), flush=True
        )


if __name__ == "__main__":
    main()
