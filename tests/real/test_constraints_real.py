"""Constraints on the real SGLang: a model with random weights writes only text that they allow.

Other tests check the constraints on the engine's grammars in process; these check that the engine obeys.
"""

import json
import re
from collections.abc import AsyncIterator

import grpc
import jsonschema
import pytest
from google.protobuf.json_format import ParseDict
from tokenizers import Tokenizer

from inferd.services.constraints.output_constraint import output_constraint
from inferd.services.errors import ServiceError
from inferd.services.runtimes.base import GenerateRequest, SamplingParams
from inferd.services.runtimes.scheduler import SchedulerRuntime
from inferd.services.text.function import Function, FunctionChoice
from inferd.services.text.output.events import CallArguments, CallBegin
from inferd.services.text.output.formats import OutputFormat
from inferd.services.text.output.parser import OutputParser
from inferd.services.text.output.reasoning_families import REASONING_FORMATS
from inferd.services.text.output.tool_families import TOOL_FORMATS
from inferd.v1 import chat_pb2
from tests.support.sinks import collect

# "The capital of France is"
PROMPT = (504, 3575, 282, 4649, 314)
QWEN = OutputFormat(TOOL_FORMATS["qwen"], None)
NO_TOOLS = FunctionChoice("none")

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}, "at": {"$ref": "#/$defs/place"}},
    "required": ["x", "at"],
    "$defs": {"place": {"enum": ["here", "there"]}},
}
WEATHER = Function("weather", POINT, field="tools[0].function")
CLOCK = Function("clock", None, field="tools[1].function")


@pytest.fixture
async def runtime(sglang_address: str) -> AsyncIterator[SchedulerRuntime]:
    runtime = SchedulerRuntime(sglang_address)
    yield runtime
    await runtime.close()


async def answer(runtime, fields=None, functions=(), choice=NO_TOOLS, format=QWEN, prompt_end="") -> str:
    """The text of an answer that has to follow what the request asks for."""
    request = ParseDict(fields or {}, chat_pb2.CreateChatCompletionRequest())
    constraint, _ = output_constraint(
        request, functions=functions, choice=choice, format=format, prompt_end=prompt_end
    )
    sampling = SamplingParams(max_new_tokens=400, temperature=1.0, constraint=constraint)
    deltas = await collect(runtime, GenerateRequest(token_ids=PROMPT, sampling=sampling, stream=False))
    token_ids = [token_id for delta in deltas for token_id in delta.token_ids]
    path = (await runtime.info()).model_path
    return str(Tokenizer.from_file(f"{path}/tokenizer.json").decode(token_ids, skip_special_tokens=False))


def ended(text: str) -> str:
    assert text.endswith("<|im_end|>") or text.endswith("<|endoftext|>"), text[-200:]
    return re.sub(r"<\|(im_end|endoftext)\|>$", "", text)


async def test_a_schema_is_followed(runtime):
    fields = {"response_format": {"json_schema": {"name": "point", "schema": json.dumps(POINT)}}}
    text = await answer(runtime, {**fields})
    assert text.lstrip().startswith("{")
    if "<|" in text:
        jsonschema.validate(json.loads(ended(text)), POINT)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"regex": "(yes|no), [0-9]{3}!"}, "(yes|no), [0-9]{3}!"),
        ({"ebnf": 'root ::= ("ab" | "cd") "!"'}, "(ab|cd)!"),
        ({"choice": ["Paris", "Oslo (Norway)"]}, r"Paris|Oslo \(Norway\)"),
        (
            {
                "response_format": {
                    "structural_tag": {},
                    "tag_format": json.dumps(
                        {
                            "type": "tag",
                            "begin": "<n>",
                            "content": {"type": "regex", "pattern": "[0-9]{2}"},
                            "end": "</n>",
                        }
                    ),
                }
            },
            "<n>[0-9]{2}</n>",
        ),
    ],
    ids=["regex", "ebnf", "choice", "structural_tag"],
)
async def test_a_form_is_followed(runtime, fields, pattern):
    assert re.fullmatch(pattern, ended(await answer(runtime, fields)))


@pytest.mark.parametrize("family", ["qwen", "mistral", "llama3", "deepseekv31", "kimi_k2", None])
async def test_a_named_function_is_called_once_with_valid_arguments(runtime, family):
    tools = TOOL_FORMATS[family] if family else None
    request = chat_pb2.CreateChatCompletionRequest()
    _, form = output_constraint(
        request,
        functions=[CLOCK],
        choice=FunctionChoice("required", "clock"),
        format=OutputFormat(tools),
        prompt_end="",
    )
    text = await answer(runtime, None, [CLOCK], FunctionChoice("required", "clock"), OutputFormat(tools))
    parser = OutputParser(OutputFormat(form), [CLOCK], "")
    events = [*parser.feed(ended(text)), *parser.finish()]
    assert [event.name for event in events if isinstance(event, CallBegin)] == ["clock"]
    assert json.loads("".join(event.text for event in events if isinstance(event, CallArguments))) == {}


async def test_a_call_is_required(runtime):
    text = await answer(runtime, None, [WEATHER, CLOCK], FunctionChoice("required"))
    assert re.match(r'<tool_call>\n\{"name": "(weather|clock)", "arguments": \{', text)


async def test_reasoning_comes_before_the_form(runtime):
    thinking = OutputFormat(None, REASONING_FORMATS["qwen3"])
    text = await answer(runtime, {"choice": ["yes", "no"]}, format=thinking, prompt_end="<think>\n")
    thought, marker, rest = text.partition("</think>")
    assert thought
    assert not marker or ended(rest) in ("yes", "no")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"ebnf": "root ::= nope"}, "ebnf"),
        ({"ebnf": 'start ::= "a"'}, "ebnf"),
        (
            {"response_format": {"structural_tag": {}, "tag_format": '{"type": "const_string"}'}},
            "response_format.format",
        ),
        (
            {"response_format": {"structural_tag": {}, "tag_format": '{"type": "token", "token": 99999999}'}},
            "response_format.format",
        ),
    ],
    ids=str,
)
async def test_what_the_engine_refuses_names_the_field(runtime, fields, field):
    with pytest.raises(ServiceError) as caught:
        await answer(runtime, fields)
    error = caught.value
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CONSTRAINT")
    assert error.field == field
    assert "/project/" not in error.message
