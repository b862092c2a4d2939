# SPDX-License-Identifier: Apache-2.0
"""SchedulerTemplate: a Jinja template of a sched_ext scheduler with typed parameters and holes for expressions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from controller.api.base import ApiModel, Resource, Status
from controller.api.intent import Metric

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
ParameterValue = bool | int | float | str
"""A parameter on the wire: durations and percentages as strings with their unit, the rest as themselves."""


class Parameter(ApiModel):
    """One typed number of a template. Bounds are written like values: `1ms`, `5%`, 4."""

    name: Identifier = Field(description="As the template calls it.")
    type: Literal["duration", "percent", "integer", "boolean"] = Field(description="Fixes the unit.")
    default: ParameterValue = Field(description="Used when a proposal gives none.")
    minimum: ParameterValue | None = Field(default=None, description="Smallest value accepted.")
    maximum: ParameterValue | None = Field(default=None, description="Largest value accepted.")
    live: bool = Field(
        default=False, description="Whether it can be changed while the scheduler runs, through its map of knobs."
    )
    description: str = Field(description="What it does, in a sentence.")


class HoleRange(ApiModel):
    """What one name of a hole may be. The generated C clamps the value to it, so that it holds."""

    name: str = Field(description="The name, one of the hole's names.")
    unit: Annotated[str, Field(max_length=20)] = Field(default="", description="ns, permille, or what is counted.")
    minimum: ParameterValue = Field(default=0, description="Smallest value: a whole number, or a duration.")
    maximum: ParameterValue = Field(description="Largest value: a whole number, or a duration.")
    description: Annotated[str, Field(max_length=400)] = Field(default="", description="What it is, in a sentence.")


class Hole(ApiModel):
    """A place for one C expression over documented names."""

    name: Identifier = Field(description="As the template calls it.")
    default: Annotated[str, Field(min_length=1, max_length=400)] = Field(description="Used when none is given.")
    names: tuple[str, ...] = Field(description="Identifiers the expression may use.")
    description: str = Field(description="What the expression decides, and its unit.")
    ranges: tuple[HoleRange, ...] = Field(
        default=(), max_length=16, description="Ranges of names that are no parameter and not in the shared table."
    )
    minimum: ParameterValue | None = Field(default=None, description="Smallest result: smaller ones become it.")
    maximum: ParameterValue | None = Field(default=None, description="Largest result: larger ones become it.")


class TemplateSource(ApiModel):
    """The Jinja text: exactly one of the two."""

    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")] | None = Field(
        default=None, description="A file beside the manifest."
    )
    inline: Annotated[str, Field(max_length=262144)] | None = Field(default=None, description="The text itself.")

    @model_validator(mode="after")
    def _exactly_one(self) -> TemplateSource:
        if (self.path is None) == (self.inline is None):
            raise ValueError("exactly one of path, inline is required")
        return self


class TemplateSpec(ApiModel):
    """A scheduler with holes."""

    summary: Annotated[str, Field(max_length=400)] = Field(description="What it does, in a sentence.")
    suits: tuple[Metric, ...] = Field(min_length=1, description="Objectives it is made for.")
    special: bool = Field(
        default=False, description="For loads of one kind: the rules planner takes another one that suits as well."
    )
    kernel_floor: Annotated[str, Field(pattern=r"^\d+\.\d+$")] = Field(default="6.12", description="Oldest kernel.")
    source: TemplateSource = Field(description="The Jinja text.")
    parameters: tuple[Parameter, ...] = Field(default=(), max_length=64, description="Numbers of the whole scheduler.")
    class_parameters: tuple[Parameter, ...] = Field(default=(), max_length=64, description="Numbers of each class.")
    holes: tuple[Hole, ...] = Field(default=(), max_length=16, description="Expressions to fill.")


class SchedulerTemplate(Resource):
    """A Jinja template of a sched_ext scheduler."""

    kind: Literal["SchedulerTemplate"] = "SchedulerTemplate"
    spec: TemplateSpec = Field(description="The template.")
    status: Status | None = Field(default=None, description="What is.")

    @property
    def text(self) -> str:
        """The Jinja text. A loader (source, render) has replaced `path` by `inline` before a step sees the value."""
        if self.spec.source.inline is None:
            raise ValueError(f"template {self.name}: source.path was not loaded")
        return self.spec.source.inline

    def with_text(self, text: str) -> SchedulerTemplate:
        """The same template with its source inline."""
        spec = self.spec.model_copy(update={"source": TemplateSource(inline=text)})
        return self.model_copy(update={"spec": spec})
