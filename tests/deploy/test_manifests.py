# SPDX-License-Identifier: Apache-2.0
"""What is in deploy/ must be what the tools that read it accept."""

from __future__ import annotations

import configparser
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
NODE_CODE = ("observe/*.py", "deploy/*.py", "paths.py")
LINKED_TO = {"/usr/src": "/lib/modules"}  # Debian's /lib/modules/RELEASE/build are links into it


def test_the_daemonset_selects_its_own_pods_and_runs_the_node_half():
    documents = list(yaml.safe_load_all((DEPLOY / "daemonset.yaml").read_text()))
    daemonset = next(d for d in documents if d["kind"] == "DaemonSet")
    spec = daemonset["spec"]
    labels = spec["template"]["metadata"]["labels"].items()
    assert spec["selector"]["matchLabels"].items() <= labels
    container = spec["template"]["spec"]["containers"][0]
    volumes = {v["name"] for v in spec["template"]["spec"]["volumes"]}
    assert {m["name"] for m in container["volumeMounts"]} == volumes
    assert '"--role", "node"' in (DEPLOY / "Containerfile").read_text()


def test_the_daemonset_takes_of_the_node_what_the_code_of_the_node_names():
    documents = list(yaml.safe_load_all((DEPLOY / "daemonset.yaml").read_text()))
    pod = next(d for d in documents if d["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    code = "".join(file.read_text() for part in NODE_CODE for file in (ROOT / "controller").glob(part))
    paths = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    assert {"/sys/fs/bpf", "/lib/modules"} <= paths
    assert [path for path in sorted(paths) if LINKED_TO.get(path, path) not in code] == []
    for name in ("tracing", "debug"):  # the probes are raw tracepoints
        assert f"/sys/kernel/{name}" not in paths
        assert f"/sys/kernel/{name}" not in code


def test_the_unit_starts_the_node_half_and_survives_its_end():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read(DEPLOY / "schedctl-node.service")
    assert unit["Service"]["ExecStart"].endswith("schedctl agent run --role node")
    assert unit["Service"]["Restart"] == "always"
    assert int(unit["Service"]["CPUWeight"]) > 100, "it can act where all others together want more than there is"
