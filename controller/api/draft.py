# SPDX-License-Identifier: Apache-2.0
"""TemplateDraft: the files of a new template that a model wrote. It waits on a branch, and nothing uses it."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import Field

from controller.api.base import ApiModel, sha256

MAX_SOURCE_CHARS = 32_768
MAX_README_CHARS = 8_192
MANIFEST, SOURCE, README = "template.yaml", "scheduler.bpf.c.j2", "README.md"


class TemplateDraft(ApiModel):
    """Three texts for the folder `templates/NAME`. The name is short and plain: it becomes part of paths and refs."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", min_length=3, max_length=40)]
    manifest: Annotated[str, Field(max_length=262_144)]
    source: Annotated[str, Field(max_length=MAX_SOURCE_CHARS + 200)]
    readme: Annotated[str, Field(max_length=MAX_README_CHARS + 600)]
    author: Annotated[str, Field(max_length=100)] = Field(description="The model that wrote it.")

    @property
    def digest(self) -> str:
        """`sha256:…` of the name and the texts, whoever wrote them."""
        return sha256(json.dumps([self.name, self.manifest, self.source, self.readme]).encode())

    @property
    def branch(self) -> str:
        """Where it is proposed: equal drafts have the same one."""
        return f"proposals/template-{self.name}-{self.digest[7:19]}"

    def files(self) -> dict[str, bytes]:
        """File name → content, within the template's folder."""
        return {MANIFEST: self.manifest.encode(), SOURCE: self.source.encode(), README: self.readme.encode()}
