# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a committed manifest changes the CPU scheduler of a real kernel, step by step, and is taken back.

Everything is done as a user would do it, by `schedctl` commands; every figure printed was measured in this run. A
private folder holds the policy repository, keys and state; a micro-VM is the node. The run fails, with the logs that
say why, if one of the things it shows does not happen; whatever happens, it leaves no process and no file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller.kernel.initramfs import build_load_generator

SCHEDCTL = str(Path(sys.executable).with_name("schedctl"))
NODE = f"demo-{os.getpid()}"
INTENT = """\
apiVersion: schedctl.dev/v1alpha1
kind: SchedulingIntent
metadata: {name: frontend, namespace: shop}
spec:
  workload: {comm: ["frontend"]}
  objective: {metric: wakeupLatency, percentile: 99, goal: minimize, target: 2ms}
  weight: 300
  guardrails:
    - {workload: others, metric: throughput, maxRegression: 20%}
"""
POLICY = """\
apiVersion: schedctl.dev/v1alpha1
kind: SchedulerPolicy
metadata: {name: default}
spec:
  templates: {allow: ["%s"]}
  rollout: {probation: 5s, onAgentExit: keep}
"""
AS_A_SERVICE = (
    'set -e; c=/sys/fs/cgroup/agent; mkdir $c; echo 1000 > $c/cpu.weight; echo $$ > $c/cgroup.procs; exec "$@"'
)
"""CPUWeight=1000, as in deploy/schedctl-node.service: an agent must be able to act on a node that is overloaded."""
IN_GUEST = {"SCHEDCTL_CONFIG": "/run/schedctl/config", "SCHEDCTL_STATE": "/run/schedctl/state"}


class DemoFailed(Exception):
    """One of the things the demo shows did not happen."""


