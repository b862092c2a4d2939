# SPDX-License-Identifier: Apache-2.0
"""Only a scheduler passes the audit, and no broken object gets past it or breaks it."""

from __future__ import annotations

import random
import struct
import zlib

import pytest

from controller.errors import CandidateRejected, ToolMissing
from controller.kernel import clang, kernel_btf
from controller.kernel.images import KernelImage
from controller.paths import data_dir
from controller.render import render
from controller.verify.audit import AuditRejected, audit
from tests.conftest import missing
from tests.kernel.conftest import kernel_image
from tests.verify.candidates import filled
from tests.verify.sources import fifo

INSERT = "    scx_bpf_dsq_insert(p, SHARED, SCX_SLICE_DFL, ctx[1]);"
MAP = 'struct {{ int (*type)[{kind}]; int (*max_entries)[{rows}]; u32 *key; {value} *value;{more} }} m SEC(".maps");\n'


def build(source: str) -> bytes:
    try:
        return clang.compile_bpf(source, data_dir("bpf") / "include").object
    except ToolMissing as error:
        missing(str(error))


@pytest.fixture(scope="module")
def good() -> bytes:
    return build(fifo())


def with_map(kind: int = 2, rows: int = 16, value: str = "u64", more: str = "") -> str:
    return fifo(top=MAP.format(kind=kind, rows=rows, value=value, more=more))


def test_a_good_object_is_told_what_it_holds(good):
    report = audit(good)
    assert report.ops_name == "fifo"
    assert report.programs[:2] == ("struct_ops/fifo_select_cpu", "struct_ops/fifo_enqueue")
    assert report.licence == "GPL"
    assert "scx_bpf_dsq_insert" in report.kfuncs


@pytest.mark.parametrize("pair", filled(), ids=lambda pair: pair[0].name)
def test_the_templates_pass(pair):
    template, proposal = pair
    rendered = render(proposal, template)
    report = audit(build(rendered.text))
    assert report.ops_name == rendered.ops_name
    assert report.map_bytes < 4 << 20


def test_maps_are_counted():
    report = audit(build(with_map(rows=1000)))
    assert report.maps == ("m",)
    assert report.map_bytes >= 8000


KPROBE = 'SEC("kprobe/do_exit") int spy(void *ctx) { return 0; }\n'
REFUSED = {
    "program-type": fifo(top=KPROBE),
    "program-type of fentry": fifo(top='SEC("fentry/schedule") int spy(u64 *ctx) { return 0; }\n'),
    "ops-table twice": fifo() + 'SEC(".struct_ops.link") struct sched_ext_ops more = { .name = "more" };',
    "ops-table of another kind": fifo()
    + 'struct tcp_congestion_ops { char name[16]; }; SEC(".struct_ops.link") struct tcp_congestion_ops t = { "x" };',
    "ops-table without link": fifo().replace(".struct_ops.link", ".struct_ops"),
    "ops-name": fifo(name=""),
    "ops-name with blanks": fifo(name="a b"),
    "timeout": fifo(timeout_ms=60000),
    "licence": fifo().replace('"GPL"', '"Proprietary"'),
    "licence missing": fifo().replace('char _license[] SEC("license") = "GPL";', ""),
    "helper": fifo("    bpf_override_return(ctx, 0);\n" + INSERT),
    "helper send_signal": fifo("    bpf_send_signal(9);\n" + INSERT),
    "kfunc": fifo("    bpf_sock_destroy(p);\n" + INSERT, top="int bpf_sock_destroy(void *s) __ksym;\n"),
    "kfunc variable": fifo(
        f"    if ((u64)&secret == p->scx.slice) return;\n{INSERT}", top="extern const int secret __ksym;\n"
    ),
    "map-type": with_map(kind=3),
    "map-type perf": with_map(kind=4),
    "map-size": with_map(rows=9_000_000),
    "map-size per cpu": with_map(kind=6, rows=200_000),
    "map-pinning": with_map(more=" int (*pinning)[1];"),
    "map-definition": with_map(more=" int (*surprise)[1];"),
    "section": fifo(top='int x SEC("uprobe.maps") = 1;\n'),
    "section of old maps": fifo(top='int x SEC("maps") = 1;\n'),
}


@pytest.mark.parametrize("case", REFUSED.items(), ids=REFUSED.keys())
def test_what_is_no_part_of_a_scheduler_is_refused(case):
    name, source = case
    with pytest.raises(AuditRejected) as caught:
        audit(build(source))
    assert f"audit/{name.split()[0]}" in {f.rule for f in caught.value.findings}
    assert caught.value.stage == "audit"


