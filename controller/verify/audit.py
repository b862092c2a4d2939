# SPDX-License-Identifier: Apache-2.0
"""Audit: is this BPF object a scheduler and nothing besides, by an allow-list of all that an object can hold.

The kernel's verifier proves that programs are safe to run, not that they are only a scheduler: an object may carry a
tracing program, a map pinned into bpffs, or a kfunc that touches what is none of a scheduler's business. So sections,
program types, maps, kfuncs, helpers and the licence are each checked against what sched_ext schedulers need, whether
the object was built here or brought; a kfunc it cannot do without must be in the BTF of each kernel asked for. The
bytes are untrusted: a broken object is a refusal with a sentence, and reading one takes time in proportion to its size.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from controller.api import Finding
from controller.errors import CandidateRejected
from controller.verify import btf, elf

MAX_OBJECT = 1 << 20
MAX_MAP_BYTES = 64 << 20
MAX_MAPS = 256
MAX_MAP_FIELDS = 32
MAX_FINDINGS = 64
MAX_TIMEOUT_MS = 30000
CPUS_ASSUMED = 64
"""For the size of per-CPU maps: the object does not say on how many CPUs it will run."""

LICENCES = frozenset(
    ("GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL")
)  # kernel: include/linux/license.h
MAP_TYPES = {
    1: "hash", 2: "array", 5: "percpu_hash", 6: "percpu_array", 9: "lru_hash", 10: "lru_percpu_hash", 11: "lpm_trie",
    22: "queue", 23: "stack", 27: "ringbuf", 29: "task_storage", 30: "bloom_filter", 31: "user_ringbuf",
    32: "cgrp_storage",
}  # fmt: skip
_PER_CPU = frozenset((5, 6, 10))
HELPERS = {
    1: "map_lookup_elem", 2: "map_update_elem", 3: "map_delete_elem", 4: "probe_read", 5: "ktime_get_ns",
    6: "trace_printk", 7: "get_prandom_u32", 8: "get_smp_processor_id", 14: "get_current_pid_tgid",
    15: "get_current_uid_gid", 16: "get_current_comm", 35: "get_current_task", 42: "get_numa_node_id",
    45: "probe_read_str", 80: "get_current_cgroup_id", 87: "map_push_elem", 88: "map_pop_elem", 89: "map_peek_elem",
    93: "spin_lock", 94: "spin_unlock", 105: "strtol", 106: "strtoul", 113: "probe_read_kernel",
    115: "probe_read_kernel_str", 118: "jiffies64", 123: "get_current_ancestor_cgroup_id", 125: "ktime_get_boot_ns",
    130: "ringbuf_output", 131: "ringbuf_reserve", 132: "ringbuf_submit", 133: "ringbuf_discard", 134: "ringbuf_query",
    153: "per_cpu_ptr", 154: "this_cpu_ptr", 156: "task_storage_get", 157: "task_storage_delete",
    158: "get_current_task_btf", 160: "ktime_get_coarse_ns", 164: "for_each_map_elem", 165: "snprintf",
    169: "timer_init", 170: "timer_set_callback", 171: "timer_start", 172: "timer_cancel", 177: "trace_vprintk",
    181: "loop", 182: "strncmp", 194: "kptr_xchg", 195: "map_lookup_percpu_elem", 197: "dynptr_from_mem",
    198: "ringbuf_reserve_dynptr", 199: "ringbuf_submit_dynptr", 200: "ringbuf_discard_dynptr", 201: "dynptr_read",
    202: "dynptr_write", 203: "dynptr_data", 208: "ktime_get_tai_ns", 209: "user_ringbuf_drain",
    210: "cgrp_storage_get", 211: "cgrp_storage_delete",
}  # fmt: skip
_REFUSED_HELPERS = {
    12: "tail_call", 36: "probe_write_user", 58: "override_return", 109: "send_signal", 112: "probe_read_user",
    114: "probe_read_user_str", 117: "send_signal_thread", 148: "copy_from_user", 166: "sys_bpf",
    191: "copy_from_user_task",
}  # fmt: skip
_KFUNCS = re.compile(
    r"^(?:(?:__)?scx_bpf_\w+|bpf_task_(?:acquire|release|from_pid|from_vpid|under_cgroup|get_cgroup1)|bpf_cpumask_\w+|"
    r"bpf_rcu_read_(?:lock|unlock)|bpf_preempt_(?:disable|enable)|bpf_local_irq_(?:save|restore)|bpf_res_spin_\w+|"
    r"bpf_iter_(?:num|bits|scx_dsq|task|css|css_task|kmem_cache)_(?:new|next|destroy)|bpf_cgroup_\w+|bpf_get_cgroup\w*|"
    r"bpf_obj_(?:new|drop)_impl|bpf_percpu_obj_(?:new|drop)_impl|bpf_refcount_acquire_impl|bpf_list_\w+|bpf_rbtree_\w+|"
    r"bpf_cast_to_kern_ctx|bpf_rdonly_cast|bpf_dynptr_\w+|bpf_str\w+)\Z"
)
_KSYM_VARIABLES = re.compile(r"^(?:runqueues|kernel_cpustat|nr_cpu_ids|__SCX_\w+)\Z")
_KCONFIG = re.compile(r"^(?:CONFIG_\w+|LINUX_KERNEL_VERSION|LINUX_HAS_\w+)\Z")
_DATA = re.compile(r"^\.(?:rodata|data|bss)(?:\.\w+)*\Z")
_STRUCT_OPS = re.compile(r"^struct_ops(?:\.s)?(?:/\w+)?\Z")
_INERT = re.compile(
    r"^(?:|\.strtab|\.shstrtab|\.symtab|\.text|license|version|\.maps|\.struct_ops\.link|\.BTF(?:\.ext)?|\.comment|"
    r"\.llvm_addrsig|\.eh_frame|\.debug_\w+|\.note\.GNU-stack)\Z"
)
_OPS = re.compile(r"^sched_ext_ops(?:___\w+)?\Z")
_FLAVOUR = re.compile(r"(.*[^_])___[^_].*", re.DOTALL)
_WEAK = "declare it __weak and test it before the call, or leave that kernel out"
_REMEDY = "compile it with clang -g -O2 -target bpf, with one sched_ext_ops in .struct_ops.link"


@dataclass
class AuditReport:
    """What the object holds."""

    ops_name: str = ""
    programs: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    map_bytes: int = 0
    kfuncs: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    """Of the kfuncs, those that are not weak: a kernel without one refuses the object."""
    helpers: tuple[str, ...] = ()
    licence: str = ""
    findings: list[Finding] = field(default_factory=list)

    def object_to(self, rule: str, message: str, fix: str = "") -> None:
        """Note one thing that is not allowed; more than MAX_FINDINGS tell a reader nothing new."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(rule=f"audit/{rule}", severity="error", message=message[:4096], fix=fix))