class Demo:
    """The run: `home` is its private folder, `repo` the policy repository in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.repo = home / "policies"
        self.started = time.monotonic()
        self.planner: subprocess.Popen[bytes] | None = None
        self.env = os.environ | {
            "SCHEDCTL_CONFIG": str(home / "config"),
            "SCHEDCTL_STATE": str(home / "state"),
            "SCHEDCTL_REPO": str(self.repo),
        }

    def say(self, text: str) -> None:
        """A heading with the time since the start."""
        print(f"\n\033[1m[{time.monotonic() - self.started:5.1f}s] {text}\033[0m", flush=True)

    def schedctl(
        self, *arguments: str, stdin: str | None = None, show: bool = True, check: bool = True, nice: int = 0
    ) -> str:
        """Run one command, shown as a user would type it; its stdout."""
        if show:
            print(f"$ schedctl {' '.join(arguments)}", flush=True)
        command = ["nice", "-n", str(nice), SCHEDCTL, *arguments]
        done = subprocess.run(
            command, env=self.env, input=stdin, text=True, capture_output=True, timeout=200, check=False
        )
        if show:
            print(done.stdout + done.stderr, end="", flush=True)
        if check and done.returncode != 0:
            raise DemoFailed(f"schedctl {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def on_node(self, *command: str, stdin: str | None = None, show: bool = True) -> str:
        """Run a command inside the node VM."""
        settings = [f"{key}={value}" for key, value in IN_GUEST.items()]
        interactive = ["-i"] if stdin is not None else []
        arguments = ["node", "exec", NODE, *interactive, "--", "env", *settings, *command]
        if show:
            print(f"node# {' '.join(command)}", flush=True)
        text = self.schedctl(*arguments, stdin=stdin, show=False)
        if show:
            print(text, end="", flush=True)
        return text

    def node(self) -> dict[str, Any]:
        """The node's NodeScheduler, {} while there is none."""
        text = self.schedctl("get", "nsch", NODE, "-o", "json", show=False, check=False)
        return json.loads(text) if text.strip() else {}

    def wait_for(self, what: str, seconds: float, found: Callable[[dict[str, Any]], Any]) -> Any:
        """Poll the node's status until `found` returns something true; DemoFailed after `seconds`."""
        print(f"  waiting for {what} ", end="", flush=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = found(self.node().get("status") or {})
            if value:
                print("✔", flush=True)
                return value
            if self.planner is not None and self.planner.poll() is not None:
                raise DemoFailed(f"the planner ended with {self.planner.returncode}")
            print(".", end="", flush=True)
            time.sleep(2)
        raise DemoFailed(f"{what} did not come within {seconds:.0f} s")

    def run(self) -> None:
        """All of it."""
        self.prepare()
        before = self.before()
        self.start_planner()
        after = self.converge()
        self.compare(before, after)
        self.refuse()
        self.eject()

    def prepare(self) -> None:
        """A repository, a key, and a node with a real mixed load on it."""
        self.say("A policy repository, and a node: a micro-VM with a sched_ext kernel")
        self.schedctl("init", str(self.repo))
        self.schedctl("apply", "-f", "-", "-m", "platform: any template, short probation", stdin=POLICY % "*")
        self.schedctl("key", "generate")
        # The node's load must not take this machine from the verifier: no more than another node's would.
        self.schedctl("node", "start", NODE, "--kernel", "newest", "--share", str(self.repo), nice=10)
        public = next((self.home / "config" / "trusted").glob("*.pub"))
        self.on_node("sh", "-c", "cat > /run/planner.pub", stdin=public.read_text(), show=False)
        self.on_node(SCHEDCTL, "key", "trust", "/run/planner.pub", show=False)
        self.on_node("uname", "-r")
        self.start_on_node(
            "agent", "sh", "-c", AS_A_SERVICE, "sh", SCHEDCTL, "agent", "run", "--role", "node",
            "--repo", str(self.repo), "--node-name", NODE,
            "--observe", "2s", "--observe-every", "8s", "--interval", "2s",
        )  # fmt: skip
        self.say("A real mixed load on it: 4 CPU-bound `batch` processes beside `frontend`, which sleeps and wakes")
        load = str(build_load_generator())
        self.start_on_node("batch", load, "spin", "4", "3600", "--comm", "batch")
        self.start_on_node("frontend", load, "wakers", "2", "5000", "3600", "--comm", "frontend")

    def start_planner(self) -> None:
        """Only when the figure before is there: a profile of /proc, which has none, is enough to plan by."""
        log = (self.home / "planner.log").open("wb")
        command = [SCHEDCTL, "agent", "run", "--role", "planner"]
        self.planner = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)

    def start_on_node(self, name: str, *command: str) -> None:
        """Start something that goes on running inside the node."""
        settings = [f"{key}={value}" for key, value in IN_GUEST.items()]
        print(f"node# {' '.join(command)} &", flush=True)
        log = f"/var/log/{name}.log"
        self.schedctl("node", "exec", NODE, "--detach", "--log", log, "--", "env", *settings, *command, show=False)

    def before(self) -> float:
        """The intent, then the first profile; the p99 on the kernel's own scheduler, nanoseconds."""
        self.say("An application team commits an intent")
        print(INTENT)
        self.schedctl("apply", "-f", "-", "-m", "shop: frontend wants low wakeup latency", stdin=INTENT)
        self.say("The node's agent observes it (bcc inside the VM) on the kernel's own scheduler")
        figure = self.wait_for("the node's profile, still on the kernel's own scheduler", 400, p99)
        self.schedctl("get", "nsch")
        return float(figure)

    def converge(self) -> float:
        """Plan, verify, commit, attach, promote; the p99 after, nanoseconds."""
        self.say("Planned, rendered and verified outside the node, committed, attached, promoted")
        self.wait_for("a revision on probation", 400, lambda s: (s.get("attached") or {}).get("phase"))
        self.show_revision()
        self.wait_for("its promotion", 240, lambda s: (s.get("attached") or {}).get("phase") == "Promoted")
        promoted = self.node()["status"]["profile"]["takenAt"]
        state = self.on_node("cat", "/sys/kernel/sched_ext/state")
        ops = self.on_node("cat", "/sys/kernel/sched_ext/root/ops")
        if state.strip() != "enabled" or not ops.startswith("schedctl_"):
            raise DemoFailed(f"the kernel says {state.strip()} {ops.strip()}")
        after = self.wait_for(
            "a profile under the new scheduler", 300, lambda s: p99(s) if s["profile"]["takenAt"] > promoted else None
        )
        for kinds in ("intents,spol,srev", "nsch"):
            self.schedctl("get", kinds, "-A", "-o", "wide")
        return float(after)

    def show_revision(self) -> None:
        """What was planned, why, and the passport's stages with their figures."""
        item = json.loads(self.schedctl("get", "srev", "-o", "json", show=False))["items"][-1]
        name, proposal = item["metadata"]["name"], item["spec"]["proposal"]
        print(f"\nrevision {name}: template {proposal['template']}, planner {proposal['planner']['name']}")
        for reason in proposal["reasons"]:
            print(f"  - {reason}")
        source = self.repo / "revisions" / item["spec"]["files"]["source"]
        print(f"rendered: {source.name}, {len(source.read_text().splitlines())} lines of C")
        print("passport:")
        passport = read_passport(self.repo / "revisions" / item["spec"]["files"]["passport"])
        for stage in [*passport["stages"], *(s for k in passport["kernels"] for s in k["stages"])]:
            figures = ", ".join(f"{k}={v}" for k, v in list(stage.get("figures", {}).items())[:6])
            print(f"  {stage['stage']:<9} {stage['verdict']:<7} {stage['seconds']:6.2f}s  {stage['summary']}")
            if figures:
                print(f"  {'':<9} {figures}")
        subprocess.run(["git", "-C", str(self.repo), "log", "--oneline", "-5"], check=True, env=self.env)

    def compare(self, before: float, after: float) -> None:
        """The figure the intent asked for."""
        self.say("p99 wakeup latency of the intent's workload, measured by the node's probes")
        print(f"  before, kernel's own scheduler   {before / 1e6:9.3f} ms")
        print(f"  after, {self.node()['status']['attached']['opsName']}   {after / 1e6:9.3f} ms")
        print(f"  ratio                            {before / after:9.1f} × lower" if after < before else "  not lower")
        # One window of each proves nothing either way: `schedctl verify --trial` does. Both must have been measured.
        if not (before > 0 and after > 0):
            raise DemoFailed("the wakeup latency of the intent's workload was not measured")

    def refuse(self) -> None:
        """An intent that cannot be met under the policy: the last good revision stays."""
        self.say("A policy under which the intent cannot be met: the node stays on the last good revision")
        good = self.node()["status"]["attached"]["revision"]
        forbidden = POLICY % "no-such-template"
        self.schedctl("apply", "-f", "-", "-m", "platform: forbid every template", stdin=forbidden)
        stalled = self.wait_for("Stalled with the reason", 300, lambda s: condition(s, "Stalled", "NoPlan"))
        print(f"  Stalled={stalled['status']} {stalled['reason']}: {stalled['message']}")
        self.schedctl("get", "spol,nsch")
        if self.node()["status"]["attached"]["revision"] != good:
            raise DemoFailed("the node left its last good revision")
        if self.on_node("cat", "/sys/kernel/sched_ext/state").strip() != "enabled":
            raise DemoFailed("the last good scheduler is gone")

    def eject(self) -> None:
        """Back to the kernel's own scheduler, and stay there."""
        self.say("Eject: back to the kernel's own scheduler, now")
        self.on_node(SCHEDCTL, "eject")
        if self.on_node("cat", "/sys/kernel/sched_ext/state").strip() != "disabled":
            raise DemoFailed("the scheduler is still attached after eject")
        self.wait_for("the agent to say so", 240, lambda s: condition(s, "Stalled", "Ejected"))
        self.schedctl("get", "nsch")
        self.schedctl("events")

    def close(self, failed: bool) -> None:
        """End the planner and the VM; with a failure, first show what they said last."""
        if self.planner is not None:
            self.planner.send_signal(signal.SIGTERM)
            try:
                self.planner.wait(15)
            except subprocess.TimeoutExpired:
                self.planner.kill()
                self.planner.wait()
        if failed:
            log = self.home / "planner.log"
            print("\n--- planner ---\n" + (log.read_text(errors="replace")[-4000:] if log.exists() else ""))
            print("--- node agent ---")
            self.schedctl("node", "exec", NODE, "--", "tail", "-n", "40", "/var/log/agent.log", check=False)
            self.schedctl("describe", "nsch", NODE, check=False)
        self.schedctl("node", "stop", NODE, check=False)


