# SPDX-License-Identifier: Apache-2.0
"""How long `schedctl verify` takes: the stages up to load, liveness, the whole, and the cold boot of a kernel.

The candidate is the weighted-fair template, filled for two classes: a whole proposal, from schema on. Times are those
in its passports. Warm means that the guest's image and the kernel's snapshot are in the cache, as they are from the
second verification on; cold boots have a cache of their own, empty but for the kernels and the guest's image. Medians,
with the least and the most. The table goes to stderr, JSON to stdout and to bench/results/verify.json.

    python bench/verify.py --runs 7 --liveness 1 --boots 3
    python bench/verify.py --runs 0 --boots 0 --liveness 1 --trial mixed
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from controller.api import STAGES, Verdict, now
from controller.kernel import images, initramfs, qemu
from controller.kernel.images import KernelImage
from controller.kernel.microvm import boot
from controller.paths import cache_dir
from controller.render import builtin_templates
from controller.verify import Candidate, TrialSpec, examine
from controller.verify.trial.spec import OBJECTIVES, default_guardrails
from tests.verify.candidates import proposal_for

RESULTS = Path(__file__).parent / "results" / "verify.json"
TO_LOAD = STAGES[:6]
LIMITS = {"schema_to_load_s": 3.0, "liveness_s": 60.0, "cold_boot_s": 8.0}
"""What the medians must stay below, on two CPUs without KVM."""


def candidate() -> Candidate:
    """The proposal to verify."""
    template = next(each for each in builtin_templates() if each.name == "weighted-fair")
    return Candidate.from_proposal(proposal_for(template), template)


def verified(image: KernelImage, stages: tuple[str, ...], trial: TrialSpec | None = None) -> dict[str, float]:
    """Seconds of each stage, and `whole` by the clock. SystemExit unless it passes: a failure is no timing.

    Of a trial every verdict is a timing, for it has run whole: it is told on stderr.
    """
    begun, proposed = time.monotonic(), candidate()
    passport = examine(proposed, kernels=[image], stages=stages, trial=trial).passport
    whole, results = time.monotonic() - begun, passport.all_stages()
    for failed in (s for s in results if s.verdict in (Verdict.REJECTED, Verdict.ERROR)):
        said = f"{image.release}: {failed.stage}: {failed.verdict.value}: {failed.summary}"
        if failed.stage != "trial":
            raise SystemExit(said)
        print(said, file=sys.stderr)
    return {**{s.stage: s.seconds for s in results if s.verdict is not Verdict.NOT_RUN}, "whole": whole}


@contextmanager
def empty_cache() -> Iterator[None]:
    """A cache with kernels and the guest's image, and no snapshot of any guest."""
    image, kernels, before = initramfs.build(), cache_dir() / "kernels", os.environ.get("SCHEDCTL_CACHE")
    made = sorted(path for path in image.parent.iterdir() if path.is_file())
    with tempfile.TemporaryDirectory(prefix="schedctl-bench-") as folder:
        (Path(folder) / "kernels").symlink_to(kernels.resolve())
        (Path(folder) / "guest").mkdir()
        for path in made:
            (Path(folder) / "guest" / path.name).symlink_to(path)
        os.environ["SCHEDCTL_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("SCHEDCTL_CACHE")
            os.environ.update({"SCHEDCTL_CACHE": before} if before is not None else {})


def cold_boot(image: KernelImage) -> float:
    """Seconds from nothing to a guest whose agent answers; writing the snapshot is not part of it."""
    up: list[float] = []
    with empty_cache():
        begun = time.monotonic()
        with boot(image.path, reporter=lambda text: up.append(time.monotonic()) if "is up" in text else None):
            took = (up[0] if up else time.monotonic()) - begun
    return took


def spread(values: list[float]) -> dict[str, Any]:
    """Median, least and most."""
    return {"median": round(statistics.median(values), 2), "least": round(min(values), 2),
            "most": round(max(values), 2), "runs": len(values)}  # fmt: skip


def measure(image: KernelImage, runs: int, whole_runs: int, boots: int, trial: TrialSpec | None) -> dict[str, Any]:
    """One kernel's row."""
    figures: dict[str, Any] = {}
    if boots:
        figures["cold_boot_s"] = spread([cold_boot(image) for _ in range(boots)])
    if runs:
        verified(image, TO_LOAD)  # warm
        figures["schema_to_load_s"] = spread([verified(image, TO_LOAD)["whole"] for _ in range(runs)])
    if whole_runs:
        each = [verified(image, STAGES, trial) for _ in range(whole_runs)]
        figures["liveness_s"] = spread([run["liveness"] for run in each])
        figures["whole_s"] = spread([run["whole"] for run in each])
        if all("trial" in run for run in each):
            figures["trial_s"] = spread([run["trial"] for run in each])
    return figures


def main() -> None:
    """Measure each kernel and print the table; figures that were not asked for are kept from the last time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="verifications up to load, a kernel")
    parser.add_argument("--liveness", type=int, default=1, metavar="RUNS", help="whole verifications, a kernel")
    parser.add_argument("--boots", type=int, default=3, help="cold boots, a kernel")
    parser.add_argument("--trial", metavar="WORKLOAD", help="whole verifications with a trial on this workload")
    parser.add_argument("--kernel", action="append", help="newest, oldest, a release or a path; default: all pulled")
    arguments = parser.parse_args()
    if arguments.kernel:
        kernels = [images.resolve(name) for name in arguments.kernel]
    else:
        kernels = [image for image in images.list_images() if image.source == "archive"]
    trial = None
    if arguments.trial:
        metric = OBJECTIVES[arguments.trial]
        rails = default_guardrails(arguments.trial, metric)
        trial = TrialSpec(arguments.trial, metric, guardrails=rails, comm="web*", others_comm="other*")
    try:
        result = json.loads(RESULTS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        result = {"benchmark": "verify", "kernels": {}}
    for image in kernels:
        row = measure(image, arguments.runs, arguments.liveness, arguments.boots, trial)
        result["kernels"].setdefault(image.release, {}).update(row)
    result |= {
        "measured": now().isoformat(),
        "cpus": os.cpu_count(),
        "accelerator": qemu.accelerator(qemu.find(), kernels[0].path)[1].split(",")[0],
        "qemu": ".".join(map(str, qemu.find().version)),
        "limits": LIMITS,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{'KERNEL':<32}{'FIGURE':<20}{'MEDIAN':>8}{'LEAST':>8}{'MOST':>8}{'RUNS':>6}  LIMIT", file=sys.stderr)
    for release, row in result["kernels"].items():
        for name, value in row.items():
            numbers = f"{value['median']:>8.2f}{value['least']:>8.2f}{value['most']:>8.2f}{value['runs']:>6}"
            limit = LIMITS.get(name)
            ok = "" if limit is None else f"  {limit:g} {'ok' if value['median'] <= limit else 'EXCEEDED'}"
            print(f"{release:<32}{name:<20}{numbers}{ok}", file=sys.stderr)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