class AuditRejected(CandidateRejected):
    """The object is not one that may run; `findings` are all reasons, the message is the first."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        first = self.findings[0]
        more = f" (and {len(self.findings) - 1} more)" if len(self.findings) > 1 else ""
        evidence = "\n".join(f"{f.rule}: {f.message}" for f in self.findings)
        super().__init__("audit", f"{first.message}{more}", evidence=evidence[:65536], remedy=first.fix)


def audit(image: bytes, kernels: Mapping[str, Collection[str]] | None = None) -> AuditReport:
    """What the object `image` holds, if all of it is allowed; AuditRejected with every reason otherwise.

    `kernels`: release → names of the kfuncs it has (`kernel.kernel_btf.kfuncs`), for each kernel it is to run on.
    """
    report = AuditReport()
    if len(image) > MAX_OBJECT:
        report.object_to("size", f"the object is {len(image)} bytes, more than {MAX_OBJECT >> 20} MiB")
    elif not image.startswith(b"\x7fELF"):
        report.object_to("malformed", "this is not an ELF object", _REMEDY)
    else:
        try:
            _read(image, report)
        except (ValueError, struct.error) as error:
            report.object_to("malformed", f"the object is broken: {str(error)[:200]}", _REMEDY)
    for release, there in (kernels or {}).items():
        for name in sorted(set(report.needed) - set(there)):
            report.object_to("kfunc-missing", f"kernel {release} has no kfunc {name!r:.80}", _WEAK)
    if report.findings:
        raise AuditRejected(report.findings)
    return report


def _read(image: bytes, report: AuditReport) -> None:
    object_ = elf.parse(image)
    contents = _sections(object_, report)
    if ".BTF" not in contents:
        report.object_to("no-btf", "the object has no BTF, without which it cannot be judged", "compile it with -g")
        return
    types = btf.parse(contents[".BTF"])
    btf.check_ext(contents.get(".BTF.ext", b""))
    _licence(contents, report)
    _ops(contents, types, report)
    _maps(object_, types, report)
    _externs(object_, types, report)
    _instructions(contents, report)


def _sections(object_: elf.Elf, report: AuditReport) -> dict[str, bytes]:
    """The sections' contents by name, each checked against the allow-list."""
    contents: dict[str, bytes] = {}
    programs = []
    for section in object_.sections:
        name = section.name
        base = re.sub(r"^\.rela?(?=[.\w])", "", name) if section.type in (elf.SHT_REL, elf.SHT_RELA) else name
        if section.flags & elf.SHF_COMPRESSED:
            report.object_to("section", f"section {name!r:.80} is compressed")
            continue
        if section.type == elf.SHT_NOBITS and not name.startswith(".bss"):
            report.object_to("section", f"section {name!r:.80} has no contents")
            continue
        if section.executable and name != ".text" and not _STRUCT_OPS.match(name):
            report.object_to(
                "program-type",
                f"section {name!r:.80} is a program that is no scheduler operation",
                "keep tracing and other programs out of a scheduler's object",
            )
        elif not (_INERT.match(base) or _DATA.match(base) or _STRUCT_OPS.match(base)):
            report.object_to("section", f"section {name!r:.80} has no place in a scheduler", "take it out")
        if name in contents:
            report.object_to("section", f"there are two sections {name!r:.80}")
        if section.executable and _STRUCT_OPS.match(name):
            programs.append(name)
        contents[name] = object_.data(section)
    report.programs = tuple(programs)
    return contents


