# SPDX-License-Identifier: Apache-2.0
"""Hostile C is stopped: by the screen with a line, and by the sandbox alone when nothing screens."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from controller.errors import CandidateRejected, CouldNotTell, DeadlineExceeded, ToolMissing
from controller.kernel import c_screen, clang
from controller.paths import data_dir
from controller.verify import elf
from tests.conftest import missing
from tests.templates import cases
from tests.verify import sources

INCLUDE = data_dir("bpf") / "include"
CANARY = "CANARY_5d41402abc4b2a76"
PASTE = "#define GLUE(a, b) a##b\n"


@pytest.fixture(scope="module", autouse=True)
def _tools():
    try:
        clang.compile_bpf("int x;", INCLUDE)
    except ToolMissing as error:
        missing(str(error))


@pytest.fixture
def canary(tmp_path) -> Path:
    file = tmp_path / "canary.h"
    file.write_text(f"{CANARY} is not C\n")
    return file


def bomb(levels: int) -> str:
    lines = ["#define B0 x +"] + [f"#define B{i} {' '.join([f'B{i - 1}'] * 10)}" for i in range(1, levels)]
    return "\n".join(lines) + f"\nint x; int f(void) {{ return B{levels - 1} 0; }}\n"


HOSTILE = {
    "absolute include": '#include "@"',
    "absolute include in brackets": "#include <@>",
    "include with dots": '#include "../../../../../../../../../../../@"',
    "include through a macro": '#define H "@"\n#include H',
    "include of __FILE__": "#include __FILE__",
    "include of itself": '#include "candidate.bpf.c"',
    "include of a folder": '#include "."',
    "include split over lines": '#inc\\\nlude "@"',
    "include split with blanks": '#inc\\  \nlude "@"',
    "include behind a comment": '/* x */ # /* y */ include /* z */ "@"',
    "include as a digraph": '%:include "@"',
    "include that is not closed": '#include "schedctl.bpf.h',
    "include of a system header": "#include <linux/bpf.h>",
    "include_next": "#include_next <stddef.h>",
    "import": '#import "@"',
    "embed": 'static const char x[] = {\n#embed "@"\n};',
    "has_include": '#if __has_include("@")\nint x;\n#endif',
    "has_include_next": '#if __has_include_next("@")\nint x;\n#endif',
    "has_embed": '#if __has_embed("@")\nint x;\n#endif',
    "incbin": 'asm(".incbin \\"@\\"");',
    "incbin after what the headers say": 'asm(".cfi_sections" "\\n.incbin \\"@\\"");',
    "incbin in a function": 'void f(void) { __asm__ volatile(".incbin \\"@\\""); }',
    "incbin by pasted tokens": PASTE + 'GLUE(as, m)(".incbin \\"@\\"");',
    "incbin in pieces": PASTE + 'GLUE(as, m)("." "incbin \\"@\\"");',
    "incbin behind an escape": PASTE + 'GLUE(as, m)("\\x2eincbin \\"@\\"");',
    "include by the assembler": PASTE + 'GLUE(__as, m__)("nop\\n .include \\"@\\"");',
    "debug crash": "#pragma clang __debug crash",
    "debug crash in an operator": '_Pragma("clang __debug crash") int x;',
    "debug crash by pasted tokens": PASTE + 'GLUE(_Pra, gma)("clang __debug crash") int x;',
    "unroll in full": "void f(void) {\n#pragma clang loop unroll(full)\nfor (int i = 0; i < 1 << 30; i++);\n}",
    "unroll many times": "void f(int n) {\n#pragma unroll 100000\nfor (int i = 0; i < n; i++);\n}",
    "dependency pragma": '#pragma GCC dependency "@"',
    "line directive": '#line 1 "@"\nint x = ;',
    "line marker": '# 1 "@" 1\nint x = ;',
    "ident": '#ident "x"',
    "macro bomb": bomb(9),
    "range designator": "int x[] = { [0 ... 1 << 28] = 1 };",
    "huge initialised array": "char x[1 << 30] = { 1 };",
    "time stamp": "const char *t = __TIME__;",
    "raw string": 'const char *s = R"(*/ /* )";',
    "NUL": "int x;\0int y;",
    "comment that is not closed": "int x; /* for ever",
    "nested brackets": "int x = " + "(" * 20000 + "1" + ")" * 20000 + ";",
    "too large": "/* */ " * 200_000,
    "no C at all": "\x7fELF but as text",
    "not Unicode": "int x; // \udcff",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_c_is_stopped_and_tells_nothing(source, canary):
    with pytest.raises(CandidateRejected) as caught:
        clang.compile_bpf(source.replace("@", str(canary)), INCLUDE)
    assert caught.value.stage == "build"
    assert CANARY not in caught.value.message + caught.value.evidence


@pytest.mark.parametrize("attack", [
    '#include "@"', 'asm(".incbin \\"@\\"");', "#embed \"@\"", '#if __has_include("@")\n#error seen\n#endif\nint x;',
])  # fmt: skip
@pytest.mark.parametrize("victim", ["canary", "/proc/self/environ", "/etc/passwd"])
def test_the_sandbox_holds_without_the_screen(attack, victim, canary, monkeypatch):
    monkeypatch.setenv("SECRET", CANARY)
    monkeypatch.setattr(clang, "screen", lambda source, headers: None)
    monkeypatch.setattr(clang, "screen_expanded", lambda text: None)
    path = str(canary) if victim == "canary" else victim
    try:
        told = clang.compile_bpf(attack.replace("@", path), INCLUDE).object
    except CandidateRejected as error:
        told = f"{error.message}\n{error.evidence}".encode()
    for secret in (CANARY.encode(), b"root:", b"seen"):
        assert secret not in told


def test_a_compilation_that_does_not_come_to_its_end_is_ended_and_says_nothing_of_the_candidate(monkeypatch):
    monkeypatch.setattr(clang, "WALL_SECONDS", 0)
    with pytest.raises(DeadlineExceeded, match="compiling took more than 0 s without using"):
        clang.compile_bpf("int x;", INCLUDE)
    monkeypatch.undo()
    assert clang.compile_bpf("int x;", INCLUDE).object


def test_limits_bind_without_the_screen(monkeypatch):
    monkeypatch.setattr(clang, "screen", lambda source, headers: None)
    monkeypatch.setattr(clang, "screen_expanded", lambda text: None)
    with pytest.raises(CandidateRejected, match=r"crashes clang|fails outside"):
        clang.compile_bpf("#pragma clang __debug crash\nint x;", INCLUDE)
    monkeypatch.setattr(clang, "PREPROCESS_SECONDS", 1)
    with pytest.raises(CandidateRejected, match="more than 1 s of CPU time"):
        clang.compile_bpf(bomb(12).replace("#define B0 x +", "#define B0"), INCLUDE)
    with pytest.raises(CandidateRejected, match="more than 8 MiB"):
        clang.compile_bpf(bomb(9), INCLUDE)
    with pytest.raises(CandidateRejected, match="more than 1 GiB of memory"):
        clang.compile_bpf(HOSTILE["range designator"], INCLUDE)
    monkeypatch.setattr(clang, "ADDRESS_SPACE", 64 << 20)
    with pytest.raises(CouldNotTell, match="clang does not start"):
        clang.compile_bpf("int x;", INCLUDE)


def inside(monkeypatch, script: str, seconds: int = 3) -> str:
    """What a shell script says that runs in the place of clang."""
    busybox = shutil.which("busybox")
    if busybox is None:
        missing("busybox", "make setup")
    shell = clang.Clang(Path(busybox), "0", ())
    monkeypatch.setattr(clang, "_FLAGS", ("sh", "-c", f"{script}\nexit 0"))
    run = clang._run(clang._programs(), shell, b"the candidate", INCLUDE, (), stdin=b"given", cpu_seconds=seconds)
    return run.stdout.decode()


def test_the_sandbox_has_the_limits(monkeypatch):
    said = inside(monkeypatch, "for limit in t v f c n; do ulimit -$limit; done")
    kib, blocks = 1 << 10, 512
    assert said.split() == ["3", str((1 << 30) // kib), str((8 << 20) // blocks), "0", "64"]


def test_the_sandbox_shows_the_headers_and_the_candidate_and_no_more(monkeypatch, canary):
    look = "busybox cat candidate.bpf.c; echo; ls; ls include; ls /; ls /home /root /etc /proc; busybox cat"
    lines = inside(monkeypatch, f"cd /work; {look} {canary}").split("\n")
    assert lines[:3] == ["the candidate", "candidate.bpf.c", "include"]
    assert set(lines[3:]) <= {*(path.name for path in INCLUDE.iterdir()), "bin", "lib", "lib64", "usr", "work", ""}


def test_the_sandbox_has_no_network(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        script = f"echo out | busybox nc -w 1 127.0.0.1 {server.getsockname()[1]} && echo sent"
        assert "sent" not in inside(monkeypatch, script)
        with pytest.raises(TimeoutError):
            server.accept()
        with subprocess.Popen(["busybox", "sh", "-c", script], stdout=subprocess.DEVNULL):
            server.settimeout(10)
            server.accept()[0].close()  # the same words outside are heard


def test_the_sandbox_is_read_only_and_has_no_devices_and_no_environment(monkeypatch):
    monkeypatch.setenv("SECRET", CANARY)
    writes = "for place in / /work /work/include /tmp /dev; do (echo x > $place/x) && echo wrote; done 2>/dev/null"
    asks = "[ -e /dev/null ] && echo device; [ -e /proc/self ] && echo processes; set"
    said = inside(monkeypatch, f"{writes}; {asks}; echo end")
    assert not {"wrote", "device", "processes"} & set(said.split())
    assert "LD_LIBRARY_PATH" in said
    assert said.endswith("end\n")
    assert CANARY not in said


def test_what_the_sandbox_writes_is_cut_off(monkeypatch):
    said = inside(monkeypatch, "while :; do echo 0123456789012345678901234567890123456789; done")
    assert len(said) == 8 << 20


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("int x;\n/* a\n b */\n#include <stdio.h>\n", 4),
        ("#define A \\\n  1\n\n#include </x>\n", 4),
        ("int a;\nint b = ;\n", 2),
        ('#include "schedctl_kernel.bpf.h"\n\nint b = undeclared;\n', 3),
    ],
)
def test_a_refusal_names_the_line(source, line):
    with pytest.raises(c_screen.BuildRejected) as caught:
        clang.compile_bpf(source, INCLUDE)
    assert caught.value.line == line
    assert caught.value.message.startswith(f"line {line}: ")


ALLOWED = {
    "a header of ours": '#include "schedctl_kernel.bpf.h"\nu64 x;',
    "words in comments": "/* asm __has_include _Pragma #include </etc/passwd> */ int x; // asm",
    "words in strings": 'const char *s = "asm(.incbin) __TIME__ # /* ";',
    "an apostrophe in #error": "#if 0\n#error don't\n#endif\nint x;",
    "unroll a little": "void f(volatile int *p) {\n#pragma unroll 4\nfor (int i = 0; i < 4; i++) *p = i;\n}",
    "preserve_access_index": "#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)\n"
    "struct s { int a; };\n#pragma clang attribute pop\nint f(struct s *s) { return s->a; }",
}


@pytest.mark.parametrize("source", ALLOWED.values(), ids=ALLOWED.keys())
def test_honest_c_is_compiled(source):
    assert clang.compile_bpf(source, INCLUDE).object.startswith(b"\x7fELF")


def test_warnings_come_along_with_their_line():
    built = clang.compile_bpf("int f(void)\n{\n  int unused;\n  return 0;\n}\n", INCLUDE)
    assert [(d.line, d.severity) for d in built.diagnostics] == [(3, "warning")]


def test_the_same_source_gives_the_same_object():
    assert clang.compile_bpf(sources.GOOD, INCLUDE).object == clang.compile_bpf(sources.GOOD, INCLUDE).object


def test_the_source_lines_are_in_the_object_for_the_verifiers_log():
    assert b"scx_bpf_dsq_insert(p, SHARED, SCX_SLICE_DFL, ctx[1]);" in clang.compile_bpf(sources.GOOD, INCLUDE).object


@pytest.mark.parametrize("name", sorted(cases.TEMPLATES))
def test_an_object_holds_its_types_and_lines_and_no_dwarf(name):
    built = cases.compiled(name, *cases.mixed(8)).object
    sections = {section.name: section for section in elf.parse(built).sections}
    assert not {".debug_info", ".debug_line", ".debug_str", ".debug_frame"} & sections.keys()
    assert sections[".BTF"].size > 10_000
    assert sections[".BTF.ext"].size > 4_000
    assert len(built) <= 64 << 10


def test_without_the_tools_there_is_no_verdict(tmp_path, monkeypatch):
    monkeypatch.setenv("SCHEDCTL_CLANG", "/nonexistent/clang")
    with pytest.raises(ToolMissing, match="no /nonexistent/clang"):
        clang.compile_bpf("int x;", INCLUDE)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="no bwrap"):
        clang.compile_bpf("int x;", INCLUDE)
    monkeypatch.delenv("SCHEDCTL_CLANG")
    with pytest.raises(ToolMissing, match="no clang on this machine"):
        clang.find()


def test_an_old_clang_is_refused(tmp_path, monkeypatch):
    old = tmp_path / "clang-old"
    old.write_text("#!/bin/sh\necho 'Debian clang version 14.0.6'\n")
    old.chmod(0o755)
    monkeypatch.setenv("SCHEDCTL_CLANG", str(old))
    with pytest.raises(ToolMissing, match=r"is clang 14\.0\.6, and before 17"):
        clang.compile_bpf("int x;", INCLUDE)


def test_a_sandbox_that_cannot_be_set_up_is_no_pass(tmp_path, monkeypatch):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(CouldNotTell, match="sandbox cannot be set up: bwrap: No permissions"):
        clang.compile_bpf("int x;", INCLUDE)


def test_a_missing_header_folder_is_no_verdict(tmp_path):
    with pytest.raises(CouldNotTell, match="headers' folder"):
        clang.compile_bpf("int x;", tmp_path / "nothing")
