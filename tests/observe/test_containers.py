# SPDX-License-Identifier: Apache-2.0
"""Container, pod and QoS from cgroup paths, as runtimes and kubelets of these kinds write them."""

from __future__ import annotations

import pytest

from controller.observe.containers import Container, identify

ID = "3f4e1a9c0d5b6e7f8091a2b3c4d5e6f7a8b9c0d1e2f30415263748596a7b8c9d"
UID = "8d8aa7d4-3f0c-4a1e-9a53-0c1d6b1f9d11"
SLICED = UID.replace("-", "_")
STATIC = "b0e5c1f3a4d2968790a1b2c3d4e5f607"

PATHS = {
    # Kubernetes, kubelet with the systemd driver.
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICED}.slice/cri-containerd-{ID}.scope": (
        Container(ID, UID, "Burstable")
    ),
    f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICED}.slice/crio-{ID}.scope": (
        Container(ID, UID, "BestEffort")
    ),
    f"/kubepods.slice/kubepods-pod{SLICED}.slice/cri-containerd-{ID}.scope": Container(ID, UID, "Guaranteed"),
    f"/kubepods.slice/kubepods-pod{SLICED}.slice/docker-{ID}.scope": Container(ID, UID, "Guaranteed"),
    # CRI-O's monitor belongs to the pod and is no container; its container may have a cgroup of its own.
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICED}.slice/crio-conmon-{ID}.scope": (
        Container("", UID, "Burstable")
    ),
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICED}.slice/crio-{ID}.scope/container": (
        Container(ID, UID, "Burstable")
    ),
    # A static pod's UID is a hash.
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/cri-containerd-{ID}.scope": (
        Container(ID, STATIC, "Burstable")
    ),
    # kubelet with the cgroupfs driver.
    f"/kubepods/burstable/pod{UID}/{ID}": Container(ID, UID, "Burstable"),
    f"/kubepods/besteffort/pod{UID}/{ID}": Container(ID, UID, "BestEffort"),
    f"/kubepods/pod{UID}/{ID}": Container(ID, UID, "Guaranteed"),
    f"/kubepods/burstable/pod{UID}/crio-{ID}": Container(ID, UID, "Burstable"),
    f"/kubepods/burstable/pod{STATIC}/{ID}": Container(ID, STATIC, "Burstable"),
    f"/kubepods/pod{UID}": Container("", UID, "Guaranteed"),
    # containerd told to use systemd under a kubelet that uses cgroupfs.
    f"/system.slice/kubepods-burstable-pod{SLICED}.slice:cri-containerd:{ID}": Container(ID, UID, "Burstable"),
    f"/system.slice/containerd.service/kubepods-burstable-pod{SLICED}.slice:cri-containerd:{ID}": (
        Container(ID, UID, "Burstable")
    ),
    # A node that is a container (kind): the outer container is not the pod's.
    f"/docker/{'0' * 64}/kubelet/kubepods/burstable/pod{UID}/{ID}": Container(ID, UID, "Burstable"),
    f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{SLICED}"
    f".slice/cri-containerd-{ID}.scope": Container(ID, UID, "BestEffort"),
    # With a --cgroup-root, and a container with cgroups of its own.
    f"/workloads/kubepods/burstable/pod{UID}/{ID}/init.scope": Container(ID, UID, "Burstable"),
    # Without Kubernetes.
    f"/docker/{ID}": Container(ID),
    f"/system.slice/docker-{ID}.scope": Container(ID),
    f"/machine.slice/libpod-{ID}.scope/container": Container(ID),
    f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope": Container(ID),
    f"/machine.slice/libpod-conmon-{ID}.scope": Container(),
    # No container at all.
    "/": Container(),
    "/system.slice/nginx.service": Container(),
    "/system.slice/podman.service": Container(),
    "/kubepods.slice": Container(),
    "/kubepods.slice/kubepods-burstable.slice": Container(),
    "/kubepods/burstable/podsomething": Container(),
    "/user.slice/user-1000.slice/session-3.scope": Container(),
    f"/system.slice/{ID[:40]}": Container(),
}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_says_which_container_and_pod(path):
    assert identify(path.encode()) == PATHS[path]


def test_bytes_that_are_no_text_are_no_container():
    assert identify(b"/kubepods/pod\xff\xfe/\n") == Container()
