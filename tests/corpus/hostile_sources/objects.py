# SPDX-License-Identifier: Apache-2.0
"""C that compiles to an object which is more than a scheduler, or says what it is not."""

from __future__ import annotations

from tests.corpus.hostile_sources.case import Case, body, top
from tests.verify.sources import fifo

_PROGRAMS = (
    "kprobe/do_exit", "kretprobe/do_exit", "fentry/schedule", "fexit/schedule", "fmod_ret/security_file_open",
    "lsm/file_open", "lsm.s/file_open", "tracepoint/sched/sched_switch", "raw_tp/sched_switch", "tp_btf/sched_switch",
    "perf_event", "xdp", "tc", "socket", "cgroup_skb/egress", "sk_msg", "uprobe//bin/sh:main", "usdt", "iter/task",
    "syscall", "freplace/fifo_enqueue", "netfilter", "sk_lookup", "flow_dissector", "lwt_in", "cgroup/sysctl",
)  # fmt: skip
_MAPS = {
    "programs": 3, "perf events": 4, "stack traces": 7, "cgroups": 8, "array of maps": 12, "hash of maps": 13,
    "devices": 14, "sockets": 15, "CPUs": 16, "sockets of XDP": 17, "sockets by hash": 18, "ports": 20,
    "socket storage": 24, "struct_ops": 26, "inode storage": 28, "arena": 33, "an unknown kind": 4711,
}  # fmt: skip
_HELPERS = {
    "tail_call": 12, "perf_event_output": 25, "skb_store_bytes": 9, "probe_write_user": 36, "override_return": 58,
    "redirect": 23, "send_signal": 109, "probe_read_user": 112, "copy_from_user": 148, "sys_bpf": 166,
    "d_path": 147, "get_stack": 67, "a number that is none": 9999,
}  # fmt: skip
_KFUNCS = (
    "bpf_sock_destroy", "crash_kexec", "bpf_lookup_user_key", "bpf_verify_pkcs7_signature", "bpf_get_file_xattr",
    "bpf_kfunc_call_test1", "bpf_copy_from_user_str", "hid_bpf_hw_request", "bpf_modify_return_test", "panic",
)  # fmt: skip


def _map(kind: int, more: str = "", rows: int = 16) -> Case:
    fields = f"int (*type)[{kind}]; int (*max_entries)[{rows}]; u32 *key; u64 *value; {more}"
    return top(f'struct {{ {fields} }} m SEC(".maps");', "audit")


