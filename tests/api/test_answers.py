"""Reasoning, content and tool calls of a model's text, through a whole inferd: the same by gRPC and by
REST, whole and streamed, whatever tokens the runtime sends together."""

import json
from dataclasses import dataclass

import pytest
from google.protobuf import json_format

from inferd.rest_bridge.decode import Decoder
from inferd.v1 import chat_pb2, chat_pb2_grpc
from tests.doubles.simulated_scheduler import fixed
from tests.support.small_model import write_small_model

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
    },
}
ASK = {
    "model": "small",
    "messages": [{"role": "user", "content": "Hello"}],
    "tools": [WEATHER, SEARCH],
}
DECODER = Decoder(chat_pb2.CreateChatCompletionRequest.DESCRIPTOR)
#: A careless parser takes these for the end of a call.
HARD = 'a "quoted" </tool_call>, é 🙂 {brace\\ [TOOL_CALLS]'


@dataclass(frozen=True)
class Truth:
    """A model's text in the form of its family, and the answer that the text stands for."""

    tools: str
    text: str
    calls: tuple[tuple[str, dict[str, object]], ...] = ()
    content: str | None = None
    reasoning: str | None = None
    reasoning_parser: str = "none"


def hermes(name: str, arguments: dict[str, object]) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


PARIS, ROME = {"city": "Paris", "days": 2}, {"city": "Rome"}
QUERY = {"query": HARD}
BOTH = (("get_weather", PARIS), ("search", QUERY))
DS = "<｜DSML｜"
TRUTHS = {
    "no call": Truth("hermes", "Just < text <tool", content="Just < text <tool"),
    "hermes": Truth(
        "hermes",
        f"I look.\n{hermes('get_weather', PARIS)}\n{hermes('search', QUERY)}",
        BOTH,
        content="I look.\n",
    ),
    "hermes after reasoning": Truth(
        "qwen25",
        f"<think>By <tool_call>?</think>\n{hermes('get_weather', ROME)}",
        (("get_weather", ROME),),
        reasoning="By <tool_call>?",
        reasoning_parser="qwen3",
    ),
    "reasoning alone": Truth(
        "none",
        "It is <b>said</b> </thin that</think>Paris </think>",
        content="Paris </think>",
        reasoning="It is <b>said</b> </thin that",
        reasoning_parser="deepseek-r1",
    ),
    "qwen3-coder": Truth(
        "qwen3_coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        f"</function>\n</tool_call>\n<tool_call>\n<function=search>\n<parameter=query>\n{HARD}\n</parameter>\n"
        "</function>\n</tool_call>",
        BOTH,
    ),
    "mistral, old": Truth(
        "mistral",
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}, '
        f'{{"name": "search", "arguments": {json.dumps(QUERY)}}}]',
        BOTH,
    ),
    "mistral, new": Truth(
        "mistral",
        f"[TOOL_CALLS]get_weather[ARGS]{json.dumps(PARIS)}[TOOL_CALLS]search[ARGS]{json.dumps(QUERY)}",
        BOTH,
    ),
    "llama 3": Truth(
        "llama3", '{"name": "get_weather", "parameters": {"city": "Rome"}}', (("get_weather", ROME),)
    ),
    "pythonic": Truth(
        "pythonic",
        f"[get_weather(city='Paris', days=2), search(query={json.dumps(HARD, ensure_ascii=False)})]",
        BOTH,
    ),
    "deepseek v3": Truth(
        "deepseekv3",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        f"```json\n{json.dumps(PARIS)}\n```<｜tool▁call▁end｜>\n"
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>search\n```json\n{json.dumps(QUERY)}\n```<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
        BOTH,
    ),
    "deepseek v3.1": Truth(
        "deepseekv31",
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{json.dumps(PARIS)}<｜tool▁call▁end｜>"
        f"<｜tool▁call▁begin｜>search<｜tool▁sep｜>{json.dumps(QUERY)}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        BOTH,
    ),
    "deepseek v3.2": Truth(
        "deepseekv32",
        f'{DS}function_calls>\n{DS}invoke name="get_weather">\n{DS}parameter name="city" string="true">'
        f'Paris</｜DSML｜parameter>\n{DS}parameter name="days" string="false">2</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n"
        f'{DS}invoke name="search">\n{DS}parameter name="query" string="true">{HARD}</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        BOTH,
    ),
    "glm 4.5": Truth(
        "glm45",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>2</arg_value>\n</tool_call>",
        (("get_weather", PARIS),),
    ),
    "glm 4.7": Truth(
        "glm47",
        "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Paris</arg_value><arg_key>days</arg_key>"
        "<arg_value>2</arg_value></tool_call>",
        (("get_weather", PARIS),),
    ),
    "kimi k2": Truth(
        "kimi_k2",
        "Sure.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        f"{json.dumps(PARIS)}<|tool_call_end|><|tool_call_begin|>functions.search:1<|tool_call_argument_begin|>"
        f"{json.dumps(QUERY)}<|tool_call_end|><|tool_calls_section_end|>",
        BOTH,
        content="Sure.",
    ),
    "gpt-oss": Truth(
        "gpt-oss",
        "<|channel|>analysis<|message|>Weather.<|end|><|start|>assistant<|channel|>commentary"
        f" to=functions.get_weather <|constrain|>json<|message|>{json.dumps(PARIS)}<|call|>",
        (("get_weather", PARIS),),
        reasoning="Weather.",
        reasoning_parser="gpt-oss",
    ),
}


