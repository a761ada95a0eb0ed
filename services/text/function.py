"""A function that a model may call."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Function:
    """Its name, and the JSON Schema of its parameters (None: it takes none).

    `strict` calls must follow the schema also where the model calls by itself. `field` is the path of the
    request field that it came by, such as "tools[0].function": errors name it.
    """

    name: str
    parameters: Mapping[str, Any] | None = None
    description: str | None = None
    strict: bool = False
    field: str = "tools"
