"""Measures the parser of a model's output.

    python benchmarks/output.py

Prints the best CPU time of several repeats, in µs a token, for answers that come token by token. A token
here is four characters or a marker, which is about the length of real tokens.
"""

import json
import re
import time

from inferd.services.text.function import Function
from inferd.services.text.output.formats import OutputFormat
from inferd.services.text.output.parser import OutputParser
from inferd.services.text.output.reasoning_families import REASONING_FORMATS
from inferd.services.text.output.tool_families import TOOL_FORMATS

TEXT = "A token is a piece of a word, and a model reads one after the other, 1 < 2 and so on. " * 20
ARGUMENTS = {"city": TEXT, "days": 3, "places": [{"name": "Bern", "at": [46.9, 7.4]}] * 20}
FUNCTIONS = [
    Function(
        "get_weather",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "places": {"type": "array"},
            },
        },
    )
]
IN_JSON = json.dumps(ARGUMENTS)
TAGGED = "".join(
    f"<parameter={key}>\n{value if isinstance(value, str) else json.dumps(value)}\n</parameter>\n"
    for key, value in ARGUMENTS.items()
)
ANSWERS = {
    "content": ("hermes", "qwen3", TEXT),
    "content, unmarked calls": ("llama3", None, TEXT),
    "reasoning": ("hermes", "qwen3", f"<think>\n{TEXT}"),
    "call, hermes": (
        "hermes",
        None,
        f'<tool_call>\n{{"name": "get_weather", "arguments": {IN_JSON}}}\n</tool_call>',
    ),
    "call, kimi_k2": (
        "kimi_k2",
        None,
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        f"{IN_JSON}<|tool_call_end|><|tool_calls_section_end|>",
    ),
    "call, qwen3_coder": (
        "qwen3_coder",
        None,
        f"<tool_call>\n<function=get_weather>\n{TAGGED}</function>\n</tool_call>",
    ),
    "call, harmony": (
        "gpt-oss",
        "gpt-oss",
        f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{IN_JSON}<|call|>",
    ),
}


def seconds(format: OutputFormat, tokens: list[str]) -> float:
    """CPU time of parsing one answer, in seconds."""
    parser = OutputParser(format, FUNCTIONS, "")
    start = time.process_time()
    for token in tokens:
        parser.feed(token)
    parser.finish()
    return time.process_time() - start


def main() -> None:
    """Print a line for each kind of answer."""
    for name, (tools, reasoning, text) in ANSWERS.items():
        tokens = re.findall(r"<[^<>]+>|.{1,4}", text, re.DOTALL)
        format = OutputFormat(TOOL_FORMATS[tools], REASONING_FORMATS[reasoning] if reasoning else None)
        best = min(seconds(format, tokens) for _ in range(30))
        print(f"{name:25} {best / len(tokens) * 1e6:6.2f} µs a token of {len(tokens)}")


if __name__ == "__main__":
    main()
