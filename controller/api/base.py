# SPDX-License-Identifier: Apache-2.0
"""What every kind and value is made of: the strict model base, units, metadata, conditions.

Python names are snake_case, the wire is camelCase, unknown fields are refused and instances are frozen, so that a
value handed from one step to the next cannot change under it. Quantities have a unit on the wire and one base unit
here: durations are integer nanoseconds, percentages are fractions.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

GROUP = "schedctl.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_DURATION = re.compile(r"^([0-9]{1,18}(?:\.[0-9]{1,9})?)(ns|us|µs|ms|s|m|h|d)$")
_PERCENT = re.compile(r"^([0-9]{1,18}(?:\.[0-9]{1,9})?)%$")
_MAX_NS = 10 * 365 * _UNITS_NS["d"]


def parse_duration(value: object) -> int:
    """`2ms`, `30d`, `1.5s` → nanoseconds. An integer is taken as nanoseconds already parsed."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a duration with a unit, such as 500us, 2ms, 60s or 30d")
    nanoseconds = round(float(match[1]) * _UNITS_NS[match[2]])
    if nanoseconds > _MAX_NS:
        raise ValueError("must be at most 3650d")
    return nanoseconds


def format_duration(nanoseconds: int) -> str:
    """Nanoseconds → the largest unit that divides them: 2000000 → `2ms`."""
    for unit in ("d", "h", "m", "s", "ms", "us"):
        if nanoseconds and nanoseconds % _UNITS_NS[unit] == 0:
            return f"{nanoseconds // _UNITS_NS[unit]}{unit}"
    return f"{nanoseconds}ns" if nanoseconds else "0s"


def parse_percent(value: object) -> float:
    """`3%` → 0.03. A float is taken as a fraction already parsed."""
    if isinstance(value, float):
        return value
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a percentage such as 3% or 0.5%")
    return float(match[1]) / 100


def format_percent(fraction: float) -> str:
    """0.03 → `3%`."""
    return f"{round(fraction * 100, 6):g}%"


Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern}),
]
"""A length of time: `2ms` on the wire, integer nanoseconds here."""

Percent = Annotated[
    float,
    BeforeValidator(parse_percent),
    PlainSerializer(format_percent, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _PERCENT.pattern}),
]
"""A ratio: `3%` on the wire, the fraction 0.03 here."""

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
"""`sha256:` and 64 hexadecimal digits."""

Timestamp = Annotated[
    datetime,
    PlainSerializer(lambda at: at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), return_type=str),
]
"""UTC, whole seconds, RFC 3339 on the wire."""

DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
"""A Kubernetes object name (RFC 1123 subdomain)."""

LabelMap = Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=64)]


def now() -> datetime:
    """The current time as the kinds hold it: UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


class ApiModel(BaseModel):
    """Strict, frozen, camelCase on the wire."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        ser_json_inf_nan="strings",
        allow_inf_nan=False,
    )

    def wire(self) -> dict[str, Any]:
        """The value as plain JSON types, as written to Git: unset optional fields are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def canonical(self) -> bytes:
        """Sorted, compact JSON: equal values give equal bytes."""
        return json.dumps(self.wire(), sort_keys=True, separators=(",", ":")).encode()

    def content_digest(self) -> str:
        """`sha256:…` of the canonical bytes."""
        return sha256(self.canonical())


def sha256(data: bytes) -> str:
    """`sha256:…` of `data`, as every digest in the API is written."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class ObjectMeta(ApiModel):
    """Name, labels and annotations; `generation` counts changes of the spec and is filled in by the store."""

    name: DnsName = Field(description="Unique within its kind and namespace.")
    namespace: DnsName | None = Field(default=None, description="Namespaced kinds only; defaults to `default`.")
    labels: LabelMap = Field(default_factory=dict, description="Key-value pairs to select by.")
    annotations: LabelMap = Field(default_factory=dict, description="Free text for people and tools.")
    generation: int | None = Field(default=None, ge=1, description="Counts changes of the spec; set by the store.")
    creation_timestamp: Timestamp | None = Field(default=None, description="First commit; set by the store.")


class ConditionStatus(StrEnum):
    """The three answers a condition can give."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """One observation in kstatus' form: a type, a status, a PascalCase reason and a sentence to act on."""

    type: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]+$")] = Field(description="Ready, Stalled, Attached, …")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]*$")] = Field(description="PascalCase, for programs.")
    message: Annotated[str, Field(max_length=4096)] = Field(default="", description="A sentence for people.")
    observed_generation: int | None = Field(default=None, description="Generation the condition speaks of.")
    last_transition_time: Timestamp | None = Field(default=None, description="When `status` last changed.")


def set_condition(conditions: tuple[Condition, ...], new: Condition, at: datetime) -> tuple[Condition, ...]:
    """`conditions` with `new` in place of its type; the transition time moves only when the status does."""
    old = next((c for c in conditions if c.type == new.type), None)
    since = old.last_transition_time if old is not None and old.status == new.status else at
    stamped = new.model_copy(update={"last_transition_time": since})
    others = tuple(c for c in conditions if c.type != new.type)
    return tuple(sorted((*others, stamped), key=lambda c: c.type))


class Status(ApiModel):
    """What every kind's status has."""

    observed_generation: int | None = Field(default=None, description="Generation last acted on.")
    conditions: tuple[Condition, ...] = Field(default=(), description="Ready, Reconciling, Stalled and the kind's own.")

    def condition(self, kind: str) -> Condition | None:
        """The condition of type `kind`, if it was set."""
        return next((c for c in self.conditions if c.type == kind), None)


class Resource(ApiModel):
    """What the five kinds share. Subclasses fix `kind` and give `spec` and `status` their types."""

    api_version: Literal["schedctl.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: str
    metadata: ObjectMeta

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """`metadata.namespace`, empty for cluster kinds."""
        return self.metadata.namespace or ""

    @property
    def key(self) -> tuple[str, str, str]:
        """(kind, namespace, name): what must be unique in a repository."""
        return (self.kind, self.namespace, self.name)
