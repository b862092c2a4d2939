# SPDX-License-Identifier: Apache-2.0
"""A cgroup path → the container and pod it belongs to: what the kubelet and the runtimes write into paths.

Pods, by the kubelet's cgroup driver:

    cgroupfs  /kubepods/burstable/pod<UID>/<container id>          a Guaranteed pod is right below kubepods
    systemd   /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<UID with _ for ->.slice/<scope>

A static pod's UID is a hash of 32 digits, not a UUID. kubelets started with --cgroup-root put all that deeper, and a
node that is itself a container (kind) has a kubelet slice of its own before it (`kubelet-kubepods-…`).

Containers, by runtime: `<id>` alone (cgroupfs), `cri-containerd-<id>.scope`, `crio-<id>.scope` (CRI-O's monitor is
`crio-conmon-<id>.scope` and no container), `docker-<id>.scope`, `libpod-<id>.scope`, and with containerd's own systemd
form `/system.slice/kubepods-…:cri-containerd:<id>`. A container may make cgroups below its own. Docker without
Kubernetes: `/docker/<id>` and `/system.slice/docker-<id>.scope`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Qos = Literal["", "Guaranteed", "Burstable", "BestEffort"]

_POD = re.compile(
    rb"(?:^|-)pod(?P<uid>[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})"
    rb"(?:\.slice)?(?::[^/]*)?$"
)
_KUBEPODS = re.compile(rb"(?:^|-)kubepods(?=[-.:]|$)")
_CONTAINER = re.compile(rb"^(?:(?:cri-containerd|crio|docker|libpod|containerd)-)?(?P<id>[0-9a-f]{64})(?:\.scope)?$")
_COLONS = re.compile(rb":(?:cri-containerd|containerd|crio|docker):(?P<id>[0-9a-f]{64})$")


@dataclass(frozen=True)
class Container:
    """Container id (64 hex digits), pod UID (as the API has it, with dashes) and the pod's QoS class; "" is unknown."""

    container: str = ""
    pod: str = ""
    qos: Qos = ""


def identify(path: bytes) -> Container:
    """What a cgroup path says; all empty for one that belongs to no container."""
    parts = [part for part in path.split(b"/") if part]
    pod, container = "", ""
    for part in parts:
        found = _POD.search(part)
        if found is not None:
            pod, container = _uid(found["uid"]), ""
        inside = _CONTAINER.search(part) or _COLONS.search(part)
        if inside is not None and not container:
            container = inside["id"].decode()
    return Container(container, pod, _qos(parts) if pod else "")


def _uid(raw: bytes) -> str:
    return raw.decode().replace("_", "-")


def _qos(parts: list[bytes]) -> Qos:
    if not any(_KUBEPODS.search(part) for part in parts):
        return ""
    above = b"/".join(parts)
    if re.search(rb"(?:^|[/-])besteffort(?:[/.:-]|$)", above):
        return "BestEffort"
    if re.search(rb"(?:^|[/-])burstable(?:[/.:-]|$)", above):
        return "Burstable"
    return "Guaranteed"
