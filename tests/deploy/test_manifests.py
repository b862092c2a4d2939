# SPDX-License-Identifier: Apache-2.0
"""What is in deploy/ must be what the tools that read it accept."""

from __future__ import annotations

import configparser
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"


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


def test_the_unit_starts_the_node_half_and_survives_its_end():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read(DEPLOY / "schedctl-node.service")
    assert unit["Service"]["ExecStart"].endswith("schedctl agent run --role node")
    assert unit["Service"]["Restart"] == "always"
