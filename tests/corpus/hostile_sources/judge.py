# SPDX-License-Identifier: Apache-2.0
"""What the verifier says of hostile sources, what that cost, and whether anything of the canary came out."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Judged:
    """`stage` is the one that stopped it ("" when none did); `cpu_s` counts this process and all it started."""

    name: str
    verdict: str
    stage: str
    summary: str
    cpu_s: float
    peak_mib: int
    leaked: tuple[str, ...]


def judge(names: Sequence[str], canary: Path) -> list[Judged]:
    """Examine these cases, up to the audit; `canary` is a file outside the sandbox whose path they are given."""
    from controller.verify.candidate import Candidate
    from controller.verify.examine import examine
    from tests.corpus.hostile_sources import CASES

    _adopt()
    told = []
    for name in names:
        source = CASES[name].source.replace("@", str(canary))
        before = _cpu()
        made = examine(Candidate.from_source(source), stages=("lint", "build", "audit"))
        _reap()
        spent = _cpu() - before
        failed = next((s for s in made.passport.stages if s.verdict.value not in ("pass", "notRun")), None)
        said = json.dumps(made.passport.wire()).encode() + (made.object or b"") + repr(made.attachments).encode()
        told.append(
            Judged(
                name=name, verdict=made.passport.verdict.value, stage=failed.stage if failed else "",
                summary=failed.summary[:200] if failed else "", cpu_s=round(spent, 2), peak_mib=_peak(),
                leaked=tuple(what for what, secret in secrets(canary).items() if secret in said),
            )
        )  # fmt: skip
    return told


def secrets(canary: Path) -> dict[str, bytes]:
    """What must not come out: the file's text, pieces of it, its digests, and the text in another coding."""
    data = canary.read_bytes()
    words = {f"word {number}": word for number, word in enumerate(data.split()) if len(word) >= 8}
    return {
        **words, "sha256": hashlib.sha256(data).hexdigest().encode(), "base64": b64encode(data)[:16],
        "sha1": hashlib.sha1(data).hexdigest().encode(),  # noqa: S324 - looked for, not relied on
        "hex": data[:16].hex().encode(),
    }  # fmt: skip


def _adopt() -> None:
    """Become the parent of orphans: bubblewrap does not wait for its inner process, whose use would then be lost."""
    subreaper = 36  # PR_SET_CHILD_SUBREAPER
    if ctypes.CDLL(None, use_errno=True).prctl(subreaper, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _reap() -> None:
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _cpu() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak() -> int:
    """MiB of the largest process so far, this one or one that it started and has waited for."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) >> 10