def p99(status: dict[str, Any]) -> float | None:
    """The p99 wakeup latency of shop/frontend in a profile, nanoseconds; None while it is not there."""
    from controller.api import Histogram

    workloads = (status.get("profile") or {}).get("workloads", [])
    mine = next((w for w in workloads if w["name"] == "shop/frontend" and w.get("wakeupLatency")), None)
    return Histogram.model_validate(mine["wakeupLatency"]).percentile(99) if mine is not None else None


def condition(status: dict[str, Any], kind: str, reason: str) -> dict[str, Any] | None:
    """The condition `kind` if it is True with this reason."""
    found = (c for c in status.get("conditions", []) if c["type"] == kind)
    return next((c for c in found if c["status"] == "True" and c["reason"] == reason), None)


def read_passport(file: Path) -> dict[str, Any]:
    """The passport in a DSSE envelope, for showing only: nodes verify the signature themselves."""
    import base64

    statement = json.loads(base64.b64decode(json.loads(file.read_text())["payload"]))
    predicate: dict[str, Any] = statement["predicate"]
    return predicate


def main() -> int:
    """0 if everything was shown, 1 if not."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends us, nothing is left behind
    home = Path(tempfile.mkdtemp(prefix="schedctl-demo-"))
    demo = Demo(home)
    failed = True
    try:
        demo.run()
        failed = False
    except (DemoFailed, subprocess.TimeoutExpired) as error:
        print(f"\ndemo failed: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
    finally:
        demo.close(failed)
        shutil.rmtree(home, ignore_errors=True)
    if not failed:
        print(f"\n✔ all of it happened, in {time.monotonic() - demo.started:.0f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
