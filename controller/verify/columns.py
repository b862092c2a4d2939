# SPDX-License-Identifier: Apache-2.0
"""The stages of each kernel, load, liveness and trial, in a guest of each shape: one column of the passport each.

A guest that is broken by the emulator, or hangs once, says nothing about the candidate: the column is begun anew. What
the guest's console and kernel log hold is kept beside the passport whatever the verdict.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from controller.api import KernelColumn
from controller.errors import CouldNotTell, GuestError, SchedctlError, ToolMissing
from controller.kernel import qemu
from controller.kernel.guests import Attempts, boot
from controller.kernel.images import KernelImage
from controller.kernel.microvm import EmulatorFault, Guest, GuestHung
from controller.verify.examination import Run
from controller.verify.liveness import Bench, LivenessRejected, liveness
from controller.verify.load import figures, load
from controller.verify.stages import Ended, Outcome, Record
from controller.verify.trial import TrialSpec


def run_on_kernels(run: Run, kernels: Sequence[KernelImage]) -> None:
    if not {"load", "liveness", "trial"} & run.wanted:
        return
    if not kernels:
        run.static.run("load", "which kernel", _no_kernel)
    run.tools["qemu"] = _qemu_version()
    for kernel in dict.fromkeys(kernels):
        for shape in run.shapes:
            run.shape = shape
            _on_kernel(run, kernel)


def _no_kernel(_outcome: Outcome) -> None:
    raise ToolMissing("there is no kernel image to verify against", remedy="schedctl kernel pull newest")


def _on_kernel(run: Run, kernel: KernelImage) -> None:
    """One column. Tried again when the emulator breaks the guest, which says nothing about the candidate; and when the
    guest hangs: that may be this busy machine once, and is the candidate in charge the second time.
    """
    attempts = Attempts(run.reporter.step)
    while True:
        record = Record(run.reporter, where=f" on {kernel.release}{_size(run, ' with ', ' CPUs')}")
        column: list[KernelColumn] = []
        try:
            _attempt(run, kernel, record, column, attempts)
        except Ended as ended:
            cause = ended.__cause__
            if isinstance(cause, GuestError) and _may_be_chance(cause) and attempts.again(cause):
                continue
            if isinstance(cause, GuestError) and not column:  # it never came up
                file = f"console-{kernel.release}{_size(run, '-')}.txt"
                run.attachments[file] = cause.console.encode("utf-8", "replace")
            _keep(run, record, column)
            raise
        _keep(run, record, column)
        return


def _may_be_chance(error: GuestError) -> bool:
    """Whether another guest may end otherwise. What else ends one is not waited for a second time."""
    return isinstance(error, EmulatorFault) or (isinstance(error, GuestHung) and error.in_charge)


def _size(run: Run, before: str, after: str = "") -> str:
    """The shape in words or a file's name, where there are several."""
    return f"{before}{run.shape.label}{after}" if len(run.shapes) > 1 else ""


def _attempt(run: Run, kernel: KernelImage, record: Record, column: list[KernelColumn], attempts: Attempts) -> None:
    guests: list[Guest] = []
    try:
        bench = record.run("load", "does its BPF verifier accept it", lambda o: _load(run, kernel, guests, column, o))
        if "liveness" in run.wanted:
            record.run("liveness", "does everything keep running", lambda o: _liveness(run, bench, o, attempts))
        if run.trial is not None and "trial" in run.wanted:
            spec = run.trial
            record.run("trial", "is it better, and no worse for the rest", lambda o: _trial(run, bench.guest, spec, o))
    finally:
        for guest in guests:
            _keep_words(run, guest)
            guest.close()


def _load(run: Run, kernel: KernelImage, guests: list[Guest], column: list[KernelColumn], outcome: Outcome) -> Bench:
    guest = boot(kernel, run.shape, reporter=run.reporter.step)
    guests.append(guest)
    facts = guest.facts
    if not facts.btf_digest:
        raise CouldNotTell(f"kernel {facts.release} has no BTF", remedy="take one built with CONFIG_DEBUG_INFO_BTF")
    column.append(
        KernelColumn(
            release=facts.release,
            btf_digest=f"sha256:{facts.btf_digest.removeprefix('sha256:')}",
            topology_class=facts.topology_class,
            stages=(),
        )
    )
    run.tools["libbpf"] = facts.libbpf
    shape = run.shape
    bench = Bench(guest, again=lambda: boot(kernel, shape))
    report = load(guest, run.image or b"")
    run.ops_name = report.ops_name
    outcome.figures = dict(figures(report))
    outcome.summary = (
        f"accepted after {outcome.figures['insns_verified']} instructions in {len(report.programs)} programs"
    )
    return bench


def _keep_words(run: Run, guest: Guest) -> None:
    """The guest's console, and its kernel's log since the candidate was loaded, beside the passport."""
    name = f"{guest.facts.release}{_size(run, '-')}.txt"
    texts = {f"console-{name}": guest.console()}
    with contextlib.suppress(SchedctlError):  # of a guest that is gone the console is what there is
        texts[f"dmesg-{name}"] = "\n".join(guest.kmsg()) + "\n"
    for file, text in texts.items():
        run.attachments[file] = text.encode("utf-8", "replace")


def _liveness(run: Run, bench: Bench, outcome: Outcome, attempts: Attempts) -> None:
    try:
        report = liveness(bench, run.ops_name, run.reporter)
    except GuestHung as error:
        blame = attempts.blame(error)
        if not blame:
            raise
        raise LivenessRejected("hang", blame, evidence=error.console) from error
    outcome.figures = dict(report.figures)
    outcome.findings = tuple(report.warnings)
    left_out = "".join(f", {name} does not apply: {why}" for name, why in report.left_out.items())
    outcome.summary = f"{len(report.seconds)} scenarios, {len(report.warnings)} warnings{left_out}"


def _trial(run: Run, guest: Guest, spec: TrialSpec, outcome: Outcome) -> None:
    from controller.verify.trial.runner import settle, try_candidate  # with numpy, which nothing else here needs

    trial = try_candidate(guest, spec, [run.image or b""], run.reporter)
    run.attachments[f"trial-{guest.facts.release}{_size(run, '-')}.json"] = trial.document
    settle(trial.result)
    outcome.figures = trial.result.figures()
    outcome.findings = trial.result.warnings()
    outcome.summary = trial.result.summary()


def _keep(run: Run, record: Record, column: list[KernelColumn]) -> None:
    """The stages in their column; without a guest that came up there is none, and they are said of no kernel."""
    if column:
        run.columns.append(column[0].model_copy(update={"stages": tuple(record.results)}))
    else:
        run.static.results.extend(record.results)


def _qemu_version() -> str:
    try:
        return ".".join(map(str, qemu.find().version))
    except SchedctlError:
        return "none"
