# SPDX-License-Identifier: Apache-2.0
"""How often a good scheduler is attached and detached without anything going wrong that is not its fault.

Each cycle attaches the weighted-fair template, filled for two classes, asks the kernel who is in charge, and detaches
it again; the kernels pulled take turns. Whatever a cycle ends with but success is a false rejection, for the scheduler
is good; a fault of QEMU's emulator (`Oops: int3`, see microvm.py) is counted for itself, and the guest booted anew.
Counts go on from where the results file stands, as long as the object and the kernels are the same, so that the 1,000
cycles can be run a few minutes at a time. The table goes to stderr, JSON to stdout and to bench/results/cycles.json.

    python bench/cycles.py --cycles 1000 --seconds 200
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from verify import candidate

from controller.api import now, sha256
from controller.errors import GuestError, SchedctlError
from controller.kernel import clang, images, qemu
from controller.kernel.images import KernelImage
from controller.kernel.microvm import EmulatorFault, Guest, boot
from controller.kernel.vmshape import VmShape
from controller.paths import data_dir
from controller.render import render

RESULTS = Path(__file__).parent / "results" / "cycles.json"
SLICE = 100
"""Cycles on one kernel before it is the next one's turn."""


def good_scheduler() -> tuple[bytes, str]:
    """The object, and the name of its ops."""
    proposal, template = candidate().proposal, candidate().template
    assert proposal is not None and template is not None  # noqa: PT018 - bench/verify.py makes it so
    rendered = render(proposal, template)
    return clang.compile_bpf(rendered.text, data_dir("bpf") / "include").object, rendered.ops_name


def cycle(guest: Guest, ops_name: str) -> None:
    """One attach and detach. SchedctlError for anything but success."""
    guest.attach()
    status = guest.status()
    if not status.runs(ops_name) or status.exit is not None:
        raise GuestError(f"it is not in charge: {status}")
    guest.detach()


def run_slice(
    column: dict[str, Any], image: KernelImage, scheduler: tuple[bytes, str], more: Callable[[], bool]
) -> None:
    """Up to SLICE cycles on one kernel, in one guest unless it breaks."""
    done = 0
    while done < SLICE and more():
        begun = time.monotonic()
        try:
            with boot(image.path, VmShape()) as guest:
                guest.load(scheduler[0], timeout_ms=3000)
                column["boots"] += 1
                begun = time.monotonic()
                while done < SLICE and more():
                    done += 1
                    column["cycles"] += 1
                    cycle(guest, scheduler[1])
        except EmulatorFault as error:
            column["emulator_faults"] += 1
            column["words"].append(str(error))
        except SchedctlError as error:
            column["false_rejections"] += 1
            column["words"].append(str(error))
            if done == 0:  # it does not even boot or load: trying again would go on for ever
                raise
        finally:
            column["seconds"] = round(column["seconds"] + time.monotonic() - begun, 2)


def resumed(kernels: list[KernelImage], digest: str) -> dict[str, Any]:
    """The results so far, or new ones when they are of another object or other kernels."""
    releases = [image.release for image in kernels]
    try:
        result: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        result = {}
    if result.get("object") == digest and list(result.get("kernels", {})) == releases:
        return result
    fresh = {"cycles": 0, "boots": 0, "false_rejections": 0, "emulator_faults": 0, "seconds": 0.0}
    return {
        "benchmark": "cycles",
        "object": digest,
        "qemu": ".".join(map(str, qemu.find().version)),
        "kernels": {release: {**fresh, "words": []} for release in releases},
    }


def total(result: dict[str, Any], name: str) -> int:
    """Over all kernels."""
    return sum(column[name] for column in result["kernels"].values())


def main() -> None:
    """Run cycles until there are enough of them, or time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=1000, help="how many there shall be in all")
    parser.add_argument("--seconds", type=float, default=600, help="stop after about as long, and go on next time")
    arguments = parser.parse_args()
    kernels = [
        image for image in images.list_images() if image.source == "archive" and image.has_sched_ext is not False
    ]
    scheduler = good_scheduler()
    result = resumed(kernels, sha256(scheduler[0]))
    end = time.monotonic() + arguments.seconds

    def more() -> bool:
        return time.monotonic() < end and total(result, "cycles") < arguments.cycles

    while more():
        image = min(kernels, key=lambda each: result["kernels"][each.release]["cycles"])
        run_slice(result["kernels"][image.release], image, scheduler, more)
        result["measured"] = now().isoformat()
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{'KERNEL':<32}{'CYCLES':>8}{'BOOTS':>8}{'FALSE':>8}{'EMULATOR':>10}{'S/CYCLE':>10}", file=sys.stderr)
    for release, column in result["kernels"].items():
        each = column["seconds"] / max(column["cycles"], 1)
        counts = f"{column['cycles']:>8}{column['boots']:>8}{column['false_rejections']:>8}"
        print(f"{release:<32}{counts}{column['emulator_faults']:>10}{each:>10.3f}", file=sys.stderr)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
