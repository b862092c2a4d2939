# SPDX-License-Identifier: Apache-2.0
"""What host and guest say to each other: one JSON document a line, at most MAX_LINE bytes.

    host    {"id": 1, "call": "load", "with": {...}}
    guest   {"id": 1, "result": ...}    or    {"id": 1, "error": {"kind": "LoadRefused", "message": ..., "log": ...}}
    guest   {"hello": {...}}            once, when it is ready

The guest runs untrusted code in its kernel, so the host takes no answer on faith: `revive` builds a value of the type
that was asked for, or raises ValueError.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

from controller.errors import InputError, KernelError, LoadRefused, SchedctlError, ToolMissing

MAX_LINE = 8 * 1024 * 1024
MAX_TEXT = 1024 * 1024

T = TypeVar("T")
_RAISABLE: tuple[type[SchedctlError], ...] = (LoadRefused, KernelError, ToolMissing, InputError, SchedctlError)


@dataclass(frozen=True)
class CommandResult:
    """How a command in the guest ended: exit code (negative: the signal that killed it), output, seconds it took.

    With `timed_out` it had not ended in the time allowed, and `rc` says nothing.
    """

    rc: int
    stdout: str
    stderr: str
    seconds: float
    timed_out: bool = False


@dataclass(frozen=True)
class GuestFacts:
    """What the guest found itself on; `btf_digest` is "" on a kernel without BTF."""

    release: str
    btf_digest: str
    topology_class: str
    cpus: int
    memory_mib: int
    sched_ext: bool
    libbpf: str


def error_document(error: SchedctlError) -> dict[str, str]:
    """`error` as the guest sends it."""
    kind = next(each for each in _RAISABLE if isinstance(error, each))
    log = error.log if isinstance(error, LoadRefused) else ""
    return {"kind": kind.__name__, "message": error.message, "remedy": error.remedy, "log": clip(log)}


def error_from(document: Any) -> SchedctlError:
    """The error a guest sent, as the exception it was there. Raises ValueError."""
    texts = revive(dict[str, str], document)
    message, remedy = texts.get("message", ""), texts.get("remedy", "")
    for kind in _RAISABLE:
        if kind.__name__ == texts.get("kind"):
            if kind is LoadRefused:
                return LoadRefused(message, log=texts.get("log", ""), remedy=remedy)
            return kind(message, remedy=remedy)
    raise ValueError("an error of no known kind")


def clip(text: str, limit: int = MAX_TEXT) -> str:
    """`text`, or its beginning and end when it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def revive(wanted: type[T], value: Any) -> T:
    """What JSON gave as the type `wanted`: a dataclass, str, int, float, bool, X | None, or a container of these.

    Raises ValueError when it does not fit.
    """
    return typing.cast("T", _revive(wanted, value))


def _revive(wanted: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return _revive_dataclass(wanted, value)
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _revive(arguments[0], value)
    if origin in (list, tuple) and isinstance(value, list):
        return origin(_revive(arguments[0], each) for each in value)
    if origin is dict and isinstance(value, dict):
        return {_revive(arguments[0], key): _revive(arguments[1], each) for key, each in value.items()}
    if wanted is float and type(value) is int:
        return float(value)
    if isinstance(wanted, type) and type(value) is wanted:
        return value
    raise ValueError(f"{type(value).__name__} where {getattr(wanted, '__name__', wanted)} belongs")


def _revive_dataclass(wanted: type, value: Any) -> Any:
    fields = {field.name for field in dataclasses.fields(wanted)}
    if not isinstance(value, dict) or set(value) != fields:
        raise ValueError(f"not the fields of {wanted.__name__}")
    hints = typing.get_type_hints(wanted)
    return wanted(**{name: _revive(hints[name], value[name]) for name in fields})
