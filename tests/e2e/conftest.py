# SPDX-License-Identifier: Apache-2.0
"""A world for end-to-end tests: a policy repository, a node VM with a real load, and a signer whose key it trusts.

Revisions here carry a passport that the test signs itself, so that a scheduler no verifier would pass can be put before
a node: what the node does then is what these tests are about.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.api import (
    KernelColumn,
    NodeScheduler,
    ObjectMeta,
    Passport,
    PlannerRecord,
    Proposal,
    RevisionBytes,
    RevisionDigests,
    RevisionFiles,
    RevisionSpec,
    SchedulerPolicy,
    SchedulerRevision,
    StageResult,
    TaskClass,
    Verdict,
    decode,
    now,
    sha256,
)
from controller.api.passport import STAGES
from controller.errors import ToolMissing
from controller.kernel import images, knobs, nodevm, qemu
from controller.kernel.clang import compile_bpf
from controller.kernel.initramfs import build_load_generator
from controller.paths import data_dir
from controller.reconcile import keys
from controller.render import builtin_templates, render, template_digest
from controller.source import GitStore, init
from controller.trust import dsse
from controller.trust import keys as trust_keys
from tests.builders import digest, later
from tests.conftest import missing

FIXTURES = Path(__file__).parents[1] / "kernel" / "fixtures"
SCHEDCTL = str(Path(sys.executable).with_name("schedctl"))
GUEST_ENV = {"SCHEDCTL_CONFIG": "/run/schedctl/config", "SCHEDCTL_STATE": "/run/schedctl/state"}
FAIR = next(template for template in builtin_templates() if template.name == "weighted-fair")
STATE = Path("/sys/kernel/sched_ext")
INTENT = """\
apiVersion: schedctl.dev/v1alpha1
kind: SchedulingIntent
metadata: {name: load, namespace: test}
spec:
  workload: {comm: ["load"]}
  objective: {metric: throughput, goal: maximize}
