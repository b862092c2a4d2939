# SPDX-License-Identifier: Apache-2.0
"""`schedctl verify`: any sched_ext scheduler, as C, as an object or as a proposal, through the stages.

Exit 0 when it passed, 1 when it was rejected, 2 when there is no verdict: an environment that failed, and a signal that
ends us, are not the candidate's fault, and a script must not take them for a pass. Nothing is left behind then: no
guest, no file, no half of a passport.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller.cli.command import Parser, UsageError, Verb
from controller.cli.context import Context
from controller.cli.output import structured
from controller.cli.text import one_line, printable, table
from controller.errors import CouldNotTell, InputError, Interrupted

if TYPE_CHECKING:
    from controller.api import Passport, StageResult
    from controller.kernel.images import KernelImage
    from controller.verify import Candidate, Examination, TrialSpec

_ON_A_KERNEL = {"load", "liveness", "trial"}
_EVIDENCE_LINES = 20
_PATIENCE_S = 10.0  # before a second Ctrl-C ends us without cleaning up; the guest dies with us all the same


def _arguments(parser: Parser) -> None:
    parser.add_argument("file", nargs="?", default="", metavar="FILE", help="a .bpf.c or .bpf.o file")
    parser.add_argument("-f", "--filename", metavar="PROPOSAL", help="a proposal (`plan`), YAML or JSON; - is stdin")
    parser.add_argument(
        "--kernel", metavar="IMAGE", action="append", default=[], help="newest, oldest, node, a release or a path"
    )
    parser.add_argument(
        "--topology",
        metavar="SHAPE",
        action="append",
        default=[],
        help="the guest's CPUs, as 4 or as packages x cores x threads (2x2x2); default: 2",
    )
    parser.add_argument("--stages", metavar="A,B", default="", help="only these; default: all")
    parser.add_argument("--trial", metavar="WORKLOAD", default="", help="compare with the kernel's own scheduler on it")
    parser.add_argument("--mde", metavar="5%", default="", help="smallest effect that the trial must see; default 5%%")
    parser.add_argument("--incumbent", metavar="OBJ", default="", help="a .bpf.o that the trial compares with as well")
    parser.add_argument("--twin", metavar="FILE", default="", help="rt-app document for --trial twin")
    parser.add_argument("--passport", metavar="FILE", help="write the signed passport to FILE")
    parser.output("table", "json", "yaml")


def _verify(args: Namespace, context: Context) -> int:
    with _stoppable(last=context.stdout is sys.stdout):
        try:
            return _examine(args, context)
        except Interrupted as stop:
            context.warn(f"error: stopped by {stop} before there was a verdict (run it again)")
            return 2
        finally:
            from controller.kernel import leftovers

            leftovers.sweep()


@contextlib.contextmanager
def _stoppable(*, last: bool) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise Interrupted, once: cleaning up is not interrupted, unless it takes too long.

    With `last` the process ends after this, with a verdict that no signal changes any more.
    """
    asked: list[float] = []

    def stop(number: int, _frame: object) -> None:
        if not asked:
            asked.append(time.monotonic())
            raise Interrupted(signal.Signals(number).name)
        if time.monotonic() - asked[0] > _PATIENCE_S:
            os._exit(2)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, signal.SIG_IGN if last else handler)


def _examine(args: Namespace, context: Context) -> int:
    from controller import verify
    from controller.kernel.vmshape import VmShape

    stages = _stages(args.stages)
    # What a proposal's findings point into is its C, as `schedctl render` prints it.
    name = args.file or "scheduler.bpf.c"
    candidate = _candidate(args, context)
    stages = (*stages, "trial") if args.trial and "trial" not in stages else stages
    kernels = _kernels(args.kernel, stages)
    shapes = tuple(VmShape.parse(each) for each in args.topology)
    examination = verify.examine(
        candidate,
        kernels=kernels,
        shapes=shapes,
        stages=stages,
        trial=_trial(args, candidate),
        reporter=context.reporter,
    )
    passport = examination.passport
    if args.passport and passport.object_digest is None:
        context.warn("Warning: no passport was written: it speaks of an object, and none was built")
    elif args.passport:
        _write_passport(examination, Path(args.passport))
    if args.output == "table":
        context.out(report(passport, name))
    else:
        context.out(structured(passport.wire(), args.output))
    return exit_code(passport)


def exit_code(passport: Passport) -> int:
    """0 for a pass, 1 for a rejection, 2 for anything that is neither."""
    return {"pass": 0, "rejected": 1}.get(passport.verdict.value, 2)


def _stages(text: str) -> tuple[str, ...]:
    from controller.api import STAGES

    stages = tuple(word.strip() for word in text.split(",") if word.strip()) or STAGES
    for stage in stages:
        if stage not in STAGES:
            raise InputError(f'unknown stage "{stage}"', remedy=f"the stages are {', '.join(STAGES)}")
    return tuple(stage for stage in STAGES if stage in stages)


def _kernels(names: list[str], stages: tuple[str, ...]) -> tuple[KernelImage, ...]:
    """The images named; without any, the node's own where that has sched_ext, else the newest that was pulled.

    None at all is no error here: what is wrong with the candidate itself can be told without a kernel.
    """
    from controller.errors import ToolMissing
    from controller.kernel import images

    if not _ON_A_KERNEL & set(stages):
        return ()
    if names:
        return tuple(images.resolve(name) for name in names)
    for name in ("node", "newest"):
        with contextlib.suppress(ToolMissing):
            image = images.resolve(name)
            if image.has_sched_ext or name == "newest":
                return (image,)
    return ()


