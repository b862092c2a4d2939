# SPDX-License-Identifier: Apache-2.0
"""The values that travel between steps: five resource kinds and what lies between them.

Import the names from here; `decode`, `kinds`, `crd` and `explain` are modules of their own.
"""

from controller.api.base import (
    API_VERSION,
    GROUP,
    ApiModel,
    Condition,
    ConditionStatus,
    ObjectMeta,
    Resource,
    Status,
    format_duration,
    format_percent,
    now,
    parse_duration,
    parse_percent,
    set_condition,
    sha256,
)
from controller.api.draft import TemplateDraft
from controller.api.fingerprint import Fingerprint, fingerprint_of
from controller.api.intent import (
    Guardrail,
    IntentSpec,
    IntentStatus,
    Metric,
    Objective,
    SchedulingIntent,
    WorkloadSelector,
    sought_digest,
)
from controller.api.lesson import Lesson, PlanCost, lesson_of
from controller.api.node import (
    Attachment,
    ExitReport,
    NodeEvent,
    NodeScheduler,
    NodeSpec,
    NodeStatus,
    Pulse,
    Quarantined,
)
from controller.api.passport import (
    STAGES,
    DsseSignature,
    Envelope,
    EvidenceFile,
    Finding,
    KernelColumn,
    Passport,
    StageResult,
    Verdict,
)
from controller.api.policy import Drift, PlanOutcome, PolicySpec, PolicyStatus, RolloutSpec, SchedulerPolicy
from controller.api.profile import (
    CgroupCpu,
    Classification,
    CpuStats,
    Histogram,
    IntentMatch,
    KernelFacts,
    Pressure,
    SchedExtAbilities,
    Topology,
    WakeEdge,
    WorkloadProfile,
    WorkloadStats,
)
from controller.api.proposal import ClassMatch, PlannerRecord, Proposal, RenderedSource, TaskClass
from controller.api.report import Reporter, Silent
from controller.api.revision import (
    PlannedIntent,
    Recalled,
    RevisionDigests,
    RevisionFiles,
    RevisionSpec,
    RevisionStatus,
    RevisionTarget,
    SchedulerRevision,
)
from controller.api.store import Desired, RevisionBytes, Signature, SourceState, Store
from controller.api.template import Hole, HoleRange, Parameter, SchedulerTemplate, TemplateSource, TemplateSpec

__all__ = [
    "API_VERSION", "GROUP", "STAGES", "ApiModel", "Attachment", "CgroupCpu", "ClassMatch", "Classification",
    "Condition", "ConditionStatus", "CpuStats", "Desired", "Drift", "DsseSignature", "Envelope", "EvidenceFile",
    "ExitReport", "Finding", "Fingerprint", "Guardrail", "Histogram", "Hole", "HoleRange", "IntentMatch", "IntentSpec",
    "IntentStatus", "KernelColumn", "KernelFacts", "Lesson", "Metric", "NodeEvent", "NodeScheduler", "NodeSpec",
    "NodeStatus", "ObjectMeta", "Objective", "Parameter", "Passport", "PlanCost", "PlanOutcome", "PlannedIntent",
    "PlannerRecord", "PolicySpec", "PolicyStatus", "Pressure", "Proposal", "Pulse", "Quarantined", "Recalled",
    "RenderedSource", "Reporter", "Resource", "RevisionBytes", "RevisionDigests", "RevisionFiles", "RevisionSpec",
    "RevisionStatus", "RevisionTarget", "RolloutSpec", "SchedExtAbilities", "SchedulerPolicy", "SchedulerRevision",
    "SchedulerTemplate", "SchedulingIntent", "Signature", "Silent", "SourceState", "StageResult", "Status", "Store",
    "TaskClass", "TemplateDraft", "TemplateSource", "TemplateSpec", "Topology", "Verdict", "WakeEdge",
    "WorkloadProfile", "WorkloadSelector", "WorkloadStats", "fingerprint_of", "format_duration", "format_percent",
    "lesson_of", "now", "parse_duration", "parse_percent", "set_condition", "sha256",
    "sought_digest",
]  # fmt: skip
