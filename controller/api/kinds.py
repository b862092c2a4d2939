# SPDX-License-Identifier: Apache-2.0
"""The registry of kinds: names, scopes and short names, for decoding, the CLI and the CRDs."""

from __future__ import annotations

from dataclasses import dataclass

from controller.api.base import GROUP, Resource
from controller.api.intent import SchedulingIntent
from controller.api.node import NodeScheduler
from controller.api.policy import SchedulerPolicy
from controller.api.revision import SchedulerRevision
from controller.api.template import SchedulerTemplate


@dataclass(frozen=True)
class Kind:
    """One kind as kubectl knows it. `columns` are the CRD's printer columns: (header, JSONPath, type, priority)."""

    model: type[Resource]
    singular: str
    plural: str
    short: str
    namespaced: bool
    writer: str
    columns: tuple[tuple[str, str, str, int], ...]

    @property
    def name(self) -> str:
        """`SchedulingIntent`."""
        return self.model.__name__

    @property
    def full(self) -> str:
        """`schedulingintents.schedctl.dev`."""
        return f"{self.plural}.{GROUP}"

    def reference(self, name: str) -> str:
        """`schedulingintent.schedctl.dev/web`, as kubectl prints an object."""
        return f"{self.singular}.{GROUP}/{name}"


_READY = '.status.conditions[?(@.type=="Ready")].status'
_REASON = '.status.conditions[?(@.type=="Ready")].reason'
_AGE = ("Age", ".metadata.creationTimestamp", "date", 0)

KINDS: tuple[Kind, ...] = (
    Kind(
        SchedulingIntent, "schedulingintent", "schedulingintents", "intent", True, "application teams",
        (
            ("Metric", ".spec.objective.metric", "string", 0),
            ("Weight", ".spec.weight", "integer", 0),
            ("Tasks", ".status.matchedTasks", "integer", 0),
            ("Ready", _READY, "string", 0),
            ("Reason", _REASON, "string", 1),
            ("Revision", ".status.revision", "string", 1),
            _AGE,
        ),
    ),
    Kind(
        SchedulerPolicy, "schedulerpolicy", "schedulerpolicies", "spol", False, "the platform team",
        (
            ("Planner", ".spec.planner.mode", "string", 0),
            ("Nodes", ".status.nodes", "integer", 0),
            ("Revision", ".status.revision", "string", 0),
            ("Ready", _READY, "string", 0),
            ("Suspended", ".spec.suspend", "boolean", 1),
            ("Reason", _REASON, "string", 1),
            _AGE,
        ),
    ),
    Kind(
        SchedulerTemplate, "schedulertemplate", "schedulertemplates", "stpl", False, "the platform team",
        (("Suits", ".spec.suits", "string", 0), ("Summary", ".spec.summary", "string", 1), _AGE),
    ),
    Kind(
        SchedulerRevision, "schedulerrevision", "schedulerrevisions", "srev", False, "the controller",
        (
            ("Template", ".spec.proposal.template", "string", 0),
            ("Policy", ".spec.policy", "string", 0),
            ("Kernel", ".spec.target.kernelRelease", "string", 0),
            ("Ops", ".spec.opsName", "string", 1),
            _AGE,
        ),
    ),
    Kind(
        NodeScheduler, "nodescheduler", "nodeschedulers", "nsch", False, "each node",
        (
            ("State", ".status.state", "string", 0),
            ("Attached", ".status.attached.revision", "string", 0),
            ("Phase", ".status.attached.phase", "string", 0),
            ("Ready", _READY, "string", 0),
            ("Message", '.status.conditions[?(@.type=="Ready")].message', "string", 0),
            ("Kernel", ".status.kernel.release", "string", 1),
            ("Ops", ".status.attached.opsName", "string", 1),
            _AGE,
        ),
    ),
)  # fmt: skip

_BY_NAME = {name.lower(): k for k in KINDS for name in (k.name, k.singular, k.plural, k.short, k.full)}


def find(name: str) -> Kind | None:
    """The kind called `name`: kind, singular, plural, short name or plural.group, in any case."""
    return _BY_NAME.get(name.lower())


def of(resource: Resource) -> Kind:
    """The registry entry of a resource."""
    return _BY_NAME[resource.kind.lower()]