#: The numbers of tokens in the runtime's messages, in turn.
CUTS = [(1,), (2,), (3, 1, 5), (10_000,)]


@dataclass
class Said:
    """The parts of an answer."""

    content: str
    reasoning: str
    calls: list[tuple[str, str, str]]
    finish: str

    @classmethod
    def whole(cls, choice: dict) -> "Said":
        message = choice["message"]
        return cls(
            message.get("content") or "",
            message.get("reasoning_content") or "",
            [
                (call["id"], call["function"]["name"], call["function"].get("arguments", ""))
                for call in message.get("tool_calls", [])
            ],
            choice["finish_reason"],
        )

    @classmethod
    def streamed(cls, chunks: list[dict]) -> "Said":
        said = cls("", "", [], "")
        for chunk in chunks:
            for choice in chunk["choices"]:
                delta = choice["delta"]
                said.content += delta.get("content") or ""
                said.reasoning += delta.get("reasoning_content") or ""
                for call in delta.get("tool_calls", []):
                    function = call.get("function", {})
                    if "id" in call:
                        assert call["index"] == len(said.calls)
                        assert "function" in call and call.get("type") in (None, "function")
                        said.calls.append((call["id"], function["name"], ""))
                    else:
                        assert "name" not in function
                    call_id, name, arguments = said.calls[call["index"]]
                    said.calls[call["index"]] = (call_id, name, arguments + function.get("arguments", ""))
                if choice["finish_reason"]:
                    assert not said.finish
                    said.finish = choice["finish_reason"]
        return said

    def but_ids(self) -> tuple[object, ...]:
        return self.content, self.reasoning, [call[1:] for call in self.calls], self.finish


def rest_form(message: object) -> dict:
    """A gRPC answer, with REST's names and words."""
    document = json_format.MessageToDict(message, preserving_proto_field_name=True)
    for choice in document["choices"]:
        word = choice.get("finish_reason", "").removeprefix("FINISH_REASON_").lower()
        choice["finish_reason"] = word or None
        choice.setdefault("delta", {})
        for call in choice["delta"].get("tool_calls", []):
            call.setdefault("index", 0)
    return document


async def every_way(inferd, body: dict) -> dict[str, Said]:
    """The answer by REST and by gRPC, whole and streamed."""
    request = DECODER.decode(body)
    async with inferd.http() as http:
        whole = (await http.post("/v1/chat/completions", json=body)).json()
        events = (await http.post("/v1/chat/completions", json={**body, "stream": True})).text
    chunks = [
        json.loads(line.removeprefix("data: "))
        for line in events.splitlines()
        if line.startswith("data: ") and line != "data: [DONE]"
    ]
    assert events.endswith("data: [DONE]\n\n")
    async with inferd.channel() as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        by_grpc = await stub.CreateChatCompletion(request)
        by_stream = [rest_form(chunk) async for chunk in stub.StreamChatCompletion(request)]
    assert all(not choice["message"].get("token_ids") for choice in whole["choices"])
    return {
        "REST": Said.whole(whole["choices"][0]),
        "REST, streamed": Said.streamed(chunks),
        "gRPC": Said.whole(rest_form(by_grpc)["choices"][0]),
        "gRPC, streamed": Said.streamed(by_stream),
    }


