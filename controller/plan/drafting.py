# SPDX-License-Identifier: Apache-2.0
"""What a model wrote as a new template → a TemplateDraft, or the first thing that is wrong with it.

A draft is untrusted text that people will read and may merge. So its sizes are bounded, its name becomes a path and is
plain ASCII, its source is ASCII and its other texts printable (nothing that a reader sees differently from what is
there), its manifest is written here from typed fields and read by the loader of the templates shipped with schedctl,
its Jinja runs in the sandbox of controller.render, every parameter at its default, and what comes out is judged by
whoever opened the desk: controller.reconcile has it linted, compiled and audited, which this step may not call.

Holes are not drafted: their ranges are proofs that a person should make.
"""

from __future__ import annotations

import re
import tempfile
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from controller.api import ApiModel, Metric, PlannerRecord, Proposal, SchedulerTemplate, TemplateDraft, Verdict
from controller.api.base import API_VERSION
from controller.api.decode import to_yaml
from controller.api.draft import MANIFEST, MAX_README_CHARS, MAX_SOURCE_CHARS, SOURCE
from controller.errors import TemplateError
from controller.plan.values import Declared, Draft
from controller.render import check_template, load_template, render, template_digest

if TYPE_CHECKING:
    from controller.plan.claude.refusals import Rule

MAX_LINES = 500
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)
_LINE = re.compile(r"line ([0-9]{1,6})\b", re.ASCII)
_LICENCE = "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"
_UNREVIEWED = "> A draft that a model wrote. Nothing uses it until a person has reviewed and merged it.\n\n"


class Judgment(ApiModel):
    """What became of a rendered draft: `error` where it could not be told. `line` of the C, 0 if there is none."""

    verdict: Verdict
    stage: str = ""
    rule: str = ""
    line: int = 0
    summary: str = ""


@dataclass
class Desk:
    """Where a draft is handed in. `taken` are names of templates that exist; `judge` says what the C is worth.

    What came of it stays here: every judgment in order, and the draft that passed, or `why` there is none though one
    was asked for.
    """

    taken: frozenset[str]
    judge: Callable[[Proposal, SchedulerTemplate], Judgment]
    judged: list[Judgment] = field(default_factory=list)
    draft: TemplateDraft | None = None
    why: str = ""

    def note(self) -> str:
        """A sentence for the proposal; "" when no template was asked for."""
        if self.draft is not None:
            return (
                f"a new template {self.draft.name} was drafted for branch {self.draft.branch}: a person must review "
                "and merge it, and nothing here uses it"
            )
        return f"no new template was drafted: {self.why}" if self.why else ""


class Fault(Exception):
    """A draft is not taken: the check, the place (words of ours), the rule, what would be taken, the line if known."""

    def __init__(
        self, stage: str, place: tuple[str, ...], rule: Rule, *, allowed: tuple[str, ...] = (), line: int = 0
    ) -> None:
        super().__init__(stage, place, rule)
        self.stage, self.place, self.rule, self.allowed, self.line = stage, place, rule, allowed, line


class Untold(Exception):
    """This machine cannot judge the draft."""


def drafted(said: Draft, desk: Desk, base: Proposal, author: str) -> TemplateDraft:
    """The draft, checked as a whole. Raises Fault, or Untold. `base` has the classes that it is rendered for."""
    _plain(said, desk.taken)
    _declared("parameters", said.parameters)
    _declared("classParameters", said.class_parameters)
    manifest = f"# {_LICENCE}\n{to_yaml(_manifest(said))}"
    source = said.source if said.source.endswith("\n") else f"{said.source}\n"
    if _LICENCE not in source:
        source = f"/* {_LICENCE} */\n{source}"
    try:
        template = _loaded(manifest, source)
        check_template(template)
        proposal = _defaults(template, base)
        lines = render(proposal, template).text.count("\n")
    except (TemplateError, ValueError) as error:
        found = _LINE.search(str(error))
        raise Fault("render", ("source",), "jinja", line=int(found[1]) if found else 0) from None
    if lines > MAX_LINES:
        raise Fault("render", ("source",), "length", allowed=(str(MAX_LINES),))
    judgment = desk.judge(proposal, template)
    desk.judged.append(judgment)
    if judgment.verdict is Verdict.REJECTED:
        raise Fault(judgment.stage, (judgment.rule or judgment.stage,), "clean", line=judgment.line)
    if judgment.verdict is not Verdict.PASS:
        raise Untold(f"it could not be checked here: {judgment.stage}: {judgment.summary}"[:400])
    readme = f"# {said.name}\n\n{_UNREVIEWED}{said.readme.strip()}\n"
    return TemplateDraft(name=said.name, manifest=manifest, source=source, readme=readme, author=author)


