# SPDX-License-Identifier: Apache-2.0
"""The corpora of schedulers, and what is expected of each: `good/` must pass every stage, `bad/` must not.

A bad one begins with a comment of one line that says who is expected to catch it, then with what:

    /* expect: stage=lint rules=lint/lost-task class=lost-task */
    /* expect: stage=liveness rules=liveness/stall,liveness/stuck or stage=load rules=load/* class=starvation */

The first is where it should be caught; the others, after `or`, are as good (a fault may show in a neighbouring scenario
first). `load/*` is every rule of that stage. A sentence on what is wrong follows in a comment of its own.

`before=7.0` at the header's end: what is wrong is a fault on older kernels only, and the sentence says why.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
STAGES = ("lint", "build", "audit", "load", "liveness")
CLASSES = frozenset(
    (
        "lost-task", "double-insert", "wrong-cpu", "missing-kick", "slice", "vtime", "dsq", "wrong-operation",
        "starvation", "weights", "hotplug", "affinity", "preemption", "overflow", "leak", "exit", "churn", "reload",
        "memory-safety", "unbounded", "object", "licence", "compile", "interface",
    )
)  # fmt: skip
_HEADER = re.compile(r"/\* expect: (?P<pairs>.+) class=(?P<class>[a-z-]+)(?: before=(?P<before>\d+\.\d+))? \*/\n")
_PAIR = re.compile(r"stage=(?P<stage>[a-z]+) rules=(?P<rules>[\w/*,-]+)")
_SENTENCE = re.compile(r"/\*\n \* (?P<text>.+?)\n \*/", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Expectation:
    """One stage, and patterns of the rules of which one must be among its findings."""

    stage: str
    rules: tuple[str, ...]

    def met(self, stage: str, rules: Iterable[str]) -> bool:
        """Whether being rejected by `stage` for `rules` is what was expected."""
        return stage == self.stage and any(fnmatch.fnmatchcase(r, pattern) for r in rules for pattern in self.rules)


@dataclass(frozen=True, slots=True)
class Case:
    """One scheduler; a good one expects nothing."""

    path: Path
    source: str
    expects: tuple[Expectation, ...] = ()
    bug_class: str = ""
    sentence: str = ""
    before: str = ""
    """The first kernel on which it is no fault, such as `7.0`."""

    @property
    def name(self) -> str:
        """`bad/late` or `good/fifo`."""
        return f"{self.path.parent.name}/{self.path.name.removesuffix('.bpf.c')}"

    @property
    def stage(self) -> str:
        """Where it should be caught; "" for a good one."""
        return self.expects[0].stage if self.expects else ""


def good() -> list[Case]:
    """Every scheduler that must pass."""
    return [Case(path, path.read_text(encoding="utf-8")) for path in sorted((HERE / "good").glob("*.bpf.c"))]


def bad() -> list[Case]:
    """Every scheduler that must be caught. ValueError for one whose header is not as it should be."""
    return [read(path) for path in sorted((HERE / "bad").glob("*.bpf.c"))]


def read(path: Path) -> Case:
    """A bad scheduler and its header; ValueError says what is wrong with the header."""
    source = path.read_text(encoding="utf-8")
    header = _HEADER.match(source)
    if header is None:
        raise ValueError(f"{path}: it does not begin with /* expect: stage=… rules=… class=… */")
    expects = []
    for text in header["pairs"].split(" or "):
        pair = _PAIR.fullmatch(text)
        if pair is None or pair["stage"] not in STAGES:
            raise ValueError(f"{path}: {text!r} is not stage=… rules=…")
        rules = tuple(pair["rules"].split(","))
        if not all(rule.startswith(f"{pair['stage']}/") for rule in rules):
            raise ValueError(f"{path}: {pair['rules']} are not rules of the stage {pair['stage']}")
        expects.append(Expectation(pair["stage"], rules))
    if header["class"] not in CLASSES:
        raise ValueError(f"{path}: there is no class {header['class']}")
    sentence = _SENTENCE.search(source, header.end())
    text = re.sub(r"\s*\n \*\s*", " ", sentence["text"]) if sentence is not None else ""
    if not text.endswith("."):
        raise ValueError(f"{path}: no sentence says what is wrong with it")
    return Case(path, source, tuple(expects), header["class"], text, header["before"] or "")