def test_a_kfunc_that_a_kernel_lacks_is_named_with_the_kernel(good):
    everything = set(audit(good).kfuncs)
    kernels = {"7.3.4": everything, "6.16.3": everything - {"scx_bpf_dsq_insert"}}
    with pytest.raises(AuditRejected, match=r"^kernel 6\.16\.3 has no kfunc 'scx_bpf_dsq_insert'") as caught:
        audit(good, kernels)
    assert [f.rule for f in caught.value.findings] == ["audit/kfunc-missing"]
    assert audit(good, {"7.3.4": everything}).needed == tuple(sorted(everything))


def test_a_weak_kfunc_may_be_missing():
    weak = "void scx_bpf_later(struct task_struct *p) __ksym __attribute__((weak));\n"
    image = build(fifo(f"    if (scx_bpf_later)\n        scx_bpf_later(p);\n{INSERT}", top=weak))
    report = audit(image, {"6.16.3": set(audit(image).kfuncs) - {"scx_bpf_later"}})
    assert "scx_bpf_later" in report.kfuncs
    assert "scx_bpf_later" not in report.needed


def test_a_kernel_images_kfuncs_are_read_from_its_btf(good):
    image = KernelImage("newest", kernel_image("newest"), "file")
    there = kernel_btf.kfuncs(image)
    assert {"scx_bpf_dsq_insert", "scx_bpf_kick_cpu", "bpf_task_from_pid"} <= there
    assert "schedule" not in there
    assert kernel_btf.kfuncs(image) == there  # from the cache
    assert audit(good, {image.release: there}).ops_name == "fifo"
    source = fifo(f"    scx_bpf_nosuch(p);\n{INSERT}", top="void scx_bpf_nosuch(struct task_struct *p) __ksym;\n")
    with pytest.raises(AuditRejected, match="has no kfunc 'scx_bpf_nosuch'"):
        audit(build(source), {image.release: there})


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"MZ" + bytes(4096), b"\x7fELF" + b"\xff" * 4096])
def test_an_image_that_tells_nothing_is_no_reason_to_refuse(content, tmp_path):
    file = tmp_path / "vmlinuz"
    file.write_bytes(content)
    assert kernel_btf.kfuncs(KernelImage("6.18", file, "file")) is None
    assert kernel_btf.kfuncs(KernelImage("6.18", tmp_path / "gone", "file")) is None


def test_every_reason_is_told_at_once():
    with pytest.raises(AuditRejected) as caught:
        audit(build(fifo(top=KPROBE, name="a b").replace('"GPL"', '"MIT"')))
    assert len(caught.value.findings) == 3
    assert "and 2 more" in caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF",
        b"int main;",
        b"\0" * 4096,
        b"\x7fELF" + b"\0" * 4096,
        b"\x7fELF" + b"\xff" * 4096,
        b"x" * (2 << 20),
    ],
    ids=["empty", "magic", "text", "zeros", "magic and zeros", "magic and ones", "large"],
)
def test_what_is_no_object_is_refused(data):
    with pytest.raises(AuditRejected):
        audit(data)


def test_an_object_for_another_machine_is_refused(good):
    other = bytearray(good)
    struct.pack_into("<H", other, 18, 62)  # EM_X86_64
    with pytest.raises(AuditRejected, match="not a 64-bit little-endian BPF object"):
        audit(bytes(other))


def test_an_object_without_btf_is_refused(good):
    with pytest.raises(AuditRejected):
        audit(good.replace(b".BTF\0", b".XTF\0"))


def test_a_compressed_section_is_not_unpacked(good):
    """64 MiB of zeros in 64 KiB, in the place of a section."""
    bomb = struct.pack("<IIQQ", 1, 0, 64 << 20, 1) + zlib.compress(b"\0" * (64 << 20))
    image = bytearray(good + bomb)
    table = struct.unpack_from("<Q", image, 40)[0]
    section = table + 64 * 2
    flags = struct.unpack_from("<Q", image, section + 8)[0]
    struct.pack_into("<Q", image, section + 8, flags | 0x800)
    struct.pack_into("<QQ", image, section + 24, len(good), len(bomb))
    with pytest.raises(AuditRejected, match="is compressed"):
        audit(bytes(image))


@pytest.mark.parametrize("seed", range(8))
def test_mutations_are_read_or_refused_and_never_crash(good, seed):
    chance = random.Random(seed)
    for _ in range(60):
        data = bytearray(good)
        for _ in range(chance.choice([1, 1, 4, 40])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        try:
            told = audit(bytes(data)).ops_name
        except CandidateRejected as error:
            told = error.message
        assert told
        assert "\n" not in told


def test_every_length_is_refused(good):
    for length in range(0, len(good) - 1, 97):
        with pytest.raises(AuditRejected):
            audit(good[:length])
