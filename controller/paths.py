# SPDX-License-Identifier: Apache-2.0
"""Where schedctl finds its data and keeps its state.

Data (templates, bpf, crds, the sample repository) is read from `controller/_data` in an installed wheel and from the
source tree otherwise. State has three homes, each with an environment variable for tests and odd machines:

    cache   SCHEDCTL_CACHE   kernel images, guest images, merged headers; may be deleted at any time
    config  SCHEDCTL_CONFIG  signing key and trusted public keys
    state   SCHEDCTL_STATE   the node's journal: quarantine, what is pinned, the eject hold
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """The folder `name` ("templates", "bpf", "crds", "policies.git") shipped with schedctl."""
    packaged = _PACKAGE / "_data" / name
    return packaged if packaged.is_dir() else _PACKAGE.parent / name


def cache_dir() -> Path:
    """Re-creatable files. Root on a node uses /var/cache, a person uses XDG_CACHE_HOME."""
    return _home("SCHEDCTL_CACHE", "/var/cache/schedctl", "XDG_CACHE_HOME", ".cache")


def config_dir() -> Path:
    """Keys and trust."""
    return _home("SCHEDCTL_CONFIG", "/etc/schedctl", "XDG_CONFIG_HOME", ".config")


def state_dir() -> Path:
    """The node agent's journal; losing it costs a re-verification, never safety."""
    return _home("SCHEDCTL_STATE", "/var/lib/schedctl", "XDG_STATE_HOME", ".local/state")


def _home(variable: str, system: str, xdg: str, fallback: str) -> Path:
    given = os.environ.get(variable)
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path(system)
    base = os.environ.get(xdg)
    return (Path(base) if base else Path.home() / fallback) / "schedctl"
