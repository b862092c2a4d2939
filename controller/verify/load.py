# SPDX-License-Identifier: Apache-2.0
"""Load: does the target kernel's own BPF verifier accept the object; and if not, where and why.

The kernel says why in up to a megabyte of log. Until 7.2 the reason is the last line before the closing figures, and
the source line the last `; text @ file:line` above it; since 7.3 it is a report with `Reason:`, `At:` and
`Suggestion:`. Both are reduced to one finding: source line, cause, hint. When the kernel stops in a header, the message
names that, and the line is the candidate's own last one on the way there, which is where it calls it. The log quotes
the candidate's own source, so it is evidence for people and is matched against fixed patterns, never obeyed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from controller.api import Finding
from controller.errors import CandidateRejected, GuestError, InputError, LoadRefused
from controller.kernel.bpf_object import LoadReport
from controller.kernel.microvm import EmulatorFault, Guest

WATCHDOG_MS = 3000
"""What the watchdog is shortened to in the micro-VM: a lost task shows within 1.5 times this."""
EVIDENCE = 16 << 10

_PANIC = re.compile(r"Kernel panic|\bBUG: |\bOops\b|general protection fault|soft lockup|hard LOCKUP|Watchdog detected")
_REPORT = re.compile(r"^Verification failed: (?P<title>[^\n]+)", re.MULTILINE)
_REASON = re.compile(r"^Reason:\n(?P<text>(?:[ \t]+[^\n]+\n)+)", re.MULTILINE)
_SUGGESTION = re.compile(r"^Suggestion:\n(?P<text>(?:[ \t]+[^\n]+\n)+)", re.MULTILINE)
_AT = re.compile(r"^At:\n\s+(?P<function>\S+)(?: @ (?P<file>[^\s:]+):(?P<line>\d+))?", re.MULTILINE)
_SOURCE_LINE = re.compile(r"^; .* @ (?P<file>[^\s:]+):(?P<line>\d+)$", re.MULTILINE)
_PROGRAM = re.compile(r"prog '(?P<name>\w+)': (?:BPF program load failed|failed to load|-- BEGIN PROG LOAD LOG)")
_FIGURES = re.compile(r"^processed \d+ insns", re.MULTILINE)
_STATES = re.compile(
    r"^processed (?P<insns>\d+) insns .*total_states (?P<all>\d+) peak_states (?P<peak>\d+)", re.MULTILINE
)
_ACQUIRED = re.compile(r"(?:alloc_insn=|was acquired at instruction )(?P<insn>\d+)")
_NOISE = re.compile(
    r"^(?:Global function \w+\(\) doesn't return scalar|verification time|stack depth|processed \d+|prog '\w+':$|"
    r"(?:cur|old) state: |subprog \d+ \(|"
    r"libbpf: (?:failed to load|prog '\w+': (?:failed|--))|--)|^$"
)
_STORE = re.compile(r"^\d+: \((?:6[0-9a-f]|7[0-9a-f])\) \*\(")
_STATE = re.compile(r"^(?:\d+: |; |R\d+|from \d+|func#?\d* ?'?\w*'? arg)")


@dataclass(frozen=True, slots=True)
class Cause:
    """One way in which the kernel refuses a program: the words it uses, and what mends it."""

    name: str
    words: re.Pattern[str]
    hint: str


def _cause(name: str, words: str, hint: str) -> Cause:
    return Cause(name, re.compile(words, re.IGNORECASE), hint)


CAUSES = (
    _cause(
        "verifier-bug",
        r"verifier bug",
        "this kernel's verifier itself fails on the program: write the loop otherwise, or take another kernel",
    ),
    _cause(
        "unbounded-loop",
        r"too complex|infinite loop|program is too large|back-edge|too many states|jumps? is too|"
        r"verifier is not done with",
        "bound the loop by a constant, or use bpf_loop() or bpf_for() with a constant number of rounds",
    ),
    _cause(
        "null-pointer",
        r"or_null'|possibly NULL|may be NULL|nullable|NULL pointer",
        "compare the pointer with NULL before using it",
    ),
    _cause(
        "kfunc-missing",
        r"extern \(func ksym\) '\w+': not found|kernel function btf_id \d+ is not (?:a kernel function|found)|"
        r"extern \(var ksym\)",
        "this kernel has no such function: declare it __weak and test it before the call, or name another kernel",
    ),
    _cause(
        "kfunc-prototype",
        r"extern \(func ksym\) '\w+': func_proto .* incompatible",
        "declare the function as this kernel has it (bpftool btf dump file /sys/kernel/btf/vmlinux)",
    ),
    _cause(
        "kfunc-not-allowed",
        r"(?:calling kernel function|kfunc) \S+ is not allowed|cannot call (?:this )?kfunc",
        "this operation may not call that function; see the lint rule wrong-operation",
    ),
    _cause(
        "not-sleepable",
        r"must be sleepable|might sleep|sleepable (?:helper|kfunc|kernel func)",
        "define the operation with BPF_STRUCT_OPS_SLEEPABLE, or do it in ops.init",
    ),
    _cause(
        "field-missing",
        r"CO-RE relocation|no matching targets found",
        "this kernel's struct has no such field: test bpf_core_field_exists() first",
    ),
    _cause(
        "write-refused",
        r"cannot write into|write into (?:read-?only|map|task)|only read is supported|writes? to .* not allowed|"
        r"access beyond .*at off",
        "of a task only scx.slice, scx.dsq_vtime and scx.disallow may be written; keep the rest in a map",
    ),
    _cause(
        "out-of-bounds",
        r"outside (?:of the|bounds)|out of bounds|invalid access to (?:map|memory|stack)|unbounded memory|"
        r"min value is negative|bounds check|invalid variable-offset|max value is outside",
        "test the index against the size right before the access",
    ),
    _cause(
        "bad-pointer",
        r"invalid mem access|invalid dereference|pointer arithmetic|expected pointer|must be (?:referenced|trusted)|"
        r"type=\S+ expected=|must point to scalar|does not satisfy the verifier contract",
        "use a pointer that the kernel or a map gave, not a number",
    ),
    _cause("helper-not-allowed", r"unknown func|cannot use helper|helper .* not allowed", "do without that helper"),
    _cause(
        "uninitialised",
        r"!read_ok|uninitialized|never been initialized",
        "give it a value on every path before it is read",
    ),
    _cause("division", r"div(?:ision)? by zero|divide by zero", "test the divisor, or divide by a constant"),
    _cause(
        "unreachable",
        r"unreachable ins|is not reachable|jump out of range|last insn is not an exit",
        "remove the code nobody gets to",
    ),
    _cause(
        "bad-argument",
        r"doesn't have \d+-th argument|invalid bpf_context access|invalid ctx access",
        "an operation has the arguments of struct sched_ext_ops, as ctx[0] and so on",
    ),
    _cause(
        "operation",
        r"unsupported member|Cannot find member|struct_ops init_kern",
        "this kernel's struct sched_ext_ops has no such member, another type for it, or it may not sleep",
    ),
    _cause("stack", r"stack (?:size|limit|depth)|combined stack", "use a per-CPU array map for large data"),
    _cause("reference-leak", r"unreleased re|reference leak|reference .*not been released", "release it on every path"),
    _cause(
        "return-value", r"at program exit|return value|R0 .*should have been", "return a value of the range it names"
    ),
    _cause("licence", r"GPL", 'char _license[] SEC("license") = "GPL"'),
)
_OTHER = Cause("refused", re.compile(""), "see the log")


class LoadRejected(CandidateRejected):
    """The kernel refuses the object; `finding` is the reduced reason, `evidence` the log's relevant end."""

    def __init__(self, finding: Finding, log: str) -> None:
        where = f"line {finding.line}: " if finding.line else ""
        super().__init__("load", f"{where}{finding.message}", evidence=log, remedy=finding.fix)
        self.finding = finding
        self.figures: dict[str, int] = _figures_of_refusal(log)


