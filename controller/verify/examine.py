# SPDX-License-Identifier: Apache-2.0
"""Examine: a candidate through the stages, and the passport that says how it went.

    of no kernel     schema → render → lint → build → audit
    of each kernel   load → liveness → trial

The first failing stage ends the run. Stages that a candidate of its kind does not have (lint of a bare object), that
were not asked for or that were never reached are in the passport as `notRun`. A stage that another one needs (build for
load) runs with it. What is verified is exactly what is returned: source and object bytes, by digest in the passport.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from pydantic import ValidationError

from controller import __version__
from controller.api import (
    STAGES,
    EvidenceFile,
    Fingerprint,
    KernelColumn,
    Passport,
    Proposal,
    Reporter,
    SchedulerTemplate,
    Silent,
    StageResult,
    Verdict,
    now,
    sha256,
)
from controller.errors import (
    CandidateRejected,
    CouldNotTell,
    GuestError,
    InputError,
    Interrupted,
    SchedctlError,
    TemplateError,
    ToolMissing,
)
from controller.kernel import clang, kernel_btf, qemu
from controller.kernel.images import KernelImage
from controller.kernel.microvm import EmulatorFault, Guest, GuestHung, VmShape, boot
from controller.paths import data_dir
from controller.render import parameters, render
from controller.verify import evidence, lint
from controller.verify.audit import audit
from controller.verify.candidate import Candidate
from controller.verify.liveness import Bench, LivenessRejected, liveness
from controller.verify.load import figures, load
from controller.verify.stages import Ended, Outcome, Record, said_of
from controller.verify.trial import TrialSpec

MAX_AGE_NS = 30 * 86_400 * 10**9
ATTEMPTS = 3
"""How often a kernel's stages are tried when the emulator itself breaks."""

_NEEDS = {
    "render": ("schema",),
    "lint": ("schema", "render"),
    "build": ("schema", "render"),
    "audit": ("schema", "render", "build"),
    "load": ("schema", "render", "build", "audit"),
    "liveness": ("schema", "render", "build", "audit", "load"),
    "trial": ("schema", "render", "build", "audit", "load"),
}
_NO_TRIAL = "no trial of benefit was asked for"


@dataclass(frozen=True, slots=True)
class Examination:
    """The passport, and the bytes it speaks of: None for what there was not, or was not come to."""

    passport: Passport
    source: bytes | None
    object: bytes | None
    attachments: dict[str, bytes] = field(default_factory=dict)


@dataclass
class _Run:
    """One examination under way."""

    candidate: Candidate
    wanted: frozenset[str]
    shapes: tuple[VmShape, ...]
    shape: VmShape
    reporter: Reporter
    static: Record
    kernels: tuple[KernelImage, ...] = ()
    columns: list[KernelColumn] = field(default_factory=list)
    tools: dict[str, str] = field(default_factory=dict)
    source: str | None = None
    image: bytes | None = None
    ops_name: str = ""
    attachments: dict[str, bytes] = field(default_factory=dict)
    trial: TrialSpec | None = None


_Body = Callable[[_Run, Outcome], None]


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
    run = _Run(candidate, wanted, sizes, sizes[0], said, Record(said), tuple(kernels), tools=tools, trial=trial)
    run.source, run.image = candidate.source, candidate.image
    try:
        _static_stages(run)
        _kernel_stages(run, kernels)
    except Ended:
        pass
    except Interrupted as stop:  # between two stages
        run.static.error(_next(run), said_of(stop))
    _note_what_did_not_run(run)
    run.attachments = evidence.packed(run.attachments)
    source = run.source.encode("utf-8", "replace") if run.source is not None else None
    return Examination(_passport(run, max_age_ns, workload), source, run.image, run.attachments)


# ---- stages of no kernel ----


def _static_stages(run: _Run) -> None:
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


def _when(run: _Run, stage: str, doing: str, body: _Body) -> None:
    if stage in run.wanted:
        run.static.run(stage, doing, lambda outcome: body(run, outcome))


def _schema(run: _Run, outcome: Outcome) -> None:
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


def _render(run: _Run, outcome: Outcome) -> None:
    rendered = render(*_filled(run.candidate))
    run.source, run.ops_name = rendered.text, rendered.ops_name
    outcome.figures = {"lines": rendered.text.count("\n")}
    outcome.summary = f"{rendered.ops_name}: {rendered.text.count(chr(10))} lines of C"


def _lint(run: _Run, outcome: Outcome) -> None:
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


