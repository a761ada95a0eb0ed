"""Fields that have no effect: the initial metadata, and over HTTP a header, names them."""

import pytest

from inferd.rest_bridge.decode import Decoder
from inferd.v1 import chat_pb2_grpc, completion_pb2_grpc, tokenize_pb2, tokenize_pb2_grpc
from inferd.v1.chat_pb2 import CreateChatCompletionRequest
from inferd.v1.completion_pb2 import CreateCompletionRequest
from tests.api.test_answers import ASK, SEARCH, WEATHER

HI = ASK["messages"]
NAMED = {"type": "function", "function": {"name": "search"}}
DECODERS = {
    "chat/completions": Decoder(CreateChatCompletionRequest.DESCRIPTOR),
    "completions": Decoder(CreateCompletionRequest.DESCRIPTOR),
}
MESSAGES = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
TEMPLATES = {
    "plain": MESSAGES,
    "tools": "{{ tools | tojson if tools }}" + MESSAGES,
    "tools, if a variable is set": "{{ tools | tojson if tools and with_tools }}" + MESSAGES,
    "tools, if there is a system message": (
        "{% if tools and messages[0].role == 'system' %}{{ tools | tojson }}{% endif %}" + MESSAGES
    ),
    "variables": "{{ reasoning_effort }}{{ thinking_mode }}{{ verbosity }}{{ shade }}" + MESSAGES,
    "thinking": "{% if enable_thinking is defined and enable_thinking %}<think>{% endif %}" + MESSAGES,
}
EFFORT = {"reasoning_effort": "low"}


async def ignored(inferd, body: dict, path: str = "chat/completions") -> str | None:
    """The names of ignored fields, which are the same by REST and by gRPC, whole and streamed.

    The seed is left out, because the simulated runtime ignores it.
    """
    body = {"model": "small", "max_tokens": 1, **body}
    request = DECODERS[path].decode(body)
    async with inferd.http() as http:
        answers = [
            await http.post(f"/v1/{path}", json={**body, "stream": stream}) for stream in (False, True)
        ]
    seen = [answer.headers.get("x-inferd-ignored") for answer in answers]
    async with inferd.channel() as channel:
        if path == "completions":
            stub = completion_pb2_grpc.CompletionServiceStub(channel)
            whole, stream = stub.CreateCompletion(request), stub.StreamCompletion(request)
        else:
            stub = chat_pb2_grpc.ChatServiceStub(channel)
            whole, stream = stub.CreateChatCompletion(request), stub.StreamChatCompletion(request)
        for call in (whole, stream):
            seen.append(dict(await call.initial_metadata()).get("x-inferd-ignored"))
        await whole
        async for _ in stream:
            pass
    assert all(answer.status_code == 200 for answer in answers), answers[0].text
    assert len(set(seen)) == 1, seen
    return seen[0]


@pytest.mark.parametrize(
    ("template", "body", "names"),
    [
        ("plain", {"messages": HI}, None),
        ("plain", ASK, "tools"),
        ("plain", {**ASK, "tool_choice": "auto", "seed": 1}, "seed,tools"),
        ("plain", {**ASK, "tool_choice": "none"}, None),
        ("plain", {**ASK, "tool_choice": "required"}, None),
        ("plain", {**ASK, "tool_choice": NAMED}, None),
        ("plain", {"messages": HI, "functions": [SEARCH["function"]]}, "functions"),
        (
            "plain",
            {"messages": HI, "functions": [SEARCH["function"]], "function_call": {"name": "search"}},
            None,
        ),
        ("tools", ASK, None),
        ("tools, if a variable is set", ASK, "tools"),
        ("tools, if a variable is set", {**ASK, "chat_template_kwargs": {"with_tools": True}}, None),
        ("tools, if there is a system message", ASK, "tools"),
        (
            "tools, if there is a system message",
            {**ASK, "messages": [{"role": "system", "content": "be brief"}, *HI]},
            None,
        ),
        ("plain", {"messages": HI, **EFFORT}, "reasoning_effort"),
        ("plain", {"messages": HI, "verbosity": "low", "thinking": True}, "thinking,verbosity"),
        ("plain", {"messages": HI, "chat_template_kwargs": {"shade": 1}}, "chat_template_kwargs"),
        ("plain", {"messages": HI, "chat_template_kwargs": {}}, None),
        (
            "variables",
            {
                "messages": HI,
                **EFFORT,
                "verbosity": "low",
                "thinking": {"type": "enabled"},
                "chat_template_kwargs": {"shade": 1, "hue": 2},
            },
            None,
        ),
        ("thinking", {"messages": HI, **EFFORT}, None),
    ],
)
async def test_what_the_template_does_not_show(start_inferd, tmp_path, template, body, names):
    file = tmp_path / "chat.jinja"
    file.write_text(TEMPLATES[template])
    inferd = await start_inferd(model={"chat_template": str(file)})
    assert await ignored(inferd, body) == names


async def test_each_rpc_takes_the_field_of_its_own_kind(start_inferd):
    inferd = await start_inferd()
    both = {"messages": HI, "prompt": "Paris"}
    assert await ignored(inferd, both) == "prompt"
    assert await ignored(inferd, both, "completions") == "messages"
    assert await ignored(inferd, {"prompt": "Paris"}) is None
    assert await ignored(inferd, {"prompt": "Paris"}, "completions") is None
    assert await ignored(inferd, {"messages": HI}, "completions") is None
    # Token ids replace all that the template would read, and tools say only which calls are read.
    ids = {"input_ids": [3, 4], "tools": [WEATHER], "prompt": "Paris"}
    assert await ignored(inferd, ids) == "prompt"
    assert await ignored(inferd, {**ids, **both, **EFFORT}) == "messages,prompt,reasoning_effort"


async def test_the_prompt_is_that_of_the_field_that_is_taken(start_inferd):
    inferd = await start_inferd()
    async with inferd.http() as http:

        async def tokens(path: str, **body: object) -> int:
            answer = await http.post(path, json={"model": "small", "max_tokens": 1, **body})
            return answer.json()["usage"]["prompt_tokens"]

        for path in ("/v1/chat/completions", "/chat/completions", "/engines/small/chat/completions"):
            assert await tokens(path, messages=HI, prompt="a b c") == await tokens(path, messages=HI)
        for path in ("/v1/completions", "/completions", "/openai/deployments/small/completions"):
            assert await tokens(path, messages=HI, prompt="a b c") == await tokens(path, prompt="a b c")


async def test_a_queued_job_says_it_too(start_inferd):
    inferd = await start_inferd()
    async with inferd.http() as http:
        body = {"model": "small", "messages": HI, "prompt": "Paris", "max_tokens": 1}
        answer = await http.post("/queue/chat/completions", json=body)
    assert answer.headers["x-inferd-ignored"] == "prompt"


async def test_the_token_counter_says_it_too(start_inferd):
    inferd = await start_inferd()
    both = {"model": "small", "messages": HI, "prompt": "Paris"}
    async with inferd.http() as http:
        for path in ("/utils/token_counter", "/v1/tokenize"):
            answer = await http.post(path, json=both)
            assert answer.headers["x-inferd-ignored"] == "prompt"
            assert "x-inferd-ignored" not in (await http.post(path, json={**both, "prompt": None})).headers
    async with inferd.channel() as channel:
        stub = tokenize_pb2_grpc.TokenizeServiceStub(channel)
        completion = DECODERS["completions"].decode(both)
        call = stub.CountTokens(tokenize_pb2.CountTokensRequest(completion=completion))
        assert dict(await call.initial_metadata())["x-inferd-ignored"] == "messages"
        await call