"""
POLICY = """\
apiVersion: schedctl.dev/v1alpha1
kind: SchedulerPolicy
metadata: {name: default}
spec: {rollout: {probation: %s}}
"""


class World:
    """Repository, store and VM; `agent` runs the real agent inside the VM."""

    def __init__(self, vm: nodevm.NodeVm, repo: Path) -> None:
        self.vm = vm
        self.repo = repo
        self.store = GitStore(repo)

    def apply(self, text: str) -> None:
        decoded = decode.decode(text, "test.yaml")
        assert not decoded.errors
        self.store.apply([(text, d) for d in decoded.documents], "test")

    def sh(self, script: str, timeout_s: float = 60) -> str:
        done = self.vm.exec(["sh", "-c", script], timeout_s=timeout_s)
        assert done.exit_code == 0, done.stderr.decode() + done.stdout.decode()
        return done.stdout.decode().strip()

    def schedctl(self, *arguments: str, timeout_s: float = 500, code: int | None = 0) -> str:
        done = self.vm.exec([SCHEDCTL, *arguments], timeout_s=timeout_s, env=GUEST_ENV)
        assert code is None or done.exit_code == code, done.stdout.decode() + done.stderr.decode()
        return done.stdout.decode() + done.stderr.decode()

    def agent_once(self, code: int | None = 0) -> str:
        return self.schedctl(*self._agent(), "--once", code=code)

    def agent_start(self) -> int:
        """A background agent; its pid in the VM."""
        return self.vm.spawn([SCHEDCTL, *self._agent()], log="/var/log/agent.log", env=GUEST_ENV)

    def kill9(self, pid: int) -> None:
        self.sh(f"kill -9 {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.05; done; true")

    def _agent(self) -> list[str]:
        return [
            *("agent", "run", "--role", "node", "--repo", str(self.repo), "--node-name", "e2e"),
            # Compiling the probes takes an emulated node longer than all else here; the demo's agent uses bcc.
            *("--procfs", "--observe", "1s", "--observe-every", "30s", "--interval", "1s"),
        ]

    def ops(self) -> str:
        """The attached scheduler, or the state when there is none."""
        return self.sh(f"cat {STATE}/root/ops 2>/dev/null || cat {STATE}/state")

    def enable_seq(self) -> int:
        return int(self.sh(f"cat {STATE}/enable_seq"))

    def counters(self) -> dict[str, int]:
        """The kernel's own: of sched_ext, and of the attached scheduler, by the names that `top` gives them."""
        numbers = self.sh(f"cd {STATE} && cat enable_seq nr_rejected hotplug_seq && cat root/events").splitlines()
        found = dict(zip(("enabled", "rejected", "hotplugs"), map(int, numbers[:3]), strict=True))
        for line in numbers[3:]:
            name, value = line.split()
            found[name.removeprefix("SCX_EV_").lower()] = int(value)
        return found

    def view(self, *arguments: str) -> str:
        """What a verb draws on a terminal of 80 columns and 24 rows, without the terminal's orders."""
        command = "stty cols 80 rows 24; exec " + shlex.join([SCHEDCTL, *arguments])
        done = self.vm.exec(["script", "-qec", command, "/dev/null"], timeout_s=500, env=GUEST_ENV | {"TERM": "xterm"})
        assert done.exit_code == 0, done.stdout.decode()
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", re.sub(r"\x1b\[(\d+;\d*)?H", "\n", done.stdout.decode()))

    def wait_ops(self, name: str, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while self.ops() != name:
            assert time.monotonic() < end, f"{self.ops()} instead of {name}\n" + self.sh(
                "tail -n 40 /var/log/agent.log"
            )
            time.sleep(0.5)

    def node(self) -> NodeScheduler:
        return next(n for n in self.store.nodes() if n.name == "e2e")

    def condition(self, kind: str) -> tuple[str, str, str]:
        status = self.node().status
        assert status is not None
        found = status.condition(kind)
        assert found is not None
        return found.status.value, found.reason, found.message

    def commit_scheduler(
        self, fixture: str, ops_name: str, *, tampered: bool = False, **replace: str
    ) -> SchedulerRevision:
        """Commit a revision made from a fixture, under a passport signed here without any verification."""
        text = (FIXTURES / f"{fixture}.bpf.c").read_text()
        for old, new in replace.items():
            assert f".{old} = " in text
            text = "\n".join(f"\t.{old} = {new}," if f".{old} = " in line else line for line in text.splitlines())
        return self._commit(text, compile_plain(text), self._proposal(digest("a")), ops_name, tampered=tampered)

    def commit_fair(self, weight: int) -> SchedulerRevision:
        """Commit a revision of the template weighted-fair in which the intents have this weight."""
        proposal = self._proposal(template_digest(FAIR), weight)
        rendered = render(proposal, FAIR)
        built = compile_bpf(rendered.text, data_dir("bpf") / "include").object
        return self._commit(rendered.text, built, proposal, rendered.ops_name)

    def _proposal(self, template: str, weight: int | None = None) -> Proposal:
        """One class for each intent that counts on the node."""
        state = self.store.read()
        assert state.desired is not None
        assert state.problems == ()
        intents = keys.counted_intents(state.desired, self.node())
        assert intents
        classes = tuple(
            TaskClass(
                handle=f"c{n}",
                intent=i.qualified_name,
                metric=i.spec.objective.metric,
                weight=weight or i.spec.weight,
                match={"comm": i.spec.workload.comm},
                selector=i.spec.workload,
            )
            for n, i in enumerate(intents, start=1)
        )
        return Proposal(
            template="weighted-fair",
            template_digest=template,
            classes=classes,
            planner=PlannerRecord(name="rules", version="test"),
        )

    def _commit(
        self, text: str, built: bytes, proposal: Proposal, ops_name: str, *, tampered: bool = False
    ) -> SchedulerRevision:
        state, node = self.store.read(), self.node()
        assert state.desired is not None
        policy = keys.governing(state.desired.policies, node.spec.labels)
        target = keys.target_of(node)
        assert isinstance(policy, SchedulerPolicy)
        assert target is not None
        intents = keys.counted_intents(state.desired, node)
        stages = {s: StageResult(stage=s, verdict=Verdict.PASS, summary="signed by a test") for s in STAGES[:7]}
        column = KernelColumn(
            release=target.kernel_release,
            btf_digest=target.btf_digest,
            topology_class=target.topology_class,
            stages=(stages["load"], stages["liveness"]),
        )
        passport = Passport(
            verdict=Verdict.PASS,
            object_digest=sha256(built),
            source_digest=sha256(text.encode()),
            template_digest=proposal.template_digest,
            proposal_digest=proposal.content_digest(),
            ops_name=ops_name,
            stages=tuple(stages[s] for s in STAGES[:5]),
            kernels=(column,),
            issued_at=now(),
            expires_at=later(10**9),
        )
        envelope = dsse.sign(passport, trust_keys.load_signing_key()).canonical()
        name = f"default-{ops_name.replace('_', '-')}"
        spec = RevisionSpec(
            policy=policy.name,
            plan_key=keys.plan_key(policy, intents, target),
            target=target,
            ops_name=ops_name,
            proposal=proposal,
            digests=RevisionDigests(
                source=sha256(text.encode()),
                object=sha256(built),
                template=proposal.template_digest,
                proposal=proposal.content_digest(),
                passport=sha256(envelope),
                code=knobs.code_digest(built) or None,
            ),
            files=RevisionFiles(
                source=f"{name}/scheduler.bpf.c", object=f"{name}/scheduler.bpf.o", passport=f"{name}/passport.json"
            ),
            created_at=now(),
        )
        revision = SchedulerRevision(metadata=ObjectMeta(name=name), spec=spec)
        shipped = built[:-1] + bytes([built[-1] ^ 1]) if tampered else built
        self.store.add_revision(revision, RevisionBytes(source=text.encode(), object=shipped, passport=envelope))
        return revision


def compile_plain(text: str) -> bytes:
    """The fixture's object, by plain clang: these sources are ours."""
    compiler = next(filter(None, map(shutil.which, ("clang-19", "clang"))), None)
    if compiler is None:
        missing("clang")
    command = [compiler, "-g", "-O2", "-target", "bpf", "-I", str(FIXTURES), "-x", "c", "-c", "-", "-o", "-"]
    return subprocess.run(command, input=text.encode(), capture_output=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A node VM on the newest kernel whose agent has looked around once."""
    home = tmp_path_factory.mktemp("e2e")
    patch = pytest.MonkeyPatch()
    patch.setenv("SCHEDCTL_CONFIG", str(home / "config"))
    patch.setenv("SCHEDCTL_STATE", str(home / "state"))
    try:
        kernel = images.resolve("newest")
        qemu.find()
        load = build_load_generator()
    except ToolMissing as error:
        missing(str(error), error.remedy)
    repo = home / "policies"
    init(repo)
    trust_keys.ensure_signing_key()
    vm = nodevm.start(f"e2e-{os.getpid()}", kernel=kernel, shares=[repo])
    try:
        made = World(vm, repo)
        public = next((home / "config" / "trusted").glob("*.pub")).read_text()
        vm.exec(["sh", "-c", "cat > /run/planner.pub"], timeout_s=60, stdin=public.encode())
        made.schedctl("key", "trust", "/run/planner.pub")
        vm.spawn([str(load), "wakers", "1", "5000", "36000", "--comm", "load"], log="/var/log/load.log")
        made.apply(POLICY % "1h" + "---\n" + INTENT)
        made.agent_once(code=1)
        yield made
    finally:
        vm.stop()
        patch.undo()