def _trial(args: Namespace, candidate: Candidate) -> TrialSpec | None:
    """What --trial asks for; for a proposal `--stages trial` is enough, its classes say the rest."""
    import dataclasses

    from controller.api import policy
    from controller.api.base import parse_percent
    from controller.verify.trial import TrialSpec, spec_for

    asked = bool(args.trial) or "trial" in args.stages.split(",")
    if not asked:
        if args.mde or args.incumbent or args.twin:
            raise UsageError("--mde, --incumbent and --twin go with --trial WORKLOAD")
        return None
    try:
        found: dict[str, Any] = {"mde": parse_percent(args.mde)} if args.mde else {}
    except ValueError as error:
        raise InputError(f"--mde {error}") from None
    found |= {"incumbent": _bytes(args.incumbent)} if args.incumbent else {}
    found |= {"twin": _bytes(args.twin).decode(errors="replace")} if args.twin else {}
    if candidate.proposal is not None:
        made = spec_for(candidate.proposal, policy.VerificationSpec())
        if args.trial and args.trial != made.workload:
            found |= _workload(args.trial)
        return dataclasses.replace(made, **found)
    return TrialSpec(**(_workload(args.trial) | found)) if args.trial else None


def _workload(name: str) -> dict[str, Any]:
    from controller.verify.trial import spec

    if name not in spec.OBJECTIVES:
        raise InputError(f'unknown workload "{name}"', remedy=f"one of {', '.join(spec.OBJECTIVES)}")
    metric = spec.OBJECTIVES[name]
    return {"workload": name, "metric": metric, "guardrails": spec.default_guardrails(name, metric)}


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f'reading "{path}": {error.strerror}') from None


def _candidate(args: Namespace, context: Context) -> Candidate:
    from controller import verify

    if bool(args.file) == bool(args.filename):
        raise UsageError("name a FILE.bpf.c or FILE.bpf.o, or a proposal with -f, not both")
    if args.filename:
        from controller.api import Proposal
        from controller.cli.pipeline import template_of
        from controller.cli.values import read_value

        proposal = read_value(Proposal, args.filename, context)
        return verify.Candidate.from_proposal(proposal, template_of(proposal.template, args, context))
    return verify.Candidate.from_file(Path(args.file))


def _write_passport(examination: Examination, path: Path) -> None:
    """The evidence first, so that a passport is never there without the files it names."""
    from controller.kernel import leftovers
    from controller.trust import dsse, keys

    if not path.parent.is_dir():
        raise InputError(f'cannot write "{path}": there is no folder {path.parent}')
    envelope = dsse.sign(examination.passport, keys.ensure_signing_key()).canonical()
    folder = evidence_folder(path)
    try:
        if examination.attachments:
            folder.mkdir(exist_ok=True)
        for name, data in examination.attachments.items():
            leftovers.write(folder / name, data)
        leftovers.write(path, envelope)
    except OSError as error:
        raise CouldNotTell(f'cannot write "{path}": {error.strerror}', remedy="write it somewhere else") from None


def evidence_folder(passport: Path) -> Path:
    """Where the evidence of the passport in that file lies: FILE.evidence/."""
    return passport.with_name(f"{passport.name}.evidence")


def report(passport: Passport, name: str) -> str:
    """The stages as a table, what they found with file and line, the evidence of the stage that failed, the verdict."""
    rows = [_row(stage, "-") for stage in passport.stages]
    several = len({column.topology_class for column in passport.kernels}) > 1
    for column in passport.kernels:
        where = f"{column.release} {column.topology_class}" if several else column.release
        rows += [_row(stage, where) for stage in column.stages]
    text = table(["STAGE", "KERNEL", "VERDICT", "SECONDS", "SUMMARY"], rows)
    for stage in passport.all_stages():
        text += "".join(_finding_lines(stage, name))
    failed = next((s for s in passport.all_stages() if s.verdict.value in ("rejected", "error")), None)
    if failed is not None and failed.evidence:
        lines = printable(failed.evidence).rstrip("\n").splitlines()[-_EVIDENCE_LINES:]
        text += f"\nevidence of {failed.stage}:\n" + "".join(f"    {line}\n" for line in lines)
    return f"{text}\n{_verdict(passport, failed, name)}\n"


def _row(stage: StageResult, kernel: str) -> list[str]:
    seconds = f"{stage.seconds:.1f}" if stage.verdict.value != "notRun" else "-"
    return [stage.stage, kernel, stage.verdict.value, seconds, stage.summary]


def _finding_lines(stage: StageResult, name: str) -> list[str]:
    lines = []
    for finding in stage.findings:
        place = f"{name}:{finding.line}" if finding.line else name
        severity = "error" if finding.severity == "error" else "warning"
        lines.append(f"\n{place}: {severity}: {one_line(finding.message)} [{finding.rule}]\n")
        lines += [f"    fix: {one_line(finding.fix)}\n"] if finding.fix else []
    return lines


def _verdict(passport: Passport, failed: StageResult | None, name: str) -> str:
    if passport.verdict.value == "pass":
        on = ", ".join(dict.fromkeys(column.release for column in passport.kernels))
        return f"{name} passed on {on}" if on else f"{name} passed"
    why = f": {failed.stage}: {one_line(failed.summary)}" if failed is not None else ""
    return f"{name} {'rejected' if passport.verdict.value == 'rejected' else 'has no verdict'}{why}"


VERIFY = Verb(
    run=_verify,
    arguments=_arguments,
    failure=2,  # 1 is a rejection
    usage="FILE.bpf.c|FILE.bpf.o [--kernel IMAGE]... [--topology SHAPE]... [--stages a,b]\n"
    "  schedctl verify -f PROPOSAL [flags]",
    details="Exit code: 0 passed, 1 rejected, 2 could not tell.",
)
