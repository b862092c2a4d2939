# SPDX-License-Identifier: Apache-2.0
"""Whatever the checker accepts compiles, is accepted by the BPF verifier of every packaged kernel, and is worth there
what the language says: 2,000 random expressions inline in one scheduler, worked out in its ops.init.
"""

from __future__ import annotations

import os
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from controller.errors import ToolMissing
from controller.kernel.clang import CompiledObject, compile_bpf
from controller.kernel.microvm import VmShape, boot
from controller.paths import data_dir
from tests.conftest import missing
from tests.kernel.conftest import kernel_image
from tests.render import expressions
from tests.templates import cases as templates

COUNT = 2000


@cache
def cases() -> list[expressions.Case]:
    return expressions.accepted(COUNT, seed=20)


@cache
def built() -> CompiledObject:
    try:
        return compile_bpf(expressions.bundle(cases()), data_dir("bpf") / "include")
    except ToolMissing as error:
        missing(error.message, error.remedy)


def widest() -> list[tuple[str, str, str]]:
    """(template, hole, expression): for each hole the one with most operators, and one that is all branches."""
    found = []
    for template in templates.TEMPLATES.values():
        for hole in template.spec.holes:
            of_hole = [case for case in cases() if case.hole == hole]
            of_hole.sort(key=lambda case: len(list(expressions.inside(case.proven.tree, case.values))))
            first = hole.names[0]
            branches = "+".join(f"({first}<{n}?1:2)" for n in range(20))
            found += [(template.name, hole.name, text) for text in (of_hole[-1].text, branches)]
    return found


@cache
def filled() -> list[bytes]:
    """The objects of the widest fillings, a compiler a CPU."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        making = [
            pool.submit(templates.compiled, name, *templates.mixed(3), expressions={hole: text})
            for name, hole, text in widest()
        ]
        return [each.result().object for each in making]


def test_two_thousand_accepted_expressions_compile() -> None:
    assert len(built().object) > 0
    assert [d for d in built().diagnostics if d.severity != "warning"] == []


def wrong_on(kernel: Path) -> list[tuple[str, object, int]]:
    """What comes out otherwise than the language says: expression, values, what this kernel makes of it."""
    with boot(kernel, VmShape(cores=1)) as guest:
        began = time.monotonic()
        report = guest.load(built().object)
        print(f"{kernel.name}: {COUNT} expressions in {time.monotonic() - began:.1f} s: {report.programs}")
        guest.attach()
        raw = guest.map_lookup("data_out", bytes(4))
        guest.detach()
        for each in filled():
            guest.load(each)
    assert raw is not None
    got = struct.unpack(f"<{COUNT}Q", raw)
    return [(case.text, case.values, n) for case, n in zip(cases(), got, strict=True) if n != case.expected]


@pytest.mark.kernel
def test_two_thousand_accepted_expressions_load_and_are_worth_what_they_say() -> None:
    """On both kernels at once: each guest's BPF verifier keeps one CPU busy, and none of it is a matter of time."""
    kernels = [kernel_image(which) for which in ("oldest", "newest")]
    assert len(filled()) == len(widest())
    with ThreadPoolExecutor(len(kernels)) as pool:
        wrong = dict(zip(kernels, pool.map(wrong_on, kernels), strict=True))
    assert wrong == {kernel: [] for kernel in kernels}