def _build(run: _Run, outcome: Outcome) -> None:
    run.tools["clang"] = clang.find().version
    built = clang.compile_bpf(run.source or "", data_dir("bpf") / "include")
    run.image = built.object
    warnings = sum(d.severity == "warning" for d in built.diagnostics)
    outcome.figures = {"object_bytes": len(built.object), "warnings": warnings}
    outcome.summary = f"{len(built.object)} bytes by clang {built.clang}, {warnings} warnings"


def _audit(run: _Run, outcome: Outcome) -> None:
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


# ---- stages of each kernel ----


def _kernel_stages(run: _Run, kernels: Sequence[KernelImage]) -> None:
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


def _on_kernel(run: _Run, kernel: KernelImage) -> None:
    """One column. Tried again when the emulator breaks the guest, which says nothing about the candidate; and when the
    guest hangs: that may be this busy machine once, and is the candidate in charge the second time.
    """
    hung = 0
    for attempt in range(1, ATTEMPTS + 1):
        record = Record(run.reporter, where=f" on {kernel.release}{_size(run, ' with ', ' CPUs')}")
        column: list[KernelColumn] = []
        try:
            _attempt(run, kernel, record, column, hung)
        except Ended as ended:
            why = _why_again(ended.__cause__)
            if why and attempt < ATTEMPTS:
                hung += isinstance(ended.__cause__, GuestHung)
                run.reporter.step(f"{why}; attempt {attempt + 1} of {ATTEMPTS}")
                continue
            if isinstance(ended.__cause__, GuestError) and not column:  # it never came up
                file = f"console-{kernel.release}{_size(run, '-')}.txt"
                run.attachments[file] = ended.__cause__.console.encode("utf-8", "replace")
            _keep(run, record, column)
            raise
        _keep(run, record, column)
        return


def _why_again(cause: BaseException | None) -> str:
    """What to say before the kernel's stages are tried again; "" when they are not."""
    if isinstance(cause, EmulatorFault):
        return "the emulator broke the guest"
    if isinstance(cause, GuestHung) and cause.in_charge:
        return "the guest did not answer"
    return ""


def _size(run: _Run, before: str, after: str = "") -> str:
    """The shape in words or a file's name, where there are several."""
    return f"{before}{run.shape.label}{after}" if len(run.shapes) > 1 else ""


def _attempt(run: _Run, kernel: KernelImage, record: Record, column: list[KernelColumn], hung: int) -> None:
    guests: list[Guest] = []
    try:
        bench = record.run("load", "does its BPF verifier accept it", lambda o: _load(run, kernel, guests, column, o))
        if "liveness" in run.wanted:
            record.run("liveness", "does everything keep running", lambda o: _liveness(run, bench, o, hung))
        if run.trial is not None and "trial" in run.wanted:
            spec = run.trial
            record.run("trial", "is it better, and no worse for the rest", lambda o: _trial(run, bench.guest, spec, o))
    finally:
        for guest in guests:
            _keep_words(run, guest)
            guest.close()


def _load(run: _Run, kernel: KernelImage, guests: list[Guest], column: list[KernelColumn], outcome: Outcome) -> Bench:
    if kernel.has_sched_ext is False:
        raise _without_sched_ext(kernel.release)
    guest = boot(kernel.path, run.shape, reporter=run.reporter.step)
    guests.append(guest)
    facts = guest.facts
    if not facts.sched_ext:
        raise _without_sched_ext(facts.release)
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
    bench = Bench(guest, again=lambda: boot(kernel.path, shape))
    report = load(guest, run.image or b"")
    run.ops_name = report.ops_name
    outcome.figures = dict(figures(report))
    outcome.summary = (
        f"accepted after {outcome.figures['insns_verified']} instructions in {len(report.programs)} programs"
    )
    return bench


def _keep_words(run: _Run, guest: Guest) -> None:
    """The guest's console, and its kernel's log since the candidate was loaded, beside the passport."""
    name = f"{guest.facts.release}{_size(run, '-')}.txt"
    texts = {f"console-{name}": guest.console()}
    with contextlib.suppress(SchedctlError):  # of a guest that is gone the console is what there is
        texts[f"dmesg-{name}"] = "\n".join(guest.kmsg()) + "\n"
    for file, text in texts.items():
        run.attachments[file] = text.encode("utf-8", "replace")


