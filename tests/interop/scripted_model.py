"""The simulated runtime's answers to the programs of this folder, by the last message.

The texts are in the forms of Hermes' tool calls and Qwen3's reasoning.
"""

import re
from collections.abc import Callable

import grpc

from inferd.services.text.tokenizer import Tokenizer
from tests.doubles.simulated_scheduler import Fault, Reply, Script

PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>'
ROME = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "days": 1}}\n</tool_call>'
ANSWERS = {
    "Say hello.": "Hello world, how are you today? 🙂",
    "Weather in Paris?": f"I look.\n{PARIS}",
    "Weather in Paris and Rome?": f"{PARIS}\n{ROME}",
    "Think.": "<think>Two and two.</think>Four.",
    "Who is it?": '{"name": "Ada é", "age": 36}',
    "Fail at first.": "Better now.",
    "Break off.": "It begins well and breaks off.",
    "Go on.": "and on " * 400,
    "Wait.": "",
}
#: A completion's prompt, and what follows it.
PROMPT, REST = "The capital of France is", " Paris."
END = 2

_MESSAGE = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)


def scripted_model(tokenizer: Tokenizer) -> Script:
    """The script. "Fail at first." fails once; a tool's result is told again."""
    failed: list[str] = []

    def fail_once() -> Fault | None:
        if failed:
            return None
        failed.append("")
        # The one error that leaves the runtime in service.
        return Fault("status", code=grpc.StatusCode.RESOURCE_EXHAUSTED, details="too busy")

    faults: dict[str, Callable[[], Fault | None]] = {
        "Fail at first.": fail_once,
        "Break off.": lambda: Fault("status", after=5, code=grpc.StatusCode.INTERNAL),
        "Wait.": lambda: Fault("hang"),
    }

    def script(request) -> Reply:
        messages = _MESSAGE.findall(tokenizer.decode(request.tokenized.input_ids, skip_special_tokens=False))
        role, asked = messages[-1] if messages else ("", "")
        text = f"It is {asked}." if role == "tool" else ANSWERS.get(asked, REST)
        ids = tokenizer.encode(text, add_special_tokens=False)
        fault = faults[asked]() if asked in faults else None
        speed = 20 if asked == "Go on." else 0
        return Reply((*ids, END), tokens_per_second=speed, fault=fault)

    return script
