# SPDX-License-Identifier: Apache-2.0
"""Texts that lie to the reader, to the terminal or to the scanner, and texts that are none."""

from __future__ import annotations

from tests.corpus.hostile_sources.case import PASTE, Case, body, top
from tests.verify.sources import fifo

CASES: dict[str, Case] = {
    "NUL between declarations": top("int x;\0int y;"),
    "NUL in a string": top('const char *s = "a\0b";'),
    "a terminal's escape in a comment": top("/* \x1b[2J\x1b]0;owned\x07 */"),
    "backspaces that hide code": top("int x; /* harmless \b\b\b\b\b */"),
    "the end of a DOS file": top("\x1a\nint x;"),
    "a deleted character": top("int \x7fx;"),
    "order of reading turned round": top("/* \u202e } \u2066if (admin)\u2069 \u2066 */ int x;"),
    "an isolate that is not closed": top('const char *s = "\u2067user";'),
    "a mark from right to left": top("int a\u200f;"),
    "a lone surrogate": top("int x; // \udcff"),
    "a letter of another alphabet": body("scx_bpf_dsq_insert\u0430(p, SHARED, 1, 0);"),
    "a comment that is not closed": Case("build", fifo() + "/* for ever"),
    "a string that is not closed": top('const char *s = "for ever;'),
    "a raw string": top('const char *s = R"(*/ /* )";'),
    "a raw string with a prefix": top('const char *s = u8R"x(" #include )x";'),
    "a conditional that is not closed": top("#if 1"),
    "an #endif too many": top("#endif"),
    "an unknown directive": top("#unknown x"),
    "ident": top('#ident "x"'),
    "sccs": top('#sccs "x"'),
    "assertion of the preprocessor": top("#assert machine(bpf)"),
    "a directive that is a number": top("#5"),
    "an error that speaks as clang": top("#error x\\\ncandidate.bpf.c:1:1: error: forged"),
    "a static assertion that speaks as clang": top(
        '_Static_assert(0, "x\\ncandidate.bpf.c:1:1: error: forged by the candidate");'
    ),
    "a warning that says out of memory": top("#warning LLVM ERROR: out of memory\n#error bad_alloc"),
    "the date": top("const char *d = __DATE__;"),
    "the time": top("const char *t = __TIME__;"),
    "the time stamp": top("const char *t = __TIMESTAMP__;"),
    "the date by pasted tokens": top(PASTE + "const char *d = GLUE(__DA, TE__);"),
    "larger than a megabyte": Case("lint", fifo(top="/* */ " * 200_000)),
    "as large as may be, of blanks": Case("lint", " " * (512 << 10) + "x"),
    "only zeros": Case("lint", "\0" * 1000),
    "an ELF object as text": Case("lint", "\x7fELF\x02\x01\x01 but as text"),
    "a script": Case("lint", "#!/bin/sh\nrm -rf /\n"),
    "nothing": Case("lint", ""),
    "a page of another language": Case("lint", "<html><script>alert(1)</script></html>"),
    "a line of 400 KiB": Case("lint", "int " + ", ".join(f"a{i}" for i in range(50_000)) + ";"),
    "brackets 100,000 deep": Case("lint", fifo(top="int x = " + "(" * 100_000 + "1" + ")" * 100_000 + ";\n")),
    "braces 50,000 deep": Case("lint", "void f(void) " + "{" * 50_000 + "}" * 50_000),
    "quotes that never close": Case("lint", "'" * 300_000),
    "comments that never close": Case("lint", "/*" * 150_000),
    "sections that never end": Case("lint", 'SEC("struct_ops' * 20_000),
    "declarations that never end": Case("lint", 'SEC("struct_ops/x") ' + "a " * 100_000),
    "parameters that never end": Case("lint", "void BPF_STRUCT_OPS(f" + ", int a" * 50_000),
    "members that never end": Case("lint", "struct sched_ext_ops x = {" + ".a = (" * 50_000),
    "enumerators that never end": Case("lint", "enum { " + "a = 1, " * 60_000),
    "defines that refer in a circle": top("#define A B\n#define B A\nint x = A;"),
    "20,000 defines of one name": top("\n".join(f"#define A{i} A{i + 1}" for i in range(12_000)) + "\nint x = A0;"),
}
