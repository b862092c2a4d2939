# SPDX-License-Identifier: Apache-2.0
"""Each built-in template renders to the same bytes every time and to C that clang and the lint have nothing against."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from controller.errors import ToolMissing
from controller.render import check_template, render
from controller.verify import lint
from tests.conftest import missing
from tests.templates import cases

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(cases.TEMPLATES)
by_template = pytest.mark.parametrize("name", NAMES)
by_count = pytest.mark.parametrize("count", [0, 1, 3, 16, 255])


def text_of(name: str, count: int) -> str:
    template = cases.TEMPLATES[name]
    return render(cases.proposal(template, *cases.mixed(count)), template).text


def test_the_templates_are_there() -> None:
    assert NAMES == [
        "background", "batch-order", "core-pack", "latency-first", "locality", "partition", "pipeline", "throughput",
        "weighted-fair",
    ]  # fmt: skip


@by_template
def test_text_parameters_and_holes_fit_together(name: str) -> None:
    check_template(cases.TEMPLATES[name])


@by_template
@by_count
def test_equal_proposals_render_to_equal_bytes(name: str, count: int) -> None:
    assert text_of(name, count) == text_of(name, count)


@by_template
@by_count
def test_clang_compiles_it_without_a_warning(name: str, count: int) -> None:
    try:
        built = cases.compiled(name, *cases.mixed(count))
    except ToolMissing as error:
        missing(error.message, error.remedy)
    assert built.diagnostics == ()
    assert len(built.object) < 256 << 10


@by_template
def test_a_class_of_processes_is_a_table_of_their_numbers(name: str) -> None:
    classes = (cases.task_class(1, comm=("a",)), cases.task_class(2, tgid=(77, 4_194_304), uid=(0,)))
    text = cases.source(name, *classes)
    assert "tgid_rules[NR_TGID_RULES] = {\n\t{ 2, 77 },\n\t{ 2, 4194304 },\n};" in text
    assert ".needs = MATCH_UID | MATCH_TGID" in text
    assert list(lint.run(text)) == []
    assert cases.built(text).diagnostics == ()


@by_template
def test_the_lint_has_nothing_against_it(name: str) -> None:
    assert list(lint.run(text_of(name, 16))) == []


@by_template
@pytest.mark.parametrize("count", [0, 1, 3, 16])
def test_it_reads_as_a_scheduler_on_a_few_pages(name: str, count: int) -> None:
    lines = text_of(name, count).splitlines()
    assert len(lines) <= 400
    assert [line for line in lines if line != line.rstrip()] == []
    assert [line for line in lines if len(line.expandtabs(8)) > 200] == []


@by_template
def test_the_golden_file_of_three_classes(name: str) -> None:
    """SCHEDCTL_UPDATE_GOLDEN=1 writes it anew: look at the difference before you commit it."""
    golden = GOLDEN / f"{name}.bpf.c"
    text = text_of(name, 3)
    if os.environ.get("SCHEDCTL_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@by_template
def test_every_parameter_and_hole_is_in_the_readme(name: str) -> None:
    template = cases.TEMPLATES[name]
    readme = (Path(__file__).parents[2] / "templates" / name / "README.md").read_text()
    named = [*template.spec.parameters, *template.spec.class_parameters, *template.spec.holes]
    assert [each.name for each in named if f"`{each.name}`" not in readme] == []


def test_no_function_without_debug_information_touches_a_kernels_struct() -> None:
    """There would be no CO-RE relocation, and the program would read at the offsets of our partial structs."""
    headers = (Path(__file__).parents[2] / "bpf" / "include").glob("*.h")
    bodies = [
        body for header in headers for body in re.findall(r"^static __in_line .*?^}", header.read_text(), re.M | re.S)
    ]
    assert len(bodies) > 10
    assert [body for body in bodies if re.search(r"\b(?:p|prev|info|cgroup|cred)->", body)] == []