def _licence(contents: dict[str, bytes], report: AuditReport) -> None:
    report.licence = contents.get("license", b"").split(b"\0", 1)[0].decode("ascii", "replace")
    if report.licence not in LICENCES:
        said = f"the licence {report.licence!r:.80} is not" if report.licence else "there is no licence that is"
        report.object_to(
            "licence",
            f"{said} GPL-compatible, as the kernel asks of schedulers",
            'char _license[] SEC("license") = "GPL"',
        )


def _ops(contents: dict[str, bytes], types: btf.Btf, report: AuditReport) -> None:
    variables = types.section(".struct_ops.link")
    tables = [types.type(v.refers) for v in variables if v.kind == btf.VAR]
    schedulers = [t for t in tables if _OPS.match(t.name)]
    if len(variables) != 1 or len(schedulers) != 1:
        found = ", ".join(t.name[:64] for t in tables[:8]) or "none"
        report.object_to(
            "ops-table",
            f".struct_ops.link must hold exactly one sched_ext_ops and no other table, it holds {found:.200}",
        )
        return
    member = types.struct_member(schedulers[0], "name")
    data = contents.get(".struct_ops.link", b"")
    if member is not None:
        raw = data[member.offset : member.offset + types.size_of(member.type_id)].split(b"\0", 1)[0]
        report.ops_name = raw.decode("ascii", "replace")
    timeout = types.struct_member(schedulers[0], "timeout_ms")
    if timeout is not None and len(data) >= timeout.offset + 4:
        watchdog = struct.unpack_from("<I", data, timeout.offset)[0]
        if watchdog > MAX_TIMEOUT_MS:  # the micro-VM shortens it, and would not see the refusal
            report.object_to("timeout", f"timeout_ms is {watchdog}, the kernel takes at most {MAX_TIMEOUT_MS}")
    if not re.fullmatch(r"[A-Za-z0-9_.]{1,127}", report.ops_name):
        report.object_to("ops-name", f"the ops' name {report.ops_name!r:.80} is none the kernel takes", "set .name")


def _maps(object_: elf.Elf, types: btf.Btf, report: AuditReport) -> None:
    variables = types.section(".maps")
    if len(variables) > MAX_MAPS:
        report.object_to("map-definition", f"the object has {len(variables)} maps, more than {MAX_MAPS}")
        return
    names = [variable.name for variable in variables]
    total = sum(section.size for section in object_.sections if _DATA.match(section.name))
    total += sum(_map(variable, types, report) for variable in variables)
    report.maps, report.map_bytes = tuple(names), total
    if total > MAX_MAP_BYTES:
        report.object_to("map-size", f"maps and data take {total >> 20} MiB, more than {MAX_MAP_BYTES >> 20} MiB")


