# SPDX-License-Identifier: Apache-2.0
"""Ways to use up a compiler's time and memory, to crash it, or to have it do what is not compiling."""

from __future__ import annotations

from tests.corpus.hostile_sources.case import PASTE, Case, body, top


def _macros(levels: int, width: int, last: str) -> str:
    lines = [f"#define B0 {last}"]
    lines += [f"#define B{level} {' '.join([f'B{level - 1}'] * width)}" for level in range(1, levels)]
    return "\n".join(lines) + "\n"


def _inlines(levels: int) -> str:
    lines = ["static __always_inline u64 f0(u64 x) { return x * 3 + bpf_ktime_get_ns(); }"]
    lines += [
        f"static __always_inline u64 f{n}(u64 x) {{ return f{n - 1}(x) ^ f{n - 1}(x + {n}); }}"
        for n in range(1, levels)
    ]
    return "\n".join(lines) + "\n"


def _nested(opening: str, closing: str, depth: int, inside: str = "1") -> str:
    return opening * depth + inside + closing * depth


_DOUBLED = "\n".join(
    ["typedef struct { char a; } t0;"] + [f"typedef struct {{ t{n - 1} a, b; }} t{n};" for n in range(1, 41)]
)

CASES: dict[str, Case] = {
    "macro bomb": top(_macros(9, 10, "x +") + "int x; int f(void) { return B8 0; }"),
    "macro bomb of nothing": top(_macros(26, 4, "") + "B25"),
    "macro bomb by arguments": top("#define D(x) x x x x x x x x\n#define E(x) D(D(D(D(x))))\nint y = E(E(E(1 +))) 0;"),
    "macro bomb by pasting": top(PASTE + _macros(8, 12, "GLUE(a, b)") + "B7"),
    "macro bomb by strings": top(
        "#define S(x) #x\n#define R(x) S(x)\n" + _macros(9, 10, "x") + "const char *s = R(B8);"
    ),
    "macro bomb of variable arguments": top(
        "#define V(...) __VA_OPT__(__VA_ARGS__, __VA_ARGS__, __VA_ARGS__)\n#define W(...) V(V(V(V(V(__VA_ARGS__)))))\n"
        "int x[] = { W(W(W(1))) };"
    ),
    "conditionals 20,000 deep": top("#if 1\n" * 20_000 + "#endif\n" * 20_000 + "int x = ;", "lint"),
    "brackets in an expression 3,000 deep": top(f"int x = {_nested('(', ')', 3000)};", "lint"),
    "blocks 1,000 deep": body(_nested("{", "}", 1000, ";"), "lint"),
    "initialisers 2,000 deep": top(f"int x = {_nested('{', '}', 2000)};", "lint"),
    "conditional operators 2,000 deep": top(f"int x = {_nested('1 ? (', ') : 0', 2000)};", "lint"),
    "statement expressions 1,000 deep": body(f"u64 x = {_nested('({ ', '; })', 1000)};", "lint"),
    "structs 1,000 deep": top(_nested("struct {", "} a;", 1000, "int x;"), "lint"),
    "pointers 20,000 deep": top(f"int {'*' * 20_000}x = 5.0;", "lint"),
    "arrays of 300 dimensions": top(f"int x{'[2]' * 300};"),
    "array of 2^62 elements": top("char x[1ULL << 62];"),
    "array larger than memory": top("char x[1 << 30] = { 1 };"),
    "array larger than maps may be": top("char x[100 << 20];", "audit"),
    "range designator": top("int x[] = { [0 ... 1 << 28] = 1 };"),
    "one designator far out": top("int x[] = { [1 << 29] = 1 };"),
    "struct of 2^40 bytes": top(_DOUBLED + "\nt40 x;", "audit"),
    "vector of 128 KiB": top("typedef char v __attribute__((vector_size(1 << 17))); v f(v a, v b) { return a * b; }"),
    "integer of 8 million bits": top("unsigned _BitInt(8388608) f(unsigned _BitInt(8388608) a) { return a / 3; }"),
    "literal of 400,000 digits": top(f"u64 x = 0x{'f' * 400_000};"),
    "name of 200,000 letters": top(f"int {'a' * 200_000} = ;"),
    "string doubled 26 times": top(
        '#define S0 "aaaaaaaaaaaaaaaa"\n'
        + "\n".join(f"#define S{n} S{n - 1} S{n - 1}" for n in range(1, 27))
        + "\nconst char s[] = S26;"
    ),
    "cases of 2^31 numbers": body("switch (p->pid) { case 0 ... 0x7ffffffe: case 5: ; }"),
    "30,000 errors": top("int x = y;\n" * 30_000),
    "a flood of warnings": top(
        "\n".join(f"static int w{i}(void) {{ int u{i}; }}" for i in range(4000)) + "\nint x = ;"
    ),
    "inlined 2^30 times": body("u64 x = f29(1); if (x == 1) return;", before=_inlines(30)),
    "unrolled in full": body("\n#pragma clang loop unroll(full)\nfor (int i = 0; i < 1 << 30; i++) p->scx.slice++;"),
    "unrolled a million times": body("\n#pragma clang loop unroll_count(1000000)\nfor (u64 i = 0; i < ctx[1]; i++) ;"),
    "unrolled 100,000 times": body("\n#pragma unroll 100000\nfor (u64 i = 0; i < ctx[1]; i++) ;"),
    "unrolled by GCC's pragma": body("\n#pragma GCC unroll 65000\nfor (u64 i = 0; i < ctx[1]; i++) ;"),
    "unrolled by an attribute of OpenCL": body(
        "__attribute__((opencl_unroll_hint(100000))) for (u64 i = 0; i < ctx[1]; i++) scx_bpf_kick_cpu(i, 0);"
    ),
    "unrolled through an operator": body('_Pragma("unroll 100000") for (u64 i = 0; i < ctx[1]; i++) ;'),
    "unrolled by pasted tokens": body(
        'GLUE(_Pra, gma)("clang loop unroll(full)") for (u64 i = 0; i < 1 << 30; i++) ;', before=PASTE
    ),
    "debug crash": top("#pragma clang __debug crash"),
    "debug parser crash": top("#pragma clang __debug parser_crash"),
    "debug stack overflow": top("#pragma clang __debug overflow_stack"),
    "debug fatal error": top("#pragma clang __debug llvm_fatal_error"),
    "debug unreachable": top("#pragma clang __debug llvm_unreachable"),
    "debug assert": top("#pragma clang __debug assert"),
    "debug dump": top("#pragma clang __debug dump x"),
    "debug macro": top("#pragma clang __debug macro SEC"),
    "debug crash in an operator": top('_Pragma("clang __debug crash") int x;'),
    "debug crash by pasted tokens": top(PASTE + 'GLUE(_Pra, gma)("clang __debug crash") int x;'),
    "debug crash in a line splice": top("#pragma clang __de\\\nbug crash"),
    "Microsoft's pragma": top("__pragma(comment(lib, 1)) int x;"),
    "section pragma": top('#pragma clang section text="kprobe/x"'),
    "weak pragma": top("#pragma weak fifo_enqueue = other"),
    "renaming pragma": top("#pragma redefine_extname fifo_enqueue other"),
    "system header pragma": top("#pragma GCC system_header"),
    "poison pragma": top("#pragma GCC poison scx_bpf_dsq_insert"),
    "macro kept by a pragma": top('#pragma push_macro("SEC")'),
    "message pragma": top('#pragma message "x"'),
    "optimiser pragma": top("#pragma clang optimize off"),
    "OpenMP": top("#pragma omp parallel"),
    "pack pragma": top("#pragma pack(1)"),
    "attribute pushed onto everything": top(
        '#pragma clang attribute push(__attribute__((section("kprobe/x"))), apply_to = function)'
    ),
    "an attribute that asks for another target": top(
        '__attribute__((target("cpu=v4"))) int f(void) { return 0; }int x = ;'
    ),
    "a function chosen at run time": top(
        'static void *r(void) { return 0; } int f(void) __attribute__((ifunc("r")));', "audit"
    ),
    "an address in another space": top(
        "__attribute__((address_space(1))) int x = 1; int f(void) { return x; }", "audit"
    ),
    "nested function": body("int inner(void) { return 1; } inner();"),
    "block": body("void (^b)(void) = ^{ }; b();"),
    "computed goto": body("void *l[] = { &&a, &&b }; goto *l[ctx[1] & 1]; a: p->scx.slice++; b:;"),
    "array of variable length": body("volatile char v[ctx[1]]; v[0] = 1;"),
    "alloca": body("volatile char *v = __builtin_alloca(ctx[1]); v[0] = 1;"),
    "floating point": body("volatile float x = 1.5f; x *= p->pid;"),
    "128-bit division": body("volatile unsigned __int128 x = 3; x /= ctx[1];"),
    "variable arguments": body('extern int printf(const char *, ...); printf("%d", p->pid);', "audit"),
    "a call of the C library": body('extern int system(const char *); system("id");', "audit"),
    "memory copied by the library": body("__builtin_memcpy((void *)ctx[0], (void *)ctx[1], ctx[2]);", "build"),
    "exception": top("int f(void) { try { } catch (...) { } }"),
    "return address": body("volatile u64 a = (u64)__builtin_return_address(1); a++;"),
    "debugger's trap": body("__builtin_debugtrap();"),
    "unknown builtin": body("__builtin_ia32_rdtsc();"),
    "thread variable": top("__thread int t = 1; int f(void) { return t; }"),
}
