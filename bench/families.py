# SPDX-License-Identifier: Apache-2.0
"""Every template family through the whole verifier, on every pulled kernel and several topologies.

Each is filled for two classes by name, as the verifier's tests fill it, and goes through the stages schema to liveness
as `schedctl verify` would take it. A row says how that ended: verdict, the stage and rules that failed, the warnings,
the scenarios that ran. What is there for the same template, headers, kernel and topology is not run again; a verdict
`error` is no verdict, and is tried again the next time; so is, after all others, one by scenarios or loads of the guest
that were changed since, and last one of a busy machine. No row is begun that would not end within --seconds, going by
what the last one of its topology took. The table goes to stderr, JSON to stdout and to bench/results/families.json.

    python bench/families.py --seconds 230
    python bench/families.py --topology 2x2x2 --family latency-first --kernel oldest
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.kit import filled
from bench.kit.store import RESULTS, Elsewhere, Store, busy
from controller.api import STAGES, Passport, Verdict, now
from controller.kernel import images
from controller.kernel.images import KernelImage
from controller.kernel.vmshape import VmShape
from controller.paths import data_dir
from controller.render import render
from controller.verify import Candidate, examine, scenarios
from tests.verify.candidates import proposal_for

SHAPES = ("2", "1", "4", "8", "2x2x2")
TO_LIVENESS = STAGES[:-1]
_FIRST_S = 90.0
"""About how long a row takes on up to two CPUs where none was measured; more CPUs take longer."""


@dataclass(frozen=True, slots=True)
class Job:
    """One row."""

    family: str
    kernel: KernelImage
    shape: str

    @property
    def key(self) -> str:
        """The row's key."""
        return f"{self.kernel.release}/{self.shape}/{self.family}"


def digest(family: str) -> str:
    """Of what is verified."""
    template = filled.templates()[family]
    return filled.digest(render(proposal_for(template), template).text)


@functools.cache
def verifier() -> str:
    """Digest of what a verdict is by: the scenarios, and the program that makes their loads in the guest."""
    loads = (data_dir("bpf") / "guest" / "schedload.c").read_bytes()
    return hashlib.sha256(scenarios.digest().encode() + loads).hexdigest()


def by_these(row: Mapping[str, Any]) -> bool:
    """Is the verdict by the scenarios and loads as they are now?"""
    return row.get("verifier") == verifier()


def planned(jobs: Sequence[Job], rows: dict[str, Any]) -> list[Job]:
    """Those without a verdict on what the template is now, never measured ones first; then as above."""

    def why(job: Job) -> int:
        row = rows.get(job.key, {"verdict": "error"})
        if row["verdict"] == "error":
            return 1
        if row["digest"] != digest(job.family):
            return 2
        return 3 if not by_these(row) else 4 if busy(row) else 0

    return sorted(filter(why, jobs), key=why)


def expected_s(job: Job, rows: dict[str, Any]) -> float:
    """How long it will take: as the slowest so far of its topology, else a guess."""
    took = [row["seconds"] for key, row in rows.items() if key.split("/")[1] == job.shape]
    return max(took) if took else _FIRST_S * max(1.0, VmShape.parse(job.shape).cpus / 3)


def row_of(passport: Passport) -> dict[str, Any]:
    """A passport as a row."""
    failed = next((s for s in passport.all_stages() if s.verdict in (Verdict.REJECTED, Verdict.ERROR)), None)
    figures = [name for stage in passport.all_stages() if stage.stage == "liveness" for name in stage.figures]
    findings = [finding for stage in passport.all_stages() for finding in stage.findings]
    return {
        "verdict": passport.verdict.value,
        "stages": {s.stage: s.verdict.value for s in passport.all_stages() if s.verdict is not Verdict.NOT_RUN},
        "stage": failed.stage if failed else "",
        "rules": [finding.rule for finding in (failed.findings if failed else ()) if finding.severity == "error"],
        "summary": failed.summary[:300] if failed else "",
        "warnings": [f"{f.rule}: {f.message[:200]}" for f in findings if f.severity == "warn"],
        "scenarios": list(dict.fromkeys(f.split(".")[0] for f in figures if not f.startswith("kernel."))),
    }


def measure(job: Job) -> dict[str, Any]:
    """One row."""
    template = filled.templates()[job.family]
    candidate = Candidate.from_proposal(proposal_for(template), template)
    begun, machine = time.monotonic(), Elsewhere()
    shape = VmShape.parse(job.shape)
    passport = examine(candidate, kernels=[job.kernel], shapes=[shape], stages=TO_LIVENESS).passport
    return {
        "digest": digest(job.family),
        "verifier": verifier(),
        **row_of(passport),
        "seconds": round(time.monotonic() - begun, 1),
        "measured": now().isoformat(),
        "elsewhere": machine.share(),
    }


def lines(rows: dict[str, Any]) -> Iterator[str]:
    """The table."""
    yield f"{'KERNEL/TOPOLOGY/FAMILY':<50}{'VERDICT':<10}{'SECONDS':>8}{'WARNINGS':>10}  WHAT FAILED"
    for key, row in sorted(rows.items()):
        why = f"{row['stage']} {','.join(row['rules'])} {row['summary'][:80]}" if row["stage"] else ""
        yield f"{key:<50}{row['verdict']:<10}{row['seconds']:>8.1f}{len(row['warnings']):>10}  {why}"


def main() -> None:
    """Verify what was not verified yet, as long as there is time, and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", action="append", help="newest, oldest or a release; default: all that were pulled")
    parser.add_argument("--topology", action="append", help=f"default: {', '.join(SHAPES)}")
    parser.add_argument("--family", action="append", choices=filled.names(), help="default: all")
    parser.add_argument("--seconds", type=float, default=230, help="begin nothing that would take longer than this")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: bench/results")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    store = Store("families", arguments.results)
    pulled = [image for image in reversed(images.list_images()) if image.source == "archive"]
    kernels = [images.resolve(name) for name in arguments.kernel] if arguments.kernel else pulled
    jobs = [
        Job(family, kernel, VmShape.parse(shape).label)
        for shape in arguments.topology or SHAPES
        for kernel in kernels
        for family in arguments.family or filled.names()
    ]
    for job in planned(jobs, store.rows):
        if time.monotonic() + expected_s(job, store.rows) > end:
            continue
        print(f"verifying {job.key}", file=sys.stderr)
        store.rows[job.key] = measure(job)
        store.conditions(job.kernel)
        store.document |= {"kernels": [image.release for image in pulled], "topologies": list(SHAPES)}
        store.keep()
    print("\n".join(lines(store.rows)), file=sys.stderr)
    print(json.dumps(store.document))


if __name__ == "__main__":
    main()
