# SPDX-License-Identifier: Apache-2.0
"""How many planted bugs the verifier catches, and how many good schedulers it refuses: `make mutation-score`.

Every scheduler of tests/corpus goes through `examine`, as one that a person verifies would: the bad ones on the newest
kernel (on the newest that is old enough, where its header says `before=`), the good ones on the oldest too. A bad one
counts as caught only when it is rejected by a stage and rule that its header names; one that is rejected for something
else is shown as such and does not count, and a verdict `error` is never a catch. Each result is kept by the digest of
the candidate, the kernel and the verifier's own files, so a run that was interrupted goes on where it was. Hostile
sources and objects are their tests', which are run and counted.

Exit 0 when the bars hold (bad caught >= 98 %, good refused 0, hostile stopped 100 %), 1 when not, 2 when it could not
tell or was told to stop early.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.kit.store import wilson  # noqa: E402
from controller.api import Verdict  # noqa: E402
from controller.errors import SchedctlError  # noqa: E402
from controller.kernel import images  # noqa: E402
from controller.kernel.images import KernelImage  # noqa: E402
from controller.paths import cache_dir  # noqa: E402
from controller.verify import Candidate, examine  # noqa: E402
from tests.corpus import corpus  # noqa: E402
from tests.corpus.corpus import Case  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "mutation-score.json"
CAUGHT_BAR = 0.98
STATIC = ("lint", "build", "audit")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one scheduler on one kernel ("" when it did not come to one)."""

    case: str
    bug_class: str
    expected: str
    kernel: str
    verdict: str
    stage: str
    rules: tuple[str, ...]
    summary: str
    seconds: float
    as_expected: bool

    @property
    def outcome(self) -> str:
        """`caught`, `elsewhere`, `missed`, `passed`, `false alarm` or `error`."""
        if self.verdict == "error":
            return "error"
        if not self.expected:
            return "passed" if self.verdict == "pass" else "false alarm"
        if self.verdict == "pass":
            return "missed"
        return "caught" if self.as_expected else "elsewhere"


def verifier_digest() -> str:
    """Of all that decides a verdict: another digest, other results."""
    digest = hashlib.sha256()
    folders = [ROOT / "controller" / part for part in ("api", "kernel", "verify", "render")] + [ROOT / "bpf"]
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.suffix in (".py", ".h", ".c")):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Runner:
    """Runs cases, or finds what they came to before; `until` (monotonic) is when it starts no more."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.unfinished = 0
        self._digest = verifier_digest()
        self._folder = cache_dir() / "mutation-score"
        self._folder.mkdir(parents=True, exist_ok=True)

    def static(self, case: Case) -> Result | None:
        """Lint, build and audit."""
        return self._result(case, None)

    def on(self, case: Case, kernel: KernelImage) -> Result | None:
        """All stages; None when there is no time left."""
        return self._result(case, kernel)

    def _result(self, case: Case, kernel: KernelImage | None) -> Result | None:
        # Of the header, the stages see nothing but the text: what is expected may change without a new run.
        body = case.source.partition("\n")[2] if case.expects else case.source
        key = "\0".join((self._digest, kernel.release if kernel else "", body))
        kept = self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
        if kept.is_file():
            return self._judged(case, json.loads(kept.read_text()))
        if time.monotonic() > self.until:
            self.unfinished += 1
            return None
        told = self._examined(case, kernel)
        if told["verdict"] == "error":
            told = self._examined(case, kernel)
        if told["verdict"] != "error":
            kept.write_text(json.dumps(told))
        result = self._judged(case, told)
        where = f" on {result.kernel}" if result.kernel else ""
        if kernel is not None or result.verdict != "pass":
            print(
                f"{result.outcome:11} {case.name}{where}: {result.stage or 'all stages'} "
                f"{','.join(result.rules[:3])} ({result.seconds:.1f} s) {result.summary[:110]}",
                flush=True,
            )
        return result

    def _examined(self, case: Case, kernel: KernelImage | None) -> dict[str, object]:
        began = time.monotonic()
        if kernel is None:
            passport = examine(Candidate.from_source(case.source), stages=STATIC).passport
        else:
            stages = (*STATIC, "load", "liveness")
            passport = examine(Candidate.from_source(case.source), kernels=[kernel], stages=stages).passport
        failed = next((s for s in passport.all_stages() if s.verdict in (Verdict.REJECTED, Verdict.ERROR)), None)
        errors = [f.rule for f in failed.findings if f.severity == "error"] if failed else []
        return {
            "kernel": kernel.release if kernel else "",
            "verdict": failed.verdict.value if failed else "pass",
            "stage": failed.stage if failed else "",
            "rules": errors or ([f"{failed.stage}/rejected"] if failed else []),
            "summary": failed.summary[:400] if failed else "",
            "seconds": round(time.monotonic() - began, 1),
        }

    @staticmethod
    def _judged(case: Case, told: dict[str, object]) -> Result:
        stage, rules = str(told["stage"]), tuple(map(str, told["rules"]))  # type: ignore[call-overload]
        return Result(
            case=case.name,
            bug_class=case.bug_class,
            expected=case.stage,
            kernel=str(told["kernel"]),
            verdict=str(told["verdict"]),
            stage=stage,
            rules=rules,
            summary=str(told["summary"]),
            seconds=float(str(told["seconds"])),
            as_expected=any(e.met(stage, rules) for e in case.expects),
        )


def run(cases: Sequence[Case], kernels: Sequence[KernelImage], runner: Runner) -> list[Result]:
    """Statics of all first, then those that pass on the newest kernel; good ones on each of `kernels`."""
    results: list[Result] = []
    dynamic = []
    for case in cases:
        told = runner.static(case)
        if told is not None and told.verdict == "pass":
            dynamic.append(case)
        elif told is not None:
            results.append(told)
    dynamic.sort(key=_slow)
    print(f"{len(results)} of {len(cases)} rejected without a kernel; {len(dynamic)} go on", flush=True)
    for kernel in reversed(kernels):
        for case in dynamic:
            if kernel is _kernel_for(case, kernels) or not case.expects:
                told = runner.on(case, kernel)
                if told is not None:
                    results.append(told)
    return results


def _kernel_for(case: Case, kernels: Sequence[KernelImage]) -> KernelImage:
    """The newest of `kernels` on which a bad one's fault is a fault; the newest when there is none such."""
    old = [k for k in kernels if not case.before or images.version_key(k.release) < images.version_key(case.before)]
    return (old or list(kernels))[-1]


