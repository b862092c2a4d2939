# SPDX-License-Identifier: Apache-2.0
"""Everything a passport can be held against, one check at a time, each with a sentence.

A node's gate wants a yes or the first no; a person who asks `schedctl passport verify` wants to see what was looked at.
Both go through `dsse.verify` and `dsse.check`. A check that was not asked for (no object at hand, no kernel named) is
`skipped` and says so: it is no yes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from controller.api import Passport, sha256
from controller.errors import TrustError
from controller.trust import dsse
from controller.trust.keys import TrustedKey

PARTS = ("object", "source", "template", "proposal")
"""What a passport is bound to by digest, besides its evidence."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question asked of a passport; `detail` says what was compared, or what does not fit and what to do."""

    what: str
    result: Literal["ok", "refused", "skipped"]
    detail: str


@dataclass(frozen=True)
class Given:
    """What a passport is compared with: digests of parts, evidence files by name, a kernel and topology, the time."""

    at: datetime
    digests: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, bytes] | None = None
    btf_digest: str = ""
    topology_class: str = ""


def inspect(envelope: bytes, trusted: Iterable[TrustedKey], given: Given) -> tuple[Passport | None, tuple[Check, ...]]:
    """The passport and every check, in order; None, with the one refusal, when its signature does not hold."""
    keys = tuple(trusted)
    try:
        passport = dsse.verify(envelope, keys)
    except TrustError as error:
        return None, (Check("signature", "refused", str(error)),)
    signers = ", ".join(k.name for k in keys if k.keyid in dsse.signers(envelope))
    checks = [Check("signature", "ok", f"by trusted key {signers}")]
    checks += [_part(passport, part, given.digests.get(part, "")) for part in PARTS]
    checks += _evidence(passport, given.evidence)
    checks.append(_asked("stages", lambda: dsse.check_verdict(passport), _passed(passport)))
    checks.append(
        _asked("validity", lambda: dsse.check_time(passport, given.at), f"until {passport.expires_at:%F %T}Z")
    )
    if given.btf_digest and given.topology_class:
        kernel, shape = given.btf_digest, given.topology_class
        told = f"BTF {kernel[:19]}… with topology {shape}"
        checks.append(_asked("kernel", lambda: dsse.check_kernel(passport, kernel, shape), told))
    else:
        earned = ", ".join(f"{k.release} ({k.topology_class})" for k in passport.kernels) or "no kernel"
        checks.append(Check("kernel", "skipped", f"none was named; the passport was earned on {earned}"))
    return passport, tuple(checks)


def _asked(what: str, ask: Callable[[], None], told: str) -> Check:
    try:
        ask()
    except TrustError as error:
        return Check(what, "refused", str(error))
    return Check(what, "ok", told)


def _part(passport: Passport, part: str, found: str) -> Check:
    bound: str | None = getattr(passport, f"{part}_digest")
    if bound is None:
        if found:
            return Check(part, "refused", f"a {part} was given, but the passport speaks of none")
        return Check(part, "skipped", f"the passport speaks of no {part}")
    if not found:
        return Check(part, "skipped", f"none was given to compare with {bound}")
    if found != bound:
        return Check(part, "refused", f"the {part} was changed: it is {found}, the passport is for {bound}")
    return Check(part, "ok", bound)


def _evidence(passport: Passport, files: Mapping[str, bytes] | None) -> list[Check]:
    if not passport.attachments:
        return [Check("evidence", "skipped", "the passport names no evidence files")]
    if files is None:
        names = ", ".join(each.name for each in passport.attachments)
        return [Check("evidence", "skipped", f"no folder was given to look for {names} in")]
    return [_file(each.name, each.digest, files) for each in passport.attachments]


def _file(name: str, digest: str, files: Mapping[str, bytes]) -> Check:
    what = f"evidence {name}"
    if name not in files:
        return Check(what, "refused", "the file is missing")
    if (found := sha256(files[name])) != digest:
        return Check(what, "refused", f"{name} was changed: it is {found}, the passport names {digest}")
    return Check(what, "ok", digest)


def _passed(passport: Passport) -> str:
    stages = dict.fromkeys(s.stage for s in passport.all_stages() if s.verdict.value == "pass")
    return f"{', '.join(stages)} passed"
