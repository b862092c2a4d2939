# SPDX-License-Identifier: Apache-2.0
"""docs/templates.md says what the templates say, and of figures only what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import families, realtime
from bench.kit import filled
from bench.kit.loads import LOADS
from scripts import templates_doc
from scripts.doc_pages import MEASURED, NOT_MEASURED

KERNEL = "7.3.4-cloud-amd64"


def _figure(family: str, load: str, ratio: float, *, cpus: int = 2, kernel: str = KERNEL, digest: str = "") -> Any:
    metrics = LOADS[load].metrics
    blocks = [[[1.0, 1.0], [1.0, 1.0]]] * 12
    return {
        f"{kernel}/{cpus}/{family}/{load}": {
            "digest": digest or filled.current(family), "blocks": dict.fromkeys(metrics, blocks),
            "ratios": {metric: [ratio, ratio - 0.01, ratio + 0.01] for metric in metrics}, "left": "",
            "measured": "2026-01-02T03:04:05Z", "elsewhere": 0.03,
        }
    }  # fmt: skip


def _put(folder: Path, name: str, rows: dict[str, Any], **more: Any) -> Path:
    document = {"rows": rows, "qemu": "10.0", "accelerator": "tcg", "cpus": 2, **more}
    (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


def _promise(page: str, start: str) -> list[str]:
    return next(line for line in page.splitlines() if line.startswith(f"| {start}")).strip("| ").split(" | ")


def test_the_page_says_what_the_templates_say():
    assert templates_doc.main(["--check"]) == 0, "run: make templates-doc"


def test_every_family_of_the_catalogue_has_its_section_with_all_that_can_be_set():
    text = templates_doc.from_code()
    for name, template in filled.templates().items():
        section = text.partition(f"### {name}\n")[2].partition("\n#")[0]
        for parameter in (*template.spec.parameters, *template.spec.class_parameters, *template.spec.holes):
            assert f"`{parameter.name}` |" in section, (name, parameter.name)


def test_a_parameter_that_changed_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "templates.md"
    page.write_text(templates_doc.document(tmp_path).replace("500us..20ms", "500us..30ms"))
    assert templates_doc.main(["--check", "--output", str(page)]) == 1
    assert "make templates-doc" in capsys.readouterr().err


def test_what_was_not_measured_says_so_and_how_to_measure_it(tmp_path: Path):
    page = templates_doc.document(tmp_path).partition(MEASURED)[2]
    for command in templates_doc.COMMANDS.values():
        assert f"{NOT_MEASURED}: `{command}` measures it." in page
    assert "| yes |" not in page
    assert "| **no** |" not in page


def test_figures_come_with_interval_place_and_conditions(tmp_path: Path):
    rows = _figure("latency-first", "mixed", 6.5) | _figure("latency-first", "longtail", 0.8)
    page = templates_doc.document(_put(tmp_path, "templates", rows))
    assert "| **mixed** | p99 wakeup latency | 6.500 (6.490 to 6.510) |" in page
    assert "other programs used 3% to 3% of its CPU time" in page
    assert "| latency-first | `mixed`, p99 wakeup latency: 6.500 (6.490 to 6.510); 7.3.4-cloud-amd64, 2 CPUs | " in page
    assert "`longtail`, makespan: 0.800 (0.790 to 0.810)" in page  # where it is worst
    assert f"| weighted-fair | {NOT_MEASURED} | {NOT_MEASURED} |" in page


def test_a_bar_is_held_by_the_worst_place_and_only_when_all_were_measured(tmp_path: Path):
    start = "weighted-fair on `pipe`"
    places = [(kernel, cpus) for kernel in (KERNEL, "6.16.3") for cpus in (2, 4)]
    rows: dict[str, Any] = {}
    for kernel, cpus in places:
        assert _promise(templates_doc.document(_put(tmp_path, "templates", rows)), start)[3] == "–"
        rows |= _figure("weighted-fair", "pipe", 0.97, kernel=kernel, cpus=cpus)
    assert _promise(templates_doc.document(_put(tmp_path, "templates", rows)), start)[3] == "yes"
    rows |= _figure("weighted-fair", "pipe", 0.94, cpus=4)
    told = _promise(templates_doc.document(_put(tmp_path, "templates", rows)), start)
    assert told[3] == "**no**"
    assert told[2].startswith("0.940 (0.930 to 0.950); 7.3.4-cloud-amd64, 4 CPUs")


def test_a_promised_share_is_compared_with_what_the_class_got(tmp_path: Path):
    rows = _figure("weighted-fair", "attack", 5.0)
    (row,) = rows.values()
    for got, met in ((0.74, "–"), (0.73, "**no**")):  # of 0.75; three places were not measured
        row["blocks"] = {"class.cpuShare": [[[got, got], [0.1, 0.1]]] * 12}
        told = _promise(templates_doc.document(_put(tmp_path, "templates", rows)), "weighted-fair on `attack`")
        assert told[2].startswith(f"{got:.1%}, median of the runs; {KERNEL}, 2 CPUs; 3 of 4")
        assert told[3] == met


def test_a_reservation_is_held_by_the_worst_attack_and_only_when_all_were_measured(tmp_path: Path):
    start = "partition: a reservation"
    rows = {
        f"{kernel}/{cpus}/{attack}": {"kernel": kernel, "cpus": cpus, "attack": attack, "reserve": 0.5,
            "shares": [0.5] * 4, "kept": [1.0, 0.99, 1.01], "kernels_own": 0.333}
        for kernel in (KERNEL, "6.16.3") for cpus in (2, 4) for attack in ("whole", "part", "bound")
    }  # fmt: skip
    page = templates_doc.document(_put(tmp_path, "partition", rows))
    assert _promise(page, start)[3] == "yes"
    assert f"| {KERNEL} | 2 | whole | 50% | 1.000 (0.990 to 1.010) | 33.3% | 4 |" in page
    rows.pop(f"{KERNEL}/4/part")
    told = _promise(templates_doc.document(_put(tmp_path, "partition", rows)), start)
    assert told[2:] == [f"1.000 (0.990 to 1.010); whole, {KERNEL}, 2 CPUs; 1 of 12 attacks {NOT_MEASURED}", "–"]
    rows["6.16.3/4/bound"]["kept"] = [0.97, 0.96, 0.98]
    assert _promise(templates_doc.document(_put(tmp_path, "partition", rows)), start)[3] == "**no**"


def test_a_figure_of_an_earlier_version_is_marked(tmp_path: Path):
    page = templates_doc.document(_put(tmp_path, "templates", _figure("locality", "pipe", 1.2, digest="other")))
    assert "| pipe | work | 1.200 (1.190 to 1.210) † |" in page
    assert "†: measured with an earlier version" in page


def test_the_verifiers_verdicts_are_counted_and_what_failed_is_named(tmp_path: Path):
    good = {
        "digest": families.digest("locality"), "verdict": "pass", "stage": "", "rules": [], "summary": "",
        "warnings": [], "scenarios": ["soak", "hotplug"], "seconds": 50.0, "measured": "2026-01-02T03:04:05Z",
        "verifier": families.verifier(),
    }  # fmt: skip
    bad = {**good, "digest": "other", "verifier": "other", "verdict": "rejected", "stage": "liveness",
           "rules": ["liveness/soak"], "summary": "a | b", "warnings": ["liveness/stall: once"]}  # fmt: skip
    rows = {f"{KERNEL}/2/locality": good, f"{KERNEL}/2x2x2/locality": bad, f"{KERNEL}/2/gone": bad}
    page = templates_doc.document(_put(tmp_path, "families", rows, kernels=[KERNEL]))
    assert "| locality | pass, 2 | – | – | – | **rejected**: liveness, 2, 1 warnings † |" in page
    assert f"| locality | {KERNEL} | 2x2x2 | liveness | liveness/soak | a \\| b |" in page
    assert "\n1 of the verdicts are by the scenarios as they were before" in page
    wanted = len(filled.names()) * len(families.SHAPES)
    promise = _promise(page, "every family passes")
    assert promise[2].startswith(f"1 of {wanted} passed, 1 were rejected, {wanted - 2} {NOT_MEASURED}")
    assert promise[3] == "**no**"


def test_batches_are_summed_up_by_kernel_and_size(tmp_path: Path):
    rows = {
        f"{KERNEL}/2/declared/b{n}": {
            "workload": f"b{n}", "kernel": KERNEL, "cpus": 2, "variant": "declared", "bound_ratio": 0.7,
            "ratio": [0.72, 0.7, 0.74], "blocks": 6, "short_latest_ratio": 0.95,
            "template": "batch-order", "digest": filled.current("batch-order"),
        }
        for n in range(8)
    }  # fmt: skip
    page = templates_doc.document(_put(tmp_path, "batch", rows))
    assert f"| {KERNEL} | 2 | declared | **mean of 8** | 0.720 | 0.700 | 0.950 | 6 |" in page
    assert _promise(page, "makespan of a batch")[3] == "yes"
    rows[f"{KERNEL}/2/declared/b3"]["digest"] = "of another version"
    page = templates_doc.document(_put(tmp_path, "batch", rows))
    assert f"| {KERNEL} | 2 | declared | b3 † | 0.720 (0.700 to 0.740) |" in page
    told, held = _promise(page, "makespan of a batch")[2:]
    assert told.endswith("; 1 of them of an earlier version")
    assert held == "–"
    rows.popitem()
    assert _promise(templates_doc.document(_put(tmp_path, "batch", rows)), "makespan of a batch")[3] == "–"


def test_real_time_priority_stands_beside_latency_first(tmp_path: Path):
    def runs(late: float) -> list[dict[str, float]]:
        return [{"class.wakeupLatency.p99": late, "others.throughput": 1.0}] * 2

    block = {realtime.OWN: runs(12), realtime.REAL_TIME: runs(4), realtime.FAMILY: runs(6)}
    row = {"digest": filled.current(realtime.FAMILY), "samples": [block] * 12}
    rows = {f"{KERNEL}/2": row, f"{KERNEL}/4": row | {"digest": "of another version", "samples": [block]}}
    page = templates_doc.document(_put(tmp_path, "realtime", rows))
    assert f"| {KERNEL} | 2 | SCHED_FIFO | 3.000 (3.000 to 3.000) | 1.000 (1.000 to 1.000) | 12 |" in page
    assert f"| {KERNEL} | 2 | latency-first | 2.000 (2.000 to 2.000) | 1.000 (1.000 to 1.000) | 12 |" in page
    assert f"| {KERNEL} | 4 | latency-first † | {NOT_MEASURED} | {NOT_MEASURED} | 1 |" in page


@pytest.mark.parametrize("name", list(templates_doc.COMMANDS))
@pytest.mark.parametrize("text", ["{", "[]", '{"rows": {"a/b": 1}}', '{"rows": {"a/2/locality/pipe": {}}}'])
def test_a_broken_file_leaves_the_page_as_it_is(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    page = tmp_path / "templates.md"
    page.write_text("as it was")
    (tmp_path / f"{name}.json").write_text(text)
    assert templates_doc.main(["--results", str(tmp_path), "--output", str(page)]) == 1
    assert page.read_text() == "as it was"
    assert "measure it again, or delete it" in capsys.readouterr().err
