# SPDX-License-Identifier: Apache-2.0
"""A trial's verdict reckoned anew from the samples that are kept with its passport: who doubts it need not run it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from typing import Literal

from controller.api import KernelColumn, Passport, StageResult, Verdict, sha256
from controller.errors import InputError
from controller.verify import evidence, trial

Told = tuple[str, Literal["ok", "refused", "skipped"], str]


def recheck(passport: Passport, files: Mapping[str, bytes]) -> tuple[Told, ...]:
    """For each kernel whose trial ran: (what, result, detail). `files` are evidence files by name.

    Only files that are, byte for byte, what the passport names are reckoned from: a trial whose samples were changed,
    in whatever byte, is `refused`, and one without samples is `skipped`; both say that it was not recomputed.
    """
    digests = {each.name: each.digest for each in passport.attachments if each.name.startswith("trial-")}
    told = tuple(_column(column, stage, digests, files) for column, stage in _trials(passport))
    return told or (("trial", "skipped", "there was no trial to recompute"),)


def _trials(passport: Passport) -> Iterator[tuple[KernelColumn, StageResult]]:
    for column in passport.kernels:
        for stage in column.stages:
            if stage.stage == "trial" and stage.verdict is not Verdict.NOT_RUN:
                yield column, stage


def _column(column: KernelColumn, stage: StageResult, digests: Mapping[str, str], files: Mapping[str, bytes]) -> Told:
    what = f"trial on {column.release}"
    intact = {name: files[name] for name, digest in digests.items() if name in files and sha256(files[name]) == digest}
    try:
        raw = _samples(column, intact)
        if raw is None:
            return what, *_not_recomputed(column, digests.keys() - intact.keys(), files)
        result = trial.recompute(raw)
    except (InputError, ValueError) as error:
        return what, "refused", f"its samples cannot be reckoned with: {error}"
    # As the passport has them: through JSON, where 1.0 and 1 are one number and a tuple is a list.
    figures = json.loads(json.dumps(result.figures()))
    mine, theirs = figures, json.loads(json.dumps(dict(stage.figures)))
    different = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    if different:
        name = different[0]
        told = f"{name} is {mine.get(name)} by the samples, {theirs.get(name)} in the passport"
        return what, "refused", f"{told}; {len(different)} figures differ"
    if result.passed != (stage.verdict is Verdict.PASS):
        return what, "refused", f"the samples say {result.verdict}, the passport says {stage.verdict.value}"
    return what, "ok", f"{result.verdict}, recomputed from {result.runs} runs: {len(figures)} figures are the same"


def _not_recomputed(
    column: KernelColumn, unproven: Set[str], files: Mapping[str, bytes]
) -> tuple[Literal["refused", "skipped"], str]:
    """Why there are no samples of this kernel. `unproven`, which the passport names, are missing or changed."""
    # By name alone: what a changed file says of its kernel is no more to be believed than the rest of it.
    mine = sorted(name for name in unproven if name.startswith(f"trial-{column.release}"))
    changed = [name for name in mine if name in files]
    if changed:
        return "refused", f"not recomputed: {', '.join(changed)} was changed"
    if mine:
        return "skipped", f"not recomputed: {', '.join(mine)} is missing"
    return "skipped", "not recomputed: the passport names no file with its samples"


def _samples(column: KernelColumn, files: Mapping[str, bytes]) -> bytes | None:
    """The document of samples of this kernel and topology. ValueError for one that is not JSON."""
    for name in sorted(files):
        raw = evidence.unpacked(name, files[name])
        if _kernel(raw) == (column.release, column.topology_class):
            return raw
    return None


def _kernel(raw: bytes) -> tuple[object, object]:
    """Release and topology class that a document of samples says it is from. ValueError for what is no such thing."""
    document = json.loads(raw)
    kernel = document.get("kernel") if isinstance(document, dict) else None
    if not isinstance(kernel, dict):
        raise ValueError("it names no kernel")
    return kernel.get("release"), kernel.get("topology_class")
