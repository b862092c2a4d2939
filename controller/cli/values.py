# SPDX-License-Identifier: Apache-2.0
"""Reading a value that is no resource (a profile, a proposal) from a file: JSON at any size, YAML with its guards."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from controller.api import ApiModel
from controller.api.decode import field_detail, invalid
from controller.cli.context import Context
from controller.cli.files import plain_value, read_input
from controller.errors import ManifestError

Model = TypeVar("Model", bound=ApiModel)


def read_value(model: type[Model], path: str, context: Context) -> Model:
    """The one `model` in the file (`-` is stdin). ManifestError in kubectl's words if it is none."""
    name = "STDIN" if path == "-" else path
    value = plain_value(read_input(path, context), name)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = [field_detail(value, entry) for entry in error.errors(include_url=False)]
        raise ManifestError(invalid(model.__name__, "", list(dict.fromkeys(details))), file=name) from None
