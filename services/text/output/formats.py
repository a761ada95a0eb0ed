"""The format of a model's output: how it writes calls, and how it marks reasoning.

Describes no format itself: `tool_families` and `reasoning_families` do, with the classes of `format_types`.
"""

from dataclasses import dataclass
from functools import cached_property

from inferd.services.text.output.format_types import ReasoningFormat, ToolFormat


@dataclass(frozen=True)
class OutputFormat:
    """How a model writes calls and reasoning. None: it writes none, or they stay content."""

    tools: ToolFormat | None = None
    reasoning: ReasoningFormat | None = None

    @cached_property
    def markers(self) -> frozenset[str]:
        """Texts that may be special tokens of the tokenizer, and that the parser needs to see."""
        tools = self.tools.markers if self.tools else frozenset[str]()
        return tools | (self.reasoning.markers if self.reasoning else frozenset())