def _map(variable: btf.Type, types: btf.Btf, report: AuditReport) -> int:
    """Check one map's definition; its size in bytes."""
    definition = types.type(variable.refers)
    if variable.kind != btf.VAR:
        report.object_to("map-definition", f"{variable.name!r:.64} in .maps is no variable")
        return 0
    if len(definition.members) > MAX_MAP_FIELDS:
        report.object_to("map-definition", f"map {variable.name!r:.64} has {len(definition.members)} fields")
        return 0
    numbers: dict[str, int] = {}
    for member in definition.members:
        pointed = types.type(member.type_id)
        if pointed.kind != btf.PTR:
            report.object_to("map-definition", f"map {variable.name!r:.64} has an unreadable field {member.name!r:.64}")
            return 0
        target = types.type(pointed.refers) if pointed.refers else None
        if member.name in ("key", "value"):
            numbers[f"{member.name}_size"] = types.size_of(pointed.refers)
        elif target is not None and target.kind == btf.ARRAY and member.name != "values":
            numbers[member.name] = target.count
        else:
            report.object_to("map-definition", f"map {variable.name!r:.64} has a field {member.name!r:.64} of maps")
    kind = numbers.get("type", 0)
    if kind not in MAP_TYPES:
        report.object_to("map-type", f"map {variable.name!r:.64} is of a type ({kind}) that no scheduler needs")
    if numbers.get("pinning"):
        report.object_to("map-pinning", f"map {variable.name!r:.64} pins itself into bpffs", "take the pinning out")
    known = {"type", "max_entries", "key_size", "value_size", "map_flags", "map_extra", "numa_node", "pinning"}
    if numbers.keys() - known:
        report.object_to(
            "map-definition", f"map {variable.name!r:.64} has unknown fields {sorted(numbers.keys() - known)}"
        )
    row = numbers.get("key_size", 0) + numbers.get("value_size", 0) * (CPUS_ASSUMED if kind in _PER_CPU else 1)
    return max(row, 1) * numbers.get("max_entries", 0)


def _externs(object_: elf.Elf, types: btf.Btf, report: AuditReport) -> None:
    """Every undefined symbol is a kfunc, a variable of the kernel or a Kconfig value, and one of those allowed."""
    variables = {t.name for t in types.section(".ksyms") if t.kind == btf.VAR}
    kconfig = {t.name for t in types.section(".kconfig")}
    kfuncs, needed = set(), set()
    for symbol in object_.symbols():
        if symbol.type > elf.STT_FILE:  # thread-local, common, chosen at run time
            report.object_to("symbol", f"the symbol {symbol.name!r:.80} is of a type that no scheduler needs")
        if not symbol.undefined:
            continue
        name = symbol.name
        flavour = _FLAVOUR.fullmatch(name)
        plain = flavour[1] if flavour else name  # libbpf drops what follows the last three underscores
        if name in kconfig:
            allowed = _KCONFIG.match(name)
        elif name in variables:
            allowed = _KSYM_VARIABLES.match(plain)
        else:
            allowed = _KFUNCS.match(plain)
            kfuncs.add(plain)
            if not symbol.weak:
                needed.add(plain)
        if not allowed:
            report.object_to("kfunc", f"the kernel function or variable {name!r:.80} is not a scheduler's business")
    report.kfuncs, report.needed = tuple(sorted(kfuncs)), tuple(sorted(needed))


def _instructions(contents: dict[str, bytes], report: AuditReport) -> None:
    helpers: set[int] = set()
    for name, code in contents.items():
        if name != ".text" and name not in report.programs:
            continue
        if len(code) % 8:
            report.object_to("malformed", f"section {name!r:.80} is not made of whole instructions")
            continue
        helpers |= _helper_calls(name, code, report)
    for number in sorted(helpers - HELPERS.keys()):
        title = _REFUSED_HELPERS.get(number, "unknown")
        report.object_to("helper", f"helper {number} (bpf_{title}) is not a scheduler's business", "do without it")
    report.helpers = tuple(HELPERS[n] for n in sorted(helpers & HELPERS.keys()))


def _helper_calls(name: str, code: bytes, report: AuditReport) -> set[int]:
    """Numbers of the helpers called: a call's source register tells helper (0), own function (1), kfunc (2) apart."""
    found = set()
    position = 0
    while position < len(code):
        opcode, registers, _offset, immediate = struct.unpack_from("<BBhi", code, position)
        if opcode == 0x85 and registers >> 4 == 0:
            found.add(immediate)
        elif opcode == 0x8D:
            report.object_to("indirect-call", f"section {name!r:.80} calls through a register")
        position += 16 if opcode == 0x18 else 8  # a 64-bit load takes two slots
    return found
