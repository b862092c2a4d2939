# SPDX-License-Identifier: Apache-2.0
"""Observe: what runs on this node → WorkloadProfile, and which tasks an intent speaks of.

window      profile(): one window, by bcc or else by /proc
tracer      the bcc observer; probe_process holds bcc, bpf/probes/sched.c counts
procfs      the observer without bcc
continuous  one window every so often: ring the profiles kept, shifts when the load changed; background has them taken
            beside whatever else goes on
grouping    counts by (name, cgroup, user) → workloads
selectors   intents → tasks of this node, and cgroup ids for the kernel
compare     what changed from one profile to another; classify says what kind of load each workload is
twin        a profile as a load that rt-app can run; place gives it a cgroup of its own
misses      why an intent does not match the rest
facts       topology, kernel, pressure
"""

from controller.observe.background import Background
from controller.observe.continuous import Continuous, Steadiness
from controller.observe.misses import Explanation, explain, user_name
from controller.observe.selectors import IntentTasks, Task, cgroup_ids, match
from controller.observe.tracer import Capacity, Probes
from controller.observe.window import profile

__all__ = [
    "Background", "Capacity", "Continuous", "Explanation", "IntentTasks", "Probes", "Steadiness", "Task", "cgroup_ids",
    "explain", "match", "profile", "user_name",
]  # fmt: skip
