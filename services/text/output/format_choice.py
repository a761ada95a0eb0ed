"""Chooses the format of a model's output: as configured, or as detected from its chat template."""

from inferd.services.text.output.detect import detect_reasoning, detect_tools
from inferd.services.text.output.formats import OutputFormat
from inferd.services.text.output.reasoning_families import REASONING_FORMATS
from inferd.services.text.output.tool_families import TOOL_FORMATS

AUTO, NONE = "auto", "none"
#: The values that a configuration may have.
TOOL_PARSERS = frozenset({AUTO, NONE, *TOOL_FORMATS})
REASONING_PARSERS = frozenset({AUTO, NONE, *REASONING_FORMATS})


def choose_format(tools: str, reasoning: str, template: str) -> OutputFormat:
    """The output format of a model. `tools` and `reasoning` are configured values.

    "auto" is detected from `template`, the source of the model's chat template ("none" if that is not clear).
    """
    if tools == AUTO:
        tools = detect_tools(template) or NONE
    if reasoning == AUTO:
        reasoning = detect_reasoning(template) or NONE
    return OutputFormat(
        tools=None if tools == NONE else TOOL_FORMATS[tools],
        reasoning=None if reasoning == NONE else REASONING_FORMATS[reasoning],
    )