def load(guest: Guest, image: bytes, *, watchdog_ms: int = WATCHDOG_MS) -> LoadReport:
    """Load the object in the guest, its watchdog shortened; LoadRejected says why this kernel will not have it."""
    try:
        return guest.load(image, timeout_ms=watchdog_ms)
    except EmulatorFault:
        raise
    except GuestError as error:
        broken = kernel_broke(error)
        if broken is None:
            raise
        finding = Finding(rule="load/panic", severity="error", message=f"loading it breaks the kernel: {broken}")
        raise LoadRejected(finding, error.console) from error
    except LoadRefused as error:
        raise LoadRejected(reduce(error.log, error.message), relevant(error.log)) from error
    except InputError as error:
        finding = Finding(rule="load/malformed", severity="error", message=error.message[:4096], fix=error.remedy)
        raise LoadRejected(finding, error.message) from error


def kernel_broke(error: GuestError) -> str | None:
    """The guest kernel's own words when it died of what ran in it; None when the guest ended for another reason."""
    said = [*error.console.splitlines(), error.message]  # a long trace may have pushed the panic out of the tail
    return next((line.strip()[:300] for line in said if _PANIC.search(line)), None)


def figures(report: LoadReport) -> dict[str, int]:
    """How much the BPF verifier had to look at: in all and by program."""
    figures = {
        "programs": len(report.programs),
        "insns": sum(p.insns_total for p in report.programs),
        "insns_verified": sum(p.insns_verified for p in report.programs),
    }
    for program in report.programs:
        figures[f"insns_verified.{program.name}"] = program.insns_verified
        if program.states is not None and program.peak_states is not None:
            figures[f"states.{program.name}"] = program.states
            figures[f"peak_states.{program.name}"] = program.peak_states
    return figures


