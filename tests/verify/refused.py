# SPDX-License-Identifier: Apache-2.0
"""Schedulers that the kernel refuses to load, one a cause; `// HERE` marks the line that is to blame.

Run as a program this file makes tests/verify/logs anew: each is compiled with plain clang (some have instructions that
the build sandbox would not let through) and loaded on the oldest and the newest kernel image of this machine, and what
libbpf and the kernel said is kept as NAME-KERNEL.log, the middle of a long one left out:

    python -m tests.verify.refused
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from controller.paths import data_dir
from tests.verify.sources import REFUSED_BY_THE_VERIFIER, fifo

LOGS = Path(__file__).parent / "logs"
KEEP = 12_000
_INSERT = "    scx_bpf_dsq_insert(p, SHARED, SCX_SLICE_DFL, ctx[1]);"
_ENDLESS = '    for (;;) // HERE\n        asm volatile(""); // HERE'
_CALLBACK = (
    "static long (*const bpf_loop)(u32 n, void *callback, void *context, u64 flags) = (void *)181;\n"
    "static long twice(u64 i, void *context)\n{\n    return 2; // HERE\n}\n"
)
_DEEP = (
    "static __attribute__((noinline)) int deep(u64 n)\n{\n    volatile char a[400];\n    a[n & 255] = 1;\n"
    "    return a[0];\n}\n"
)
_TASK = "struct task_struct *bpf_task_from_pid(s32 pid) __ksym;\n"


@dataclass(frozen=True)
class Refused:
    """`cause` is the rule that reduce() must name, without `load/`."""

    cause: str
    source: str

    def lines(self) -> set[int]:
        """The lines marked as to blame; empty where the kernel names none."""
        return {number for number, line in enumerate(self.source.splitlines(), 1) if "// HERE" in line}


def _enqueue(body: str, top: str = "") -> str:
    return fifo(f"{body}\n{_INSERT}", top=top)


def _header(body: str) -> str:
    """A scheduler on schedctl's own headers whose ops.enqueue does `body`."""
    return f"""#include "schedctl_kernel.bpf.h"
#define SHARED 7
SEC("struct_ops/h_enqueue") void h_enqueue(u64 *ctx)
{{
    struct task_struct *p = (void *)ctx[0];
{body}
    scx_bpf_dsq_insert(p, SHARED, 20000000, ctx[1]);
}}
SEC("struct_ops/h_dispatch") void h_dispatch(u64 *ctx)
{{
    scx_bpf_dsq_move_to_local(SHARED);
}}
SEC("struct_ops.s/h_init") s32 h_init(u64 *ctx)
{{
    return scx_bpf_create_dsq(SHARED, -1);
}}
char license_text[] SEC("license") = "GPL";
SEC(".struct_ops.link") struct sched_ext_ops h_ops = {{
    .enqueue = (void *)h_enqueue,
    .dispatch = (void *)h_dispatch,
    .init = (void *)h_init,
    .name = "header",
}};
"""