def _plain(said: Draft, taken: frozenset[str]) -> None:
    """Names, sizes and characters."""
    if not 3 <= len(said.name) <= 40 or _NAME.fullmatch(said.name) is None or said.name in taken:
        raise Fault("schema", ("name",), "name")
    for place, text, most in (("source", said.source, MAX_SOURCE_CHARS), ("readme", said.readme, MAX_README_CHARS)):
        if not 0 < len(text) <= most:
            raise Fault("schema", (place,), "length", allowed=(str(most),))
    if not all(c in "\n\t" or " " <= c <= "~" for c in said.source):
        raise Fault("schema", ("source",), "plain")
    if not _readable(said.readme.replace("\n", " ")):
        raise Fault("schema", ("readme",), "plain")
    metrics = tuple(metric.value for metric in Metric)
    if not set(said.suits) <= set(metrics):
        raise Fault("schema", ("suits",), "oneOf", allowed=metrics)
    if not said.summary.strip() or not _readable(said.summary):
        raise Fault("schema", ("summary",), "plain")


def _readable(text: str) -> bool:
    """No control, format, surrogate or unassigned characters, and no line breaks of Unicode's."""
    return not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp") for c in text)


def _declared(group: str, parameters: Sequence[Declared]) -> None:
    """Each parameter for itself: by its number, since its name is the model's."""
    names: set[str] = set()
    for number, one in enumerate(parameters, start=1):
        place = (group, str(number))
        if one.name in names:
            raise Fault("schema", place, "once")
        names.add(one.name)
        if not one.description.strip() or not _readable(one.description):
            raise Fault("schema", place, "plain")
        low = one.type == "boolean"
        if low != (not one.minimum) or low != (not one.maximum):
            raise Fault("schema", place, "range")
        try:
            probe = _parameters([one])[0]
            spec = {"summary": "probe", "suits": ["external"], "source": {"inline": "x"}, "parameters": [probe]}
            check_template(SchedulerTemplate.model_validate({"metadata": {"name": "probe"}, "spec": spec}))
        except (TemplateError, ValidationError, ValueError):
            raise Fault("range", place, "range") from None


def _manifest(said: Draft) -> Mapping[str, Any]:
    """`special`: the rules planner takes it only where a policy allows nothing else that suits."""
    spec: dict[str, Any] = {
        "summary": said.summary.strip(), "suits": list(said.suits), "special": True, "kernelFloor": "6.12",
        "source": {"path": SOURCE},
    }  # fmt: skip
    spec |= {"parameters": _parameters(said.parameters)} if said.parameters else {}
    spec |= {"classParameters": _parameters(said.class_parameters)} if said.class_parameters else {}
    return {
        "apiVersion": API_VERSION, "kind": "SchedulerTemplate", "metadata": {"name": said.name}, "spec": spec,
    }  # fmt: skip


def _parameters(declared: Sequence[Declared]) -> list[dict[str, Any]]:
    made = []
    for one in declared:
        values: dict[str, Any] = {"default": _value(one.type, one.default)}
        values |= {"minimum": _value(one.type, one.minimum)} if one.minimum else {}
        values |= {"maximum": _value(one.type, one.maximum)} if one.maximum else {}
        values |= {"live": True} if one.live else {}
        made.append({"name": one.name, "type": one.type, **values, "description": one.description.strip()})
    return made


def _value(kind: str, text: str) -> int | bool | str:
    """As the manifest's YAML has it. ValueError for another type."""
    if kind == "integer":
        if re.fullmatch(r"-?[0-9]{1,19}", text, re.ASCII) is None:
            raise ValueError("no whole number")
        return int(text)
    if kind == "boolean":
        if text not in ("true", "false"):
            raise ValueError("neither true nor false")
        return text == "true"
    return text


def _loaded(manifest: str, source: str) -> SchedulerTemplate:
    """As the loader of the shipped templates reads it from its folder."""
    with tempfile.TemporaryDirectory(prefix="schedctl-draft-") as folder:
        (Path(folder) / MANIFEST).write_text(manifest, encoding="utf-8")
        (Path(folder) / SOURCE).write_text(source, encoding="utf-8")
        return load_template(Path(folder))


def _defaults(template: SchedulerTemplate, base: Proposal) -> Proposal:
    """Every parameter at its default, for the classes of the plan."""
    return Proposal(
        template=template.name,
        template_digest=template_digest(template),
        classes=tuple(c.model_copy(update={"parameters": {}}) for c in base.classes),
        planner=PlannerRecord(name="claude", version="draft"),
    )