def _slow(case: Case) -> int:
    """The quick ones first: those refused at load, then those that do not even stay."""
    if not case.expects:
        return 9
    first = case.expects[0].rules[0]
    quick = ("load/", "liveness/attach", "liveness/runtime-error", "liveness/scx-error", "liveness/stall")
    return next((place for place, start in enumerate(quick) if first.startswith(start)), 8)


def hostile() -> dict[str, dict[str, int]]:
    """The tests of hostile sources and objects, run and counted: corpus → {"cases": …, "stopped": …}."""
    tests = [ROOT / "tests" / "verify" / f"test_hostile_{kind}.py" for kind in ("sources", "objects")]
    found = [str(path) for path in tests if path.is_file()]
    counts: dict[str, dict[str, int]] = {}
    if not found:
        return counts
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={document}", *found]
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
        cases = ElementTree.parse(document).getroot().iter("testcase") if document.is_file() else ()  # noqa: S314 - ours
        for case in cases:
            name = (case.get("classname") or "").rpartition(".")[2].removeprefix("test_")
            each = counts.setdefault(name, {"cases": 0, "stopped": 0})
            each["cases"] += 1
            each["stopped"] += not len(case)  # a child element is a failure, an error or a skip
    return counts


def report(results: Sequence[Result], runner: Runner, counted: dict[str, dict[str, int]], whole: bool) -> int:
    """Print the tables, keep the document when the run was whole, and say whether the bars hold."""
    bad = [r for r in results if r.expected]
    good = [r for r in results if not r.expected]
    _by_class(bad)
    _by_stage(bad)
    caught = sum(r.outcome == "caught" for r in bad)
    rejected = sum(r.verdict == "rejected" for r in bad)
    refused = sum(r.outcome == "false alarm" for r in good)
    errors = sum(r.outcome == "error" for r in results)
    dynamic = sum(r.expected == "liveness" for r in bad)
    print(f"\nbad caught as expected  {_rate(caught, len(bad))}   ({dynamic} only misbehave when run)")
    print(f"bad rejected at all     {_rate(rejected, len(bad))}")
    print(f"good refused            {_rate(refused, len(good))}")
    for name, each in sorted(counted.items()):
        print(f"{name:24}{_rate(each['stopped'], each['cases'])} stopped")
    for result in results:
        if result.outcome in ("missed", "elsewhere", "false alarm", "error"):
            print(
                f"{result.outcome}: {result.case} on {result.kernel or 'no kernel'}: expected "
                f"{result.expected or 'a pass'}, {result.stage} {','.join(result.rules)} {result.summary}"
            )
    if whole and not runner.unfinished:
        _keep(results, counted, {"bad_caught": (caught, len(bad)), "bad_rejected": (rejected, len(bad)),
                                 "good_refused": (refused, len(good))})  # fmt: skip
    if errors or runner.unfinished:
        print(f"could not tell: {errors} errors, {runner.unfinished} not run")
        return 2
    held = caught >= CAUGHT_BAR * len(bad) and refused == 0
    held = held and all(each["stopped"] == each["cases"] for each in counted.values())
    return 0 if held else 1


