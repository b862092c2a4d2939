# SPDX-License-Identifier: Apache-2.0
"""The templates that come with schedctl: one folder each, `template.yaml` beside the Jinja text it names."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from controller.api.template import SchedulerTemplate
from controller.errors import TemplateError
from controller.paths import data_dir


def builtin_templates() -> tuple[SchedulerTemplate, ...]:
    """All of them, in order of name, their text inline."""
    return tuple(load_template(path.parent) for path in sorted(data_dir("templates").glob("*/template.yaml")))


def load_template(folder: Path) -> SchedulerTemplate:
    """The SchedulerTemplate in `folder/template.yaml`, its text inline. TemplateError when it is not a good one."""
    manifest = folder / "template.yaml"
    try:
        template = SchedulerTemplate.model_validate(yaml.safe_load(manifest.read_text(encoding="utf-8")))
        path = template.spec.source.path
        return template if path is None else template.with_text((folder / path).read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise TemplateError(f"{manifest}: {place}: {first['msg']}", remedy="mend the manifest") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TemplateError(f"reading {manifest}: {error}", remedy="mend the template's folder") from None
