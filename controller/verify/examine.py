# SPDX-License-Identifier: Apache-2.0
"""Examine: a candidate through the stages, and the passport that says how it went.

    of no kernel     schema → render → lint → build → audit
    of each kernel   load → liveness → trial

The first failing stage ends the run. Stages that a candidate of its kind does not have (lint of a bare object), that
were not asked for or that were never reached are in the passport as `notRun`. A stage that another one needs (build for
load) runs with it. What is verified is exactly what is returned: source and object bytes, by digest in the passport.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from controller import __version__
from controller.api import (
    STAGES,
    Fingerprint,
    Passport,
    Proposal,
    Reporter,
    SchedulerTemplate,
    Silent,
)
from controller.errors import (
    CandidateRejected,
    InputError,
    Interrupted,
    TemplateError,
)
from controller.kernel import clang, kernel_btf
from controller.kernel.images import KernelImage
from controller.kernel.microvm import VmShape
from controller.paths import data_dir
from controller.render import parameters, render
from controller.verify import evidence, lint
from controller.verify.assembly import next_stage, note_what_did_not_run, passport_of
from controller.verify.audit import audit
from controller.verify.candidate import Candidate
from controller.verify.columns import run_on_kernels
from controller.verify.examination import Run
from controller.verify.stages import Ended, Outcome, Record, said_of
from controller.verify.trial import TrialSpec

MAX_AGE_NS = 30 * 86_400 * 10**9

_NEEDS = {
    "render": ("schema",),
    "lint": ("schema", "render"),
    "build": ("schema", "render"),
    "audit": ("schema", "render", "build"),
    "load": ("schema", "render", "build", "audit"),
    "liveness": ("schema", "render", "build", "audit", "load"),
    "trial": ("schema", "render", "build", "audit", "load"),
}


@dataclass(frozen=True, slots=True)
class Examination:
    """The passport, and the bytes it speaks of: None for what there was not, or was not come to."""

    passport: Passport
    source: bytes | None
    object: bytes | None
    attachments: dict[str, bytes] = field(default_factory=dict)


_Body = Callable[[Run, Outcome], None]


def examine(
    candidate: Candidate,
    *,
    kernels: Sequence[KernelImage] = (),
    shapes: Sequence[VmShape] = (),
    stages: Sequence[str] | None = None,
    max_age_ns: int = MAX_AGE_NS,
    workload: Fingerprint | None = None,
    trial: TrialSpec | None = None,
    reporter: Reporter | None = None,
) -> Examination:
    """Take the candidate through `stages` (default: all), those of a kernel on each of `kernels` and each of `shapes`
    (default: 2 CPUs); the passport has the verdict.

    The stage `trial` runs when `trial` says what it is to show; its samples are an attachment for each kernel.

    Never raises for what is wrong with the candidate or the machine: both are in the passport, as `rejected` and
    `error`; so is a signal that the caller turns into `Interrupted`. InputError only for a stage name that is none.
    0.5 s without a kernel, about 60 s for each kernel on two emulated CPUs.
    """
    unknown = [stage for stage in stages or () if stage not in STAGES]
    if unknown:
        raise InputError(f'unknown stage "{unknown[0]}"', remedy=f"the stages are {', '.join(STAGES)}")
    asked = frozenset(stages if stages is not None else STAGES)
    asked -= {"trial"} if trial is None else set()
    wanted = asked.union(*(_NEEDS.get(stage, ()) for stage in asked))
    said = reporter or Silent()
    sizes = tuple(dict.fromkeys(shapes)) or (VmShape(),)
    tools = {"schedctl": __version__}
    run = Run(candidate, wanted, sizes, sizes[0], said, Record(said), tuple(kernels), tools=tools, trial=trial)
    run.source, run.image = candidate.source, candidate.image
    try:
        _static_stages(run)
        run_on_kernels(run, kernels)
    except Ended:
        pass
    except Interrupted as stop:  # between two stages
        run.static.error(next_stage(run), said_of(stop))
    note_what_did_not_run(run)
    run.attachments = evidence.packed(run.attachments)
    source = run.source.encode("utf-8", "replace") if run.source is not None else None
    return Examination(passport_of(run, max_age_ns, workload), source, run.image, run.attachments)


# ---- stages of no kernel ----


def _static_stages(run: Run) -> None:
    if run.candidate.proposal is not None:
        _when(run, "schema", "are the values typed and in range", _schema)
        _when(run, "render", "does the template take them", _render)
    if run.source is not None:
        _when(run, "lint", "would an expert object", _lint)
        _when(run, "build", "does it compile, safely", _build)
    if run.image is not None:
        _when(run, "audit", "is the object a scheduler and nothing else", _audit)


def _filled(candidate: Candidate) -> tuple[Proposal, SchedulerTemplate]:
    if candidate.proposal is None or candidate.template is None:
        raise TemplateError("the candidate is no filled template", remedy="use Candidate.from_proposal")
    return candidate.proposal, candidate.template


def _when(run: Run, stage: str, doing: str, body: _Body) -> None:
    if stage in run.wanted:
        run.static.run(stage, doing, lambda outcome: body(run, outcome))


def _schema(run: Run, outcome: Outcome) -> None:
    proposal, template = _filled(run.candidate)
    where = f"template {template.name}"
    try:
        Proposal.model_validate(proposal.wire())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise TemplateError(f"the proposal is not valid: {place}: {first['msg']}", remedy="plan again") from error
    parameters.resolve(template.spec.parameters, proposal.parameters, where)
    for task_class in proposal.classes:
        parameters.resolve(template.spec.class_parameters, task_class.parameters, f"{where}, class {task_class.handle}")
    outcome.figures = {"classes": len(proposal.classes), "parameters": len(proposal.parameters)}
    outcome.summary = f"{len(proposal.parameters)} parameters and {len(proposal.classes)} classes are in range"


def _render(run: Run, outcome: Outcome) -> None:
    rendered = render(*_filled(run.candidate))
    run.source, run.ops_name = rendered.text, rendered.ops_name
    outcome.figures = {"lines": rendered.text.count("\n")}
    outcome.summary = f"{rendered.ops_name}: {rendered.text.count(chr(10))} lines of C"


def _lint(run: Run, outcome: Outcome) -> None:
    include = data_dir("bpf") / "include"
    headers = {str(path.relative_to(include)): path.read_text() for path in sorted(include.rglob("*.h"))}
    outcome.findings = lint.run(run.source or "", headers, kernels=[kernel.release for kernel in run.kernels])
    errors = [f for f in outcome.findings if f.severity == "error"]
    warnings = len(outcome.findings) - len(errors)
    outcome.figures = {"rules": len(lint.rules.all()), "errors": len(errors), "warnings": warnings}
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise CandidateRejected("lint", f"line {errors[0].line}: {errors[0].message}{more}", remedy=errors[0].fix)
    outcome.summary = f"{len(lint.rules.all())} rules, {warnings} warnings"


def _build(run: Run, outcome: Outcome) -> None:
    run.tools["clang"] = clang.find().version
    built = clang.compile_bpf(run.source or "", data_dir("bpf") / "include")
    run.image = built.object
    warnings = sum(d.severity == "warning" for d in built.diagnostics)
    outcome.figures = {"object_bytes": len(built.object), "warnings": warnings}
    outcome.summary = f"{len(built.object)} bytes by clang {built.clang}, {warnings} warnings"


def _audit(run: Run, outcome: Outcome) -> None:
    kfuncs = {kernel.release: kernel_btf.kfuncs(kernel) for kernel in run.kernels}
    report = audit(run.image or b"", {release: names for release, names in kfuncs.items() if names})
    run.ops_name = report.ops_name
    outcome.figures = {
        "object_bytes": len(run.image or b""), "programs": len(report.programs), "maps": len(report.maps),
        "map_bytes": report.map_bytes, "kfuncs": len(report.kfuncs), "helpers": len(report.helpers),
    }  # fmt: skip
    outcome.summary = (
        f"{report.ops_name}: {len(report.programs)} programs, {len(report.maps)} maps, {len(report.kfuncs)} kfuncs, "
        f"{report.licence}"
    )