def _by_class(bad: Iterable[Result]) -> None:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for result in bad:
        table[result.bug_class][result.outcome] += 1
    print(f"\n{'class':18}{'bad':>5}{'caught':>8}{'elsewhere':>11}{'missed':>8}{'error':>7}   95 % interval")
    for name, counts in sorted(table.items()):
        low, high = wilson(counts["caught"], counts.total())
        print(
            f"{name:18}{counts.total():5}{counts['caught']:8}{counts['elsewhere']:11}{counts['missed']:8}"
            f"{counts['error']:7}   {low:.0%} to {high:.0%}"
        )


def _by_stage(bad: Iterable[Result]) -> None:
    stages = (*corpus.STAGES, "none")
    table = Counter((r.expected, r.stage if r.verdict == "rejected" else "none") for r in bad)
    print(f"\n{'expected / caught':18}" + "".join(f"{stage:>10}" for stage in stages))
    for expected in corpus.STAGES:
        print(f"{expected:18}" + "".join(f"{table[expected, stage]:10}" for stage in stages))


def _rate(hits: int, of: int) -> str:
    low, high = wilson(hits, of)
    return f"{hits}/{of} = {hits / max(of, 1):.1%} (95 %: {low:.1%} to {high:.1%})"


def _keep(results: Sequence[Result], counted: dict[str, dict[str, int]], rates: dict[str, tuple[int, int]]) -> None:
    document = {
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "verifier": f"sha256:{verifier_digest()}",
        "kernels": sorted({r.kernel for r in results if r.kernel}, key=images.version_key),
        "rates": {
            name: {"hits": hits, "of": of, "interval95": [round(x, 4) for x in wilson(hits, of)]}
            for name, (hits, of) in rates.items()
        },
        "hostile": counted,
        "results": [{**asdict(r), "outcome": r.outcome} for r in sorted(results, key=lambda r: (r.case, r.kernel))],
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\nkept in {RESULTS.relative_to(ROOT)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; see the module's text."""
    parser = argparse.ArgumentParser(description="Mutation score of the verifier over tests/corpus.")
    parser.add_argument("--only", metavar="WORD", help="cases whose name or class has this in it")
    parser.add_argument("--kernel", action="append", help="newest, oldest or a release; default: oldest and newest")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="start no more after so long; run again to go on"
    )
    parser.add_argument("--static", action="store_true", help="only what needs no kernel")
    arguments = parser.parse_args(argv)
    wanted = arguments.only or ""
    cases = [c for c in (*corpus.bad(), *corpus.good()) if wanted in c.name or wanted == c.bug_class]
    if not cases:
        parser.error(f"no case has {wanted!r} in its name")
    runner = Runner(time.monotonic() + arguments.seconds)
    try:
        found = [images.resolve(name) for name in arguments.kernel or ("oldest", "newest")]
    except SchedctlError as error:
        print(f"could not tell: {error}", file=sys.stderr)
        return 2
    kernels = [] if arguments.static else sorted(dict.fromkeys(found), key=lambda k: images.version_key(k.release))
    results = run(cases, kernels, runner)
    whole = not wanted and not arguments.static  # the document names the kernels
    return report(results, runner, hostile() if whole and not runner.unfinished else {}, whole)


if __name__ == "__main__":
    sys.exit(main())
