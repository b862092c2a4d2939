# SPDX-License-Identifier: Apache-2.0
"""Which family passed the verifier, on which kernel and topology: from bench/results/families.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bench.families import SHAPES, TO_LIVENESS, by_these, digest
from bench.kit import filled
from controller.verify.scenarios import SCENARIOS
from scripts.doc_pages import NOT_MEASURED, table


class Tally(NamedTuple):
    """How many rows there should be, passed, were rejected, and are of the template as it is now."""

    wanted: int
    passed: int
    rejected: int
    current: int


def tally(document: Mapping[str, Any]) -> Tally:
    """Over every family, pulled kernel and topology."""
    rows = list(_rows(document))
    verdicts = [row["verdict"] for _, _, _, row in rows if row]
    current = sum(row["digest"] == digest(family) for family, _, _, row in rows if row)
    return Tally(len(rows), verdicts.count("pass"), verdicts.count("rejected"), current)


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Mapping[str, Any] | None]]:
    for family in filled.names():
        for kernel in document.get("kernels", ()):
            for shape in SHAPES:
                yield family, kernel, shape, document["rows"].get(f"{kernel}/{shape}/{family}")


def verifier(document: Mapping[str, Any]) -> Iterator[str]:
    """The section."""
    yield (
        f"Each family, filled for two classes, through the stages {', '.join(TO_LIVENESS)}; liveness has "
        f"{len(SCENARIOS)} scenarios, of which some need several CPUs. Cells: the verdict, the scenarios that ran, "
        "warnings. Columns: CPUs, or packages x cores x threads.\n"
    )
    found = {(family, kernel, shape): row for family, kernel, shape, row in _rows(document)}
    for kernel in document["kernels"]:
        rows = [[family, *(_cell(family, found[family, kernel, shape]) for shape in SHAPES)]
                for family in filled.names()]  # fmt: skip
        yield f"{kernel}:\n"
        yield table(["family", *SHAPES], rows) + "\n"
    missing = sum(row is None for row in found.values())
    if missing:
        yield f"{missing} of {len(found)} are {NOT_MEASURED}.\n"
    earlier = sum(not by_these(row) for row in found.values() if row)
    if earlier:
        yield f"{earlier} of the verdicts are by the scenarios as they were before the last change to one of them.\n"
    bad = [[family, kernel, shape, row["stage"], ", ".join(row["rules"]), row["summary"]]
           for (family, kernel, shape), row in found.items() if row and row["verdict"] != "pass"]  # fmt: skip
    if bad:
        yield "Not passed:\n"
        yield table(["family", "kernel", "topology", "stage", "rules", "what was said"], bad) + "\n"
    warned = [[family, kernel, shape, warning] for (family, kernel, shape), row in found.items() if row
              for warning in row["warnings"]]  # fmt: skip
    if warned:
        yield "Warnings:\n"
        yield table(["family", "kernel", "topology", "warning"], warned)


def _cell(family: str, row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    said = row["verdict"] if row["verdict"] == "pass" else f"**{row['verdict']}**: {row['stage']}"
    said += f", {len(row['scenarios'])}"
    said += f", {len(row['warnings'])} warnings" if row["warnings"] else ""
    return said + ("" if row["digest"] == digest(family) else " †")
