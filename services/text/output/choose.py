"""The form of a model's answers: as configured, else as its chat template makes clear."""

from inferd.services.text.output.detect import detect_reasoning, detect_tools
from inferd.services.text.output.formats import REASONING_FORMATS, TOOL_FORMATS, OutputFormat

AUTO, NONE = "auto", "none"
#: What a configuration may say.
TOOL_PARSERS = frozenset({AUTO, NONE, *TOOL_FORMATS})
REASONING_PARSERS = frozenset({AUTO, NONE, *REASONING_FORMATS})


def choose_format(tools: str, reasoning: str, template: str) -> OutputFormat:
    """The formats of these names; of `template`, the source of a chat template, for auto."""
    if tools == AUTO:
        tools = detect_tools(template) or NONE
    if reasoning == AUTO:
        reasoning = detect_reasoning(template) or NONE
    return OutputFormat(
        tools=None if tools == NONE else TOOL_FORMATS[tools],
        reasoning=None if reasoning == NONE else REASONING_FORMATS[reasoning],
    )