@pytest.fixture(scope="session")
def long_model(tmp_path_factory) -> str:
    """The small model, with room for long answers: its tokenizer spells most of them byte by byte."""
    return str(write_small_model(tmp_path_factory.mktemp("long-model"), context_length=8192))


@pytest.mark.parametrize("name", TRUTHS)
async def test_an_answer_is_the_same_every_way(start_inferd, small_text, long_model, name):
    truth = TRUTHS[name]
    ids = [*small_text.tokenizer.encode(truth.text, add_special_tokens=False), 2]
    parsers = {"tool_call_parser": truth.tools, "reasoning_parser": truth.reasoning_parser}
    inferd = await start_inferd(model={"path": long_model, **parsers})
    seen = set()
    for cut in CUTS:
        inferd.runtime.script = fixed(ids, chunk_sizes=cut)
        for way, said in (await every_way(inferd, ASK)).items():
            assert [(call[1], json.loads(call[2])) for call in said.calls] == list(truth.calls), (way, cut)
            assert said.content == (truth.content or ""), (way, cut)
            assert said.reasoning == (truth.reasoning or ""), (way, cut)
            assert said.finish == ("tool_calls" if truth.calls else "stop"), (way, cut)
            assert len({call[0] for call in said.calls}) == len(truth.calls), (way, cut)
            seen.add(str(said.but_ids()))
    assert len(seen) == 1


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize(
    "name",
    [
        "hermes after reasoning",
        "qwen3-coder",
        "mistral, new",
        "llama 3",
        "deepseek v3",
        "deepseek v3.2",
        "glm 4.5",
        "kimi k2",
        "gpt-oss",
        "pythonic",
        "gemma4",
        "kimi_k3",
        "minimax-m3",
    ],
)
async def test_forced_calls_are_read_in_the_form_they_are_forced_into(
    start_inferd, small_text, long_model, name, choice
):
    # Families whose own form cannot be constrained answer in JSON; the others in their own.
    form = f'[{{"name": "get_weather", "parameters": {json.dumps(PARIS)}}}]'
    truth = Truth(name, form, (("get_weather", PARIS),))
    if name != "pythonic":
        truth = TRUTHS.get(name, truth)
    ids = [*small_text.tokenizer.encode(truth.text, add_special_tokens=False), 2]
    parsers = {"tool_call_parser": truth.tools, "reasoning_parser": truth.reasoning_parser}
    inferd = await start_inferd(model={"path": long_model, **parsers})
    inferd.runtime.script = fixed(ids, chunk_sizes=(3, 1, 5))
    for way, said in (await every_way(inferd, {**ASK, "tool_choice": choice})).items():
        named = [call for call in truth.calls if choice == "required" or call[0] == "get_weather"]
        found = [(call[1], json.loads(call[2])) for call in said.calls]
        assert found[: len(named)] == named, way
        assert said.content.strip() == (truth.content or "").strip(), way
        assert said.reasoning == (truth.reasoning or ""), way
        assert said.finish == "tool_calls", way


async def test_an_answer_goes_on_where_its_thinking_was_left(start_inferd, small_text, long_model):
    inferd = await start_inferd(model={"path": long_model, "reasoning_parser": "qwen3"})
    text = " and two.</think>Four."
    ids = [*small_text.tokenizer.encode(text, add_special_tokens=False), 2]
    inferd.runtime.script = fixed(ids, chunk_sizes=(1, 2))
    asked = [ASK["messages"][0], {"role": "assistant", "content": "<think>Two"}]
    body = {"model": "small", "messages": asked, "continue_final_message": True}
    body["add_generation_prompt"] = False
    for way, said in (await every_way(inferd, body)).items():
        assert (said.reasoning, said.content) == (" and two.", "Four."), way
    said = await every_way(inferd, {**body, "separate_reasoning": False})
    assert {each.content for each in said.values()} == {text}
