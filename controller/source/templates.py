# SPDX-License-Identifier: Apache-2.0
"""The templates a policy may choose from: those shipped with schedctl, overridden by name in the repository."""

from __future__ import annotations

from pathlib import Path

from controller import paths
from controller.api import Desired, SchedulerTemplate
from controller.api.decode import decode
from controller.errors import TemplateError


def builtin_templates() -> tuple[SchedulerTemplate, ...]:
    """The shipped templates in order of name, with their text inline. TemplateError if one is not valid."""
    folders = sorted(paths.data_dir("templates").glob("*/template.yaml"))
    return tuple(sorted((_load(file) for file in folders), key=lambda t: t.name))


def all_templates(desired: Desired | None) -> dict[str, SchedulerTemplate]:
    """Template by name: the shipped ones, and in their place or beside them those of `desired`."""
    committed = desired.templates if desired is not None else ()
    return {template.name: template for template in (*builtin_templates(), *committed)}


def _load(file: Path) -> SchedulerTemplate:
    remedy = "install schedctl again"
    try:
        decoded = decode(file.read_text(encoding="utf-8"), str(file))
        if decoded.errors:
            raise TemplateError(str(decoded.errors[0]), remedy=remedy)
        template = decoded.documents[0].resource if len(decoded.documents) == 1 else None
        if not isinstance(template, SchedulerTemplate):
            raise TemplateError(f"{file}: must hold one SchedulerTemplate", remedy=remedy)
        if template.spec.source.path is None:
            return template
        return template.with_text((file.parent / template.spec.source.path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TemplateError(f"{file}: reading the template failed: {error}", remedy=remedy) from None