def _figures_of_refusal(log: str) -> dict[str, int]:
    """How far the verifier came with the program it refuses."""
    found = _last(_STATES, log)
    if found is None:
        return {}
    return {
        "insns_verified": int(found["insns"]), "states": int(found["all"]), "peak_states": int(found["peak"]),
    }  # fmt: skip


def reduce(log: str, message: str = "") -> Finding:
    """The one finding in a verifier log of either style; `message` is what the loader made of it."""
    block = _failing_block(log)
    title = _REPORT.search(block)
    if title is not None:
        reason = _text(_REASON.search(block))
        at = _AT.search(block)
        said = f"{title['title'].strip()}: {reason}" if reason else title["title"].strip()
        suggestion, program = _text(_SUGGESTION.search(block)), at["function"] if at is not None else ""
        place = _acquired(block) or (at if at is not None and at["line"] else None)
        return _finding(said, _place(place, block[: title.start()]), suggestion, program)
    said = _last_words(block) or message or "the kernel gives no reason"
    named = _PROGRAM.search(log)
    place = _acquired(block) or _last(_SOURCE_LINE, block)
    return _finding(said, _place(place, block), "", named["name"] if named else "")


def _acquired(block: str) -> re.Match[str] | None:
    """The source line that took what is never released: that, and not the end of the function, wants mending."""
    named = _ACQUIRED.search(block)
    at = re.search(rf"^{named['insn']}: \(", block, re.MULTILINE) if named is not None else None
    return _last(_SOURCE_LINE, block[: at.start()]) if at is not None else None


def _place(at: re.Match[str] | None, before: str) -> tuple[str, int | None]:
    """The header to blame as `FILE:LINE` (or ""), and the candidate's line, found in the log `before`."""
    if at is None:
        return "", None
    if not at["file"].endswith(".h"):
        return "", int(at["line"])
    own = [line for line in _SOURCE_LINE.finditer(before) if not line["file"].endswith(".h")]
    return f"{at['file']}:{at['line']}", int(own[-1]["line"]) if own else None


def relevant(log: str) -> str:
    """The end of the log that shows the reason."""
    block = _failing_block(log)
    return block[-EVIDENCE:] if len(block) > EVIDENCE else log[-EVIDENCE:]


def _failing_block(log: str) -> str:
    """From the failing program's log; the programs before it were accepted and say nothing of interest."""
    ends = [match.end() for match in _FIGURES.finditer(log)]
    if not ends:
        return log
    begins = [
        m.start() for m in re.finditer(r"-- BEGIN PROG LOAD LOG --|^prog '", log, re.MULTILINE) if m.start() < ends[-1]
    ]
    return log[begins[-1] if begins else 0 :]


def _last_words(block: str) -> str:
    """The old style's reason: the last line that is neither figures nor a dump of registers and instructions."""
    body = block[: figures_at.start()] if (figures_at := _last(_FIGURES, block)) is not None else block
    lines = [line.strip() for line in body.splitlines()]
    said = [line for line in lines if not _NOISE.match(line) and not _dump(line)]
    if said:
        return said[-1].removeprefix("libbpf: ")
    instructions = [line for line in lines if re.match(r"^\d+: \([0-9a-f]{2}\)", line)]
    # Up to 6.17 a refused write to a task has no words at all: the log just ends at the store.
    return "it cannot write into that memory" if instructions and _STORE.match(instructions[-1]) else ""


def _dump(line: str) -> bool:
    """`3: (79) r1 = …`, `R1=ctx() R10=fp0`, `; text @ file:line`, `from 8 to 9: …`; not `R1 invalid mem access …`."""
    if re.match(r"^R\d+(?:_w)?=", line):
        return True
    return _STATE.match(line) is not None and not re.match(r"^R\d+ (?!=)", line)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text):
        found = match
    return found


def _text(match: re.Match[str] | None) -> str:
    return " ".join(match["text"].split()) if match is not None else ""


def _finding(said: str, place: tuple[str, int | None], suggestion: str, program: str) -> Finding:
    cause = next((c for c in CAUSES if c.words.search(said)), _OTHER)
    where = f"{program}: " if program else ""
    header, line = place
    where += f"in {header}: " if header else ""
    return Finding(
        rule=f"load/{cause.name}",
        severity="error",
        message=f"the kernel's BPF verifier refuses {where}{said}"[:4096],
        line=line if line else None,
        fix=(cause.hint if cause is not _OTHER else suggestion or cause.hint)[:1024],
    )
