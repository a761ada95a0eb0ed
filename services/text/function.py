"""A function that a model may call, and whether the model may or must call one.

Does not read requests: `prompt.tools` makes these from a request's fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ChoiceMode = Literal["none", "auto", "required"]


@dataclass(frozen=True, slots=True)
class Function:
    """A function's name, and the JSON Schema of its parameters (None: it takes no parameters).

    `strict`: calls must follow the schema even if the model decides itself whether to call. `field` is the
    path of the request field that gives the function, such as "tools[0].function"; errors name this path.
    `size` is the length of its declaration in the request, in bytes.
    """

    name: str
    parameters: Mapping[str, Any] | None = None
    description: str | None = None
    strict: bool = False
    size: int = field(default=0, compare=False)
    field: str = "tools"


@dataclass(frozen=True, slots=True)
class FunctionChoice:
    """Whether the model may not (none), may (auto) or must (required) call functions.

    `only` is the name of the single function that must be called, exactly once; None: any of them.
    """

    mode: ChoiceMode
    only: str | None = None
