# SPDX-License-Identifier: Apache-2.0
"""`schedctl verify`: any sched_ext scheduler, as C, as an object or as a proposal, through the stages.

Exit 0 when it passed, 1 when it was rejected, 2 when there is no verdict: an environment that failed is not the
candidate's fault, and a script must not take it for a pass.
"""

from __future__ import annotations

import contextlib
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli.command import Parser, UsageError, Verb
from controller.cli.context import Context
from controller.cli.files import write_whole
from controller.cli.output import structured
from controller.cli.text import one_line, printable, table
from controller.errors import InputError

if TYPE_CHECKING:
    from controller.api import Passport, StageResult
    from controller.kernel.images import KernelImage
    from controller.verify import Candidate, Examination

_ON_A_KERNEL = {"load", "liveness", "trial"}
_EVIDENCE_LINES = 20


def _arguments(parser: Parser) -> None:
    parser.add_argument("file", nargs="?", default="", metavar="FILE", help="a .bpf.c or .bpf.o file")
    parser.add_argument("-f", "--filename", metavar="PROPOSAL", help="a proposal (`plan`), YAML or JSON; - is stdin")
    parser.add_argument(
        "--kernel", metavar="IMAGE", action="append", default=[], help="newest, oldest, node, a release or a path"
    )
    parser.add_argument("--stages", metavar="A,B", default="", help="only these; default: all")
    parser.add_argument("--passport", metavar="FILE", help="write the signed passport to FILE")
    parser.output("table", "json", "yaml")


def _verify(args: Namespace, context: Context) -> int:
    from controller import verify

    stages = _stages(args.stages)
    # What a proposal's findings point into is its C, as `schedctl render` prints it.
    name = args.file or "scheduler.bpf.c"
    candidate = _candidate(args, context)
    kernels = _kernels(args.kernel, stages)
    examination = verify.examine(candidate, kernels=kernels, stages=stages, reporter=context.reporter)
    passport = examination.passport
    if args.passport:
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
    from controller.trust import dsse, keys

    envelope = dsse.sign(examination.passport, keys.ensure_signing_key()).canonical()
    folder = evidence_folder(path)
    if examination.attachments:
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f'cannot make the folder "{folder}": {error.strerror}') from None
    for name, data in examination.attachments.items():
        write_whole(folder / name, data)
    write_whole(path, envelope)


def evidence_folder(passport: Path) -> Path:
    """Where the evidence of the passport in that file lies: FILE.evidence/."""
    return passport.with_name(f"{passport.name}.evidence")


def report(passport: Passport, name: str) -> str:
    """The stages as a table, what they found with file and line, the evidence of the stage that failed, the verdict."""
    rows = [_row(stage, "-") for stage in passport.stages]
    rows += [_row(stage, column.release) for column in passport.kernels for stage in column.stages]
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
        on = ", ".join(column.release for column in passport.kernels)
        return f"{name} passed on {on}" if on else f"{name} passed"
    why = f": {failed.stage}: {one_line(failed.summary)}" if failed is not None else ""
    return f"{name} {'rejected' if passport.verdict.value == 'rejected' else 'has no verdict'}{why}"


VERIFY = Verb(
    run=_verify,
    arguments=_arguments,
    usage="FILE.bpf.c|FILE.bpf.o [--kernel IMAGE]... [--stages a,b]\n  schedctl verify -f PROPOSAL [flags]",
    details="Exit code: 0 passed, 1 rejected, 2 could not tell.",
)
