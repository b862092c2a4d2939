# SPDX-License-Identifier: Apache-2.0
"""`make verification-doc`: writes docs/verification.md from the rules, the scenarios and what was measured.

What can be read from the code (stages, lint rules, scenarios) is read from it, what was measured from bench/results; a
person writes neither. The file is replaced as a whole or not at all. `--check` writes nothing and exits 1 when the half
that comes from the code is not what the file says; figures are left out of that, for they change with every run.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from controller.api import STAGES  # noqa: E402
from controller.verify.lint import rules  # noqa: E402
from controller.verify.scenarios import SCENARIOS  # noqa: E402
from scripts.doc_pages import MEASURED, Page, table  # noqa: E402
from scripts.verification_figures import Results, sections  # noqa: E402

__all__ = ["DOC", "MEASURED", "document", "from_code", "main"]

_PROVES = {
    "schema": ("the values of a proposal are typed and in range", "that they are good values"),
    "render": ("the template takes them and gives one text, the same for the same proposal", "that the text is right"),
    "lint": (
        "none of the faults below is on a path that can be followed in the source",
        "anything about a bare object, or about what a rule does not look for",
    ),
    "build": (
        "it compiles in a sandbox without network or files but the allowed headers, in 10 s of CPU, 1 GiB and 8 MiB",
        "that the compiler is right",
    ),
    "audit": (
        "the object holds a scheduler and nothing else: program types, sections, maps, helpers, kfuncs, licence",
        "what its programs do with them",
    ),
    "load": (
        "the BPF verifier of this kernel takes every program: no bad access, no endless loop",
        "that tasks are scheduled: it takes schedulers that never run anybody",
    ),
    "liveness": (
        "under the loads below nobody is forgotten, compared with the kernel's own scheduler in the same boot",
        "other loads, other topologies, longer times; that it is fast",
    ),
    "trial": (
        "for the stated objective it is better than, or equivalent to, what it was tried against, at that confidence",
        "the same on another machine or load: the guest's CPUs are emulated where there is no KVM",
    ),
}

_TOP = """\
# What verification proves, and how well

Written by `make verification-doc`: do not edit. The rules and scenarios come from the code, the figures from
`bench/results`, each with the kernels and the date it was measured on.

A scheduler earns a passport by passing stages, in this order; the first that fails ends the run. `rejected` means
that the candidate is bad, `error` that it could not be told (no QEMU, no kernel, no clang, a full disk, an emulator
that broke the guest): exit 1 and 2, and never a pass.
"""

_NOT_PROVEN = """\
## What is not proven

- A passport speaks of one object, on the kernels (by BTF digest) and topology classes in it, until it expires. Drivers,
  firmware, hypervisors and CPUs that the guest does not have were never seen.
- Liveness is a finite set of loads. A fault that needs another load, more CPUs or more time than these is not found.
  The bounds are wide on purpose: they find who is forgotten, not who is slower.
- Limits are relative to the kernel's own scheduler in the same boot. Where it fares badly, a candidate may too.
- Without KVM the guest's CPUs are emulated: the order of events is real, the durations are not those of a machine. What
  a trial finds there is about the order in which tasks run; caches, frequencies and idle states take no part in it.
  QEMU's main thread, which raises the timer interrupts, is real-time there while it takes less than half of a CPU,
  where that is allowed (root, or CAP_SYS_NICE); elsewhere wakeup latencies have up to 4 ms of this machine's own
  scheduling in them.
- Lint reads C text path by path and knows the bugs in its list. Silence of a rule is no proof.
- Rates of detection are over `tests/corpus`, whose bugs were planted with the rules known. A bug of another kind may be
  caught more seldom.
- The sandbox and the guest keep a candidate from this machine as far as bubblewrap, the kernel and QEMU do.
- Whoever holds a trusted key can sign anything. A passport says who verified, not that the verifier was honest; raw
  evidence is bound to it by digest so that others can look again.

What happens when something is missing or breaks (no QEMU, no kernel, no clang, full disk, a guest that is killed,
Ctrl-C) is no figure but a test: `tests/verify/test_error_paths.py`.
"""


def from_code() -> str:
    """The half that needs no measurement."""
    stages = [[f"`{stage}`", *_PROVES[stage]] for stage in STAGES]
    known = rules.all()
    errors = sum(each.severity == "error" for each in known)
    lint = [[f"`{each.id}`", each.severity, each.sentence, each.fix] for each in known]
    scenarios = [
        [f"`{each.name}`", each.asks, each.load, each.fails_if + _needs(each.least_cpus)] for each in SCENARIOS
    ]
    parts = [
        _TOP, "## The stages", "", table(["stage", "a pass proves that", "it does not prove"], stages), "",
        f"## The {len(known)} lint rules", "",
        f"{errors} reject; the others warn, for they cannot be certain. `schedctl explain lint/RULE` shows a bad and a "
        "good example, which are its tests.", "",
        table(["rule", "severity", "what is wrong", "fix"], lint), "",
        f"## The {len(SCENARIOS)} liveness scenarios", "",
        "*The kernel's own* is the same figure under the kernel's own scheduler, in the same boot. Whatever the load, "
        "a candidate also fails when the kernel throws it out, a task is stuck or the guest hangs or panics.", "",
        table(["scenario", "question", "load", "it fails if"], scenarios), "",
    ]  # fmt: skip
    return "\n".join(parts) + "\n" + _NOT_PROVEN


def _needs(cpus: int) -> str:
    return f" (only with {cpus} CPUs or more)" if cpus > 1 else ""


PAGE = Page("verification", from_code, lambda results: sections(Results.read(results)))
DOC, document, differs, main = PAGE.path, PAGE.document, PAGE.differs, PAGE.main


if __name__ == "__main__":
    sys.exit(main())
