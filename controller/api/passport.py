# SPDX-License-Identifier: Apache-2.0
"""Passport: every verification stage's verdict and figures, bound to what was verified and where.

The signed form is an in-toto statement in a DSSE envelope; these are the predicate's types. A passport has one list
of stages that do not depend on a kernel, and one column of stages a kernel.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from controller.api.base import ApiModel, Digest, Timestamp
from controller.api.fingerprint import Fingerprint

STAGES = ("schema", "render", "lint", "build", "audit", "load", "liveness", "trial")


class Verdict(StrEnum):
    """How a stage ended. Only `pass` is a pass; `error` means that we could not tell."""

    PASS = "pass"  # noqa: S105 - a verdict, not a secret
    REJECTED = "rejected"
    ERROR = "error"
    NOT_RUN = "notRun"


Figure = bool | int | float | str


class Finding(ApiModel):
    """One thing a stage has to say about the candidate."""

    rule: str = Field(description="Such as lint/lost-task or load/unbounded-loop.")
    severity: Literal["error", "warn"]
    message: Annotated[str, Field(max_length=4096)]
    line: Annotated[int, Field(ge=1)] | None = Field(default=None, description="In the candidate's source.")
    fix: Annotated[str, Field(max_length=1024)] = ""


class StageResult(ApiModel):
    """One stage's verdict, what it measured and what it found."""

    stage: Literal["schema", "render", "lint", "build", "audit", "load", "liveness", "trial"]
    verdict: Verdict
    summary: Annotated[str, Field(max_length=4096)] = Field(description="A sentence.")
    seconds: Annotated[float, Field(ge=0)] = 0
    figures: dict[str, Figure] = Field(default_factory=dict, description="Named measurements; the unit ends the name.")
    findings: tuple[Finding, ...] = ()
    evidence: Annotated[str, Field(max_length=65536)] = Field(default="", description="Log tail that shows it.")


class KernelColumn(ApiModel):
    """The stages that ran on one kernel."""

    release: str = Field(description="uname -r in the guest.")
    btf_digest: Digest = Field(description="Of the guest's /sys/kernel/btf/vmlinux.")
    topology_class: str = Field(description="Of the guest.")
    stages: tuple[StageResult, ...]


class EvidenceFile(ApiModel):
    """Raw evidence kept beside the passport (a guest's console, a trial's samples), bound to it by digest."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$")] = Field(description="A file name.")
    digest: Digest
    size: Annotated[int, Field(ge=0)] = Field(description="Bytes.")


class Passport(ApiModel):
    """The proof that a scheduler behaves: what was verified, where, by which tools, with what result."""

    verdict: Verdict
    object_digest: Digest | None = Field(default=None, description="Of the .bpf.o; absent if it was never built.")
    source_digest: Digest | None = Field(default=None, description="Of the .bpf.c; absent for a bare object.")
    template_digest: Digest | None = None
    proposal_digest: Digest | None = None
    ops_name: str = ""
    stages: tuple[StageResult, ...] = Field(description="Those that depend on no kernel.")
    kernels: tuple[KernelColumn, ...] = ()
    tools: dict[str, str] = Field(default_factory=dict, description="Versions: schedctl, clang, libbpf, qemu.")
    workload: Fingerprint | None = Field(default=None, description="The load it was planned for.")
    attachments: tuple[EvidenceFile, ...] = Field(default=(), description="Raw evidence, by name and digest.")
    issued_at: Timestamp
    expires_at: Timestamp

    def all_stages(self) -> tuple[StageResult, ...]:
        """Every stage that ran, kernel by kernel."""
        return (*self.stages, *(s for column in self.kernels for s in column.stages))

    def column(self, btf_digest: str, topology_class: str) -> KernelColumn | None:
        """The column earned on this kernel and topology class, if there is one."""
        wanted = (btf_digest, topology_class)
        return next((k for k in self.kernels if (k.btf_digest, k.topology_class) == wanted), None)


class DsseSignature(ApiModel):
    """One signature of an envelope."""

    keyid: str
    sig: str = Field(description="Base64.")


class Envelope(ApiModel):
    """A DSSE envelope."""

    payload_type: Literal["application/vnd.in-toto+json"] = "application/vnd.in-toto+json"
    payload: str = Field(description="Base64 of an in-toto statement whose predicate is the passport.")
    signatures: tuple[DsseSignature, ...] = Field(min_length=1)