CASES: dict[str, Case] = {
    **{f"a {name} program": top(f'SEC("{name}") int spy(void *ctx) {{ return 0; }}', "audit") for name in _PROGRAMS},
    **{f"a map of {name}": _map(kind) for name, kind in _MAPS.items()},
    **{
        f"helper {name}": body(
            "helper(ctx, 0, 0, 0, 0);",
            "audit",
            f"static long (*const helper)(void *, u64, u64, u64, u64) = (void *){number};\n",
        )
        for name, number in _HELPERS.items()
    },
    **{f"kfunc {name}": body(f"{name}(p);", "audit", f"int {name}(void *s) __ksym;\n") for name in _KFUNCS},
    "a weak kfunc": body("if (panic) panic(p);", "audit", "int panic(void *s) __ksym __attribute__((weak));\n"),
    "a kfunc behind a flavour": body("panic___scx_bpf(p);", "audit", "int panic___scx_bpf(void *s) __ksym;\n"),
    "the address of a kernel variable": body(
        "p->scx.slice = (u64)&init_task;", "audit", "extern const int init_task __ksym;\n"
    ),
    "a program that is optional": top('SEC("?kprobe/x") int spy(void *ctx) { return 0; }', "audit"),
    "an operation with a path": top('SEC("struct_ops/../x") int spy(u64 *ctx) { return 0; }', "audit"),
    "an operation with a line break": top('SEC("struct_ops/x\\nkprobe") int spy(u64 *ctx) { return 0; }', "audit"),
    "an operation in capitals": top('SEC("STRUCT_OPS/x") int spy(u64 *ctx) { return 0; }', "audit"),
    "a constructor": top("__attribute__((constructor)) void f(void) { bpf_ktime_get_ns(); }", "audit"),
    "a destructor": top("__attribute__((destructor)) void f(void) { }", "audit"),
    "maps of the old kind": top('int x SEC("maps") = 1;', "audit"),
    "data for the linker": top('int x SEC(".interp") = 1;', "audit"),
    "types by hand": top('int x SEC(".BTF") = 1;', "audit"),
    "line information by hand": top('int x SEC(".BTF.ext") = 1;', "audit"),
    "a table of symbols by hand": top('int x SEC(".symtab") = 1;', "audit"),
    "a table of names by hand": top('int x SEC(".strtab") = 1;', "audit"),
    "relocations by hand": top('int x SEC(".rel.maps") = 1;', "audit"),
    "a section without a name": top('int x SEC(" ") = 1;', "audit"),
    "a section of terminal escapes": top('int x SEC("\\x1b[2J") = 1;'),
    "an arena": top('int x SEC(".addr_space.1") = 1;', "audit"),
    "a note": top('int x SEC(".note.secret") = 1;', "audit"),
    "a map that pins itself": _map(2, "int (*pinning)[1];"),
    "a map with an unknown field": _map(2, "int (*surprise)[1];"),
    "a map with a program inside": _map(2, "int (*values[])(void);"),
    "a map of 9 million rows": _map(2, rows=9_000_000),
    "a map of rows for each CPU": _map(6, rows=200_000),
    "a map with a row of 100 MiB": top(
        "struct { int (*type)[2]; int (*max_entries)[1]; u32 *key; struct { char x[100 << 20]; } *value; } "
        'm SEC(".maps");',
        "audit",
    ),
    "a map that is a number": top('int m SEC(".maps") = 1;', "audit"),
    "300 maps": top(
        "\n".join(
            f'struct {{ int (*type)[2]; int (*max_entries)[1]; u32 *key; u64 *value; }} m{n} SEC(".maps");'
            for n in range(300)
        ),
        "audit",
    ),
    "two schedulers": Case("audit", fifo() + 'SEC(".struct_ops.link") struct sched_ext_ops more = { .name = "m" };'),
    "a congestion control beside it": Case(
        "audit",
        fifo() + 'struct tcp_congestion_ops { char name[16]; }; SEC(".struct_ops.link") struct tcp_congestion_ops t '
        '= { "x" };',
    ),
    "a table that is not linked": Case("audit", fifo().replace(".struct_ops.link", ".struct_ops")),
    "a table that is optional": Case("audit", fifo().replace(".struct_ops.link", "?.struct_ops.link")),
    "no licence": Case("audit", fifo().replace('char _license[] SEC("license") = "GPL";', "")),
    "a proprietary licence": Case("audit", fifo().replace('"GPL"', '"Proprietary"')),
    "a licence of nothing": Case("audit", fifo().replace('"GPL"', '""')),
    "a licence behind a NUL": Case("audit", fifo().replace('"GPL"', '"\\0GPL"')),
    "a licence in small letters": Case("audit", fifo().replace('"GPL"', '"gpl"')),
    "a licence with a blank": Case("audit", fifo().replace('"GPL"', '"GPL "')),
    "a licence with terminal escapes": Case("audit", fifo().replace('"GPL"', '"\\x1b[2JGPL"')),
    "a licence that is a number": Case(
        "audit", fifo().replace('char _license[] SEC("license") = "GPL";', 'int _license SEC("license") = 1;')
    ),
    "a second licence in front": Case(
        "audit",
        fifo(top='char _a[] SEC("license.a") = "GPL";\n').replace('char _license[] SEC("license") = "GPL";', ""),
    ),
    "no name": Case("lint", fifo(name="")),
    "a name with terminal escapes": Case("lint", fifo(name="\\x1b[2J")),
    "a name with a line break": Case("lint", fifo(name="a\\nsched_ext: enabled")),
    "a name of 127 letters and one": Case("lint", fifo(name="a" * 128)),
    "a name set by a macro": Case(
        "audit",
        fifo(name="X").replace('"X"', "NAME").replace("#define SHARED 0", '#define SHARED 0\n#define NAME "a b"'),
    ),
    "a watchdog of a minute": Case("lint", fifo(timeout_ms=60000)),
    "a watchdog of 49 days": Case("audit", fifo().replace(".timeout_ms = 5000", ".timeout_ms = (u32)(0u - 1u)")),
}