def _liveness(run: _Run, bench: Bench, outcome: Outcome, hung: int) -> None:
    try:
        report = liveness(bench, run.ops_name, run.reporter)
    except GuestHung as error:
        if not hung or not error.in_charge:
            raise
        message = f"with it in charge the kernel hangs, {hung + 1} times out of {hung + 1}: {error.message}"
        raise LivenessRejected("hang", message, evidence=error.console) from error
    outcome.figures = dict(report.figures)
    outcome.findings = tuple(report.warnings)
    left_out = "".join(f", {name} does not apply: {why}" for name, why in report.left_out.items())
    outcome.summary = f"{len(report.seconds)} scenarios, {len(report.warnings)} warnings{left_out}"


def _trial(run: _Run, guest: Guest, spec: TrialSpec, outcome: Outcome) -> None:
    from controller.verify.trial.runner import settle, try_candidate  # with numpy, which nothing else here needs

    trial = try_candidate(guest, spec, [run.image or b""], run.reporter)
    run.attachments[f"trial-{guest.facts.release}{_size(run, '-')}.json"] = trial.document
    settle(trial.result)
    outcome.figures = trial.result.figures()
    outcome.findings = trial.result.warnings()
    outcome.summary = trial.result.summary()


def _without_sched_ext(release: str) -> ToolMissing:
    return ToolMissing(
        f"kernel {release} is built without sched_ext (CONFIG_SCHED_CLASS_EXT)", remedy="schedctl kernel pull newest"
    )


def _keep(run: _Run, record: Record, column: list[KernelColumn]) -> None:
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


# ---- the passport ----


def _note_what_did_not_run(run: _Run) -> None:
    for stage in STAGES[:5]:
        if not any(result.stage == stage for result in run.static.results):
            run.static.not_run(stage, _why_not(run, stage))
    run.static.results.sort(key=lambda result: STAGES.index(result.stage))
    for index, column in enumerate(run.columns):
        record = Record(run.reporter, results=list(column.stages))
        for stage in STAGES[5:]:  # those of a kernel
            if not any(result.stage == stage for result in record.results):
                record.not_run(stage, _NO_TRIAL if stage == "trial" and run.trial is None else _why_not(run, stage))
        run.columns[index] = column.model_copy(update={"stages": tuple(record.results)})


def _next(run: _Run) -> str:
    """The stage that would have come next, or the last one."""
    told = {result.stage for result in run.static.results} | {s.stage for c in run.columns for s in c.stages}
    done = max((STAGES.index(stage) for stage in told), default=-1)
    kinds = _kinds(run.candidate)
    return next((s for s in STAGES[done + 1 :] if s in run.wanted and s in kinds), STAGES[max(done, 0)])


def _kinds(candidate: Candidate) -> tuple[str, ...]:
    """The stages that a candidate of this kind has."""
    return STAGES if candidate.proposal is not None else STAGES[2 if candidate.source is not None else 4 :]


def _why_not(run: _Run, stage: str) -> str:
    if stage not in run.wanted:
        return "not asked for"
    kind = "C text" if run.candidate.source is not None else "an object"
    theirs = {"schema", "render"} if run.candidate.source is not None else {"schema", "render", "lint", "build"}
    if run.candidate.proposal is None and stage in theirs:
        return f"the candidate is {kind}"
    return "an earlier stage failed"


def _passport(run: _Run, max_age_ns: int, workload: Fingerprint | None) -> Passport:
    issued = now()
    proposal = run.candidate.proposal
    return Passport(
        verdict=_verdict([*run.static.results, *(s for column in run.columns for s in column.stages)]),
        object_digest=sha256(run.image) if run.image is not None else None,
        source_digest=sha256(run.source.encode("utf-8", "replace")) if run.source is not None else None,
        template_digest=proposal.template_digest if proposal is not None else None,
        proposal_digest=proposal.content_digest() if proposal is not None else None,
        ops_name=run.ops_name,
        stages=tuple(run.static.results),
        kernels=tuple(run.columns),
        tools=run.tools,
        workload=workload,
        attachments=tuple(
            EvidenceFile(name=name, digest=sha256(data), size=len(data))
            for name, data in sorted(run.attachments.items())
        ),
        issued_at=issued,
        expires_at=issued + timedelta(microseconds=max_age_ns // 1000),
    )


def _verdict(results: Sequence[StageResult]) -> Verdict:
    verdicts = {result.verdict for result in results}
    for verdict in (Verdict.REJECTED, Verdict.ERROR, Verdict.PASS):
        if verdict in verdicts:
            return verdict
    return Verdict.NOT_RUN
