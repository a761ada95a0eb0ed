"""The formats a model's output may have, by name: what a configuration chooses from and a parser is made of.

The descriptions are in `tool_families` and `reasoning_families`; their language is `description`.
"""

from dataclasses import dataclass
from functools import cached_property

from inferd.services.text.output.description import ReasoningFormat, ToolFormat
from inferd.services.text.output.reasoning_families import REASONING_FORMATS
from inferd.services.text.output.tool_families import JSON_ARRAY, TOOL_FORMATS

__all__ = ["JSON_ARRAY", "REASONING_FORMATS", "TOOL_FORMATS", "OutputFormat", "ReasoningFormat", "ToolFormat"]


@dataclass(frozen=True)
class OutputFormat:
    """How a model's text tells calls and reasoning from content. None: it has none, or they stay content."""

    tools: ToolFormat | None = None
    reasoning: ReasoningFormat | None = None

    @cached_property
    def markers(self) -> frozenset[str]:
        """Every text that a tokenizer may hold as a special token and that a parser must see."""
        tools = self.tools.markers if self.tools else frozenset[str]()
        return tools | (self.reasoning.markers if self.reasoning else frozenset())