REFUSED = {
    # The one that keeps an emulated kernel busy for seconds is left to test_on_kernels.py.
    **{name: Refused(name, text) for name, text in REFUSED_BY_THE_VERIFIER.items() if name != "unbounded-loop"},
    "stack-index": Refused("out-of-bounds", _enqueue(
        "    volatile char a[32]; a[0] = 1;\n    a[p->pid & 63] = 1; // HERE")),
    "reference-leak": Refused("reference-leak", _enqueue("    bpf_task_from_pid(1); // HERE", _TASK)),
    "uninitialised": Refused("uninitialised", _enqueue(
        "    u64 x;\n    asm volatile(\"%0 = r9\" : \"=r\"(x)); // HERE\n    if (x == 5) return;")),
    "kfunc-argument": Refused("bad-pointer", _enqueue(
        "    if (scx_bpf_task_cpu((void *)p->scx.slice) == 3) return; // HERE")),
    "kfunc-not-allowed": Refused("kfunc-not-allowed", _enqueue(
        "    bpf_sock_destroy((void *)p); // HERE",
        "struct sock_common { int x; };\nint bpf_sock_destroy(struct sock_common *sock) __ksym;\n")),
    "kfunc-prototype": Refused("kfunc-prototype", _enqueue(
        "    u32 hash;\n    bpf_xdp_metadata_rx_vlan_tag(p, &hash, &hash);",
        "int bpf_xdp_metadata_rx_vlan_tag(void *ctx, void *proto, u32 *tag) __ksym;\n")),
    "volatile-loop": Refused("unbounded-loop", _enqueue(
        "    for (volatile int i = 0; i >= 0; i++) // HERE\n        ; // HERE")),
    "endless-loop": Refused("unbounded-loop", _enqueue(_ENDLESS)),
    "deep-stack": Refused("stack", _enqueue(
        "    volatile char b[400]; b[1] = 2;\n    if (deep(p->pid) + b[p->pid & 255] == 7) return;", _DEEP)),
    "callback-value": Refused("return-value", _enqueue("    bpf_loop(4, twice, 0, 0);", _CALLBACK)),
    "no-such-argument": Refused("bad-argument", _enqueue("    if (ctx[9] == 3) return; // HERE")),
    "division": Refused("division", _enqueue(
        "    u64 x = p->pid;\n    asm volatile(\"%0 /= 0\" : \"+r\"(x)); // HERE\n    if (x == 5) return;")),
    "unreachable": Refused("unreachable", _enqueue(
        "    asm volatile(\"goto +1\\nr0 = 7\"); // HERE")),
    "sleepable-operation": Refused("operation", fifo().replace(
        '"struct_ops/fifo_enqueue"', '"struct_ops.s/fifo_enqueue"')),
    "no-such-operation": Refused("operation", fifo().replace(
        "    u64 flags;", "    void (*nosuch)(void);\n    u64 flags;").replace(
        "    .init =", "    .nosuch = (void *)fifo_exit,\n    .init =")),
    "member-size": Refused("operation", fifo().replace("    u64 flags;", "    u32 flags;").replace(
        "    .init =", "    .flags = 2,\n    .init =")),
    "helper-not-allowed": Refused("helper-not-allowed", _enqueue("    bpf_override_return(ctx, 0); // HERE")),
    "licence": Refused("licence", fifo().replace('= "GPL"', '= "Proprietary"')),
    "in-a-header": Refused("bad-pointer", _header(
        "    if (could_go_on((void *)p->scx.slice)) // HERE\n        return;")),
}  # fmt: skip
"""Name → a scheduler that is refused."""


def compiled(source: str) -> bytes:
    """By plain clang, without the sandbox's checks. Raises CalledProcessError with clang's words."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "candidate.bpf.c"
        file.write_text(source)
        include = data_dir("bpf") / "include"
        command = ["clang-19", "-target", "bpf", "-std=gnu11", "-O2", "-g", "-mcpu=v3", "-w", f"-I{include}", "-c"]
        subprocess.run([*command, file.name, "-o", "x.o"], cwd=folder, check=True, timeout=60)
        return (Path(folder) / "x.o").read_bytes()


def main() -> None:
    """Load each of REFUSED (or those named on the command line) on both kernels and keep the logs."""
    from controller.errors import InputError, LoadRefused
    from controller.kernel import images
    from controller.kernel.guest_protocol import clip
    from controller.kernel.microvm import boot

    wanted = sys.argv[1:] or list(REFUSED)
    objects = {name: compiled(REFUSED[name].source) for name in wanted}
    for which in ("oldest", "newest"):
        image = images.resolve(which)
        version = ".".join(image.release.split(".")[:2])
        with boot(image.path) as guest:
            for name, data in objects.items():
                begun = time.monotonic()
                try:
                    guest.load(data, timeout_ms=3000)
                    print(f"{name}-{version}: ACCEPTED", flush=True)
                except (LoadRefused, InputError) as error:
                    log = error.log if isinstance(error, LoadRefused) else error.message
                    (LOGS / f"{name}-{version}.log").write_text(clip(log, KEEP))
                    print(f"{name}-{version}: {time.monotonic() - begun:.1f} s: {error.message[:200]}", flush=True)


if __name__ == "__main__":
    main()
