"""Two more dialects in small (dialects.proto): a gRPC servicer behind the bridge, on a real socket."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest
import pytest_asyncio
from google.protobuf.message_factory import GetMessageClass
from jsonschema import Draft202012Validator

from inferd.rest_bridge import openapi
from inferd.rest_bridge.bridge import Bridge
from inferd.services.calls.chain import Chain, call_links
from inferd.services.calls.methods import Methods
from inferd.services.errors import ServiceError
from tests.support.proto_source import compile_file
from tests.support.rest_server import TRANSPORTS, http_server, transport_to

pytestmark = pytest.mark.asyncio(loop_scope="module")

FILE = compile_file(Path(__file__).parent / "dialects.proto")
SERVICES = list(FILE.services_by_name.values())
NEW: dict[str, Any] = {name: GetMessageClass(kind) for name, kind in FILE.message_types_by_name.items()}
USER, ASSISTANT = 1, 2
STOP, LENGTH = 1, 2
#: Fails before the first event or after it, by the name of the model.
FAULTS = {
    "missing": ServiceError(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "no such model", field="model"),
    "busy": ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "too many", retry_after=3),
    "limited": ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "the queue is full"),
    "broken": ServiceError(grpc.StatusCode.UNAVAILABLE, "RUNTIME_ABORTED", "gone"),
}


class Servicer:
    """Answers "Hi!" in both dialects, and keeps its requests."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def _take(self, request: Any) -> None:
        self.asked.append(request)
        if request.model in FAULTS:
            raise FAULTS[request.model]

    async def create_response(self, request: Any, context: Any) -> Any:
        self._take(request)
        text = {"output_text": {"text": "Hi!"}}
        return NEW["Response"](
            id="resp_1",
            created_at={"seconds": 5, "nanos": 7},
            status=STOP,
            output=[{"id": "msg_1", "message": {"role": ASSISTANT, "content": [text]}}],
            request=request,
            usage={"input_tokens": 1, "output_tokens": 2},
        )

    async def stream_response(self, request: Any, context: Any) -> AsyncIterator[Any]:
        event = NEW["ResponseEvent"]
        self._take(request)
        begun = NEW["Response"](id="resp_1", created_at={"seconds": 5}, request=request)
        yield event(created={"response": begun})
        if request.instructions == "break":
            raise FAULTS["broken"]
        for number, text in enumerate(("Hi", "!"), 1):
            yield event(sequence_number=number, output_text_delta={"item_id": "msg_1", "delta": text})
        begun.status = LENGTH
        yield event(sequence_number=3, completed={"response": begun})

    async def create_message(self, request: Any, context: Any) -> Any:
        self._take(request)
        return NEW["MessageReply"](
            id="msg_1",
            role=ASSISTANT,
            model=request.model,
            content=[
                {"text": {"text": "Hi!"}},
                {"tool_use": {"id": "toolu_1", "name": "f", "input": '{"a":1}'}},
            ],
            stop_reason=STOP,
            usage={"input_tokens": 1, "output_tokens": 2},
        )

    async def stream_message(self, request: Any, context: Any) -> AsyncIterator[Any]:
        event = NEW["MessageEvent"]
        self._take(request)
        reply = NEW["MessageReply"](id="msg_1", role=ASSISTANT, model=request.model, usage={})
        yield event(message_start={"message": reply})
        if request.system:
            raise FAULTS["busy"]
        yield event(content_block_delta={"delta": {"text_delta": {"text": "Hi!"}}})
        yield event(message_delta={"delta": {"stop_reason": LENGTH}})
        yield event(message_stop={})

    async def repeat(self, request: Any, context: Any) -> Any:
        return request

    def add_to(self, methods: Methods) -> None:
        for service in SERVICES:
            handlers = {}
            for method in service.methods:
                make = (
                    grpc.unary_stream_rpc_method_handler
                    if method.server_streaming
                    else grpc.unary_unary_rpc_method_handler
                )
                words = "".join(f"_{c.lower()}" if c.isupper() else c for c in method.name)
                handlers[method.name] = make(
                    getattr(self, words[1:]),
                    GetMessageClass(method.input_type).FromString,
                    GetMessageClass(method.output_type).SerializeToString,
                )
            methods.add_registered_method_handlers(service.full_name, handlers)


class Rest:
    def __init__(self, servicer: Servicer, port: int) -> None:
        self.servicer = servicer
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.AsyncClient(base_url=self.url, timeout=30, trust_env=False)

    async def post(self, path: str, **document: Any) -> httpx.Response:
        self.servicer.asked.clear()
        return await self.client.post(path, json=document)

    async def respond(self, **document: Any) -> httpx.Response:
        return await self.post("/v1/responses", **{"model": "m", **document})

    async def message(self, **document: Any) -> httpx.Response:
        ask = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
        return await self.post("/v1/messages", **{**ask, **document})


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TRANSPORTS)
async def rest(request: pytest.FixtureRequest) -> AsyncIterator[Rest]:
    servicer = Servicer()
    methods = Methods(Chain(call_links(100, 60)))
    servicer.add_to(methods)
    async with contextlib.AsyncExitStack() as stack:
        transport = await stack.enter_async_context(transport_to(methods, request.param))
        bridge = Bridge(SERVICES, transport, max_body_bytes=4096)
        rest = Rest(servicer, await stack.enter_async_context(http_server(bridge)))
        stack.push_async_callback(rest.client.aclose)
        yield rest


def named_events(text: str) -> list[tuple[str, Any]]:
    """The name and the data of each event. Nothing else is in the stream."""
    assert text.endswith("\n\n")
    events = []
    for event in text[:-2].split("\n\n"):
        name, data = event.split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        events.append((name[7:], json.loads(data[6:])))
    return events


# --- like Responses


async def test_the_request_is_in_the_response_with_its_defaults(rest: Rest) -> None:
    response = await rest.respond(input="Hello", tools=[{"type": "function", "name": "f"}], instructions=None)
    assert response.json() == {
        "object": "response",
        "id": "resp_1",
        "created_at": 5,
        "status": "completed",
        "model": "m",
        "output": [
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Hi!", "annotations": []}],
            }
        ],
        "temperature": 1.0,
        "tools": [{"type": "function", "name": "f", "parameters": None, "strict": True}],
        "tool_choice": "auto",
        "instructions": None,
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }


async def test_a_value_of_the_request_replaces_the_default(rest: Rest) -> None:
    tools = [{"type": "function", "name": "f", "parameters": {"b": 1, "a": 2}, "strict": False}]
    choice = {"type": "function", "name": "f"}
    given = {"temperature": 0.5, "tools": tools, "tool_choice": choice, "instructions": "Be brief."}
    made = (await rest.respond(input="Hello", **given)).json()
    assert {member: made[member] for member in given} == given
    assert (await rest.respond(tool_choice="none")).json()["tool_choice"] == "none"


async def test_unknown_members_come_back(rest: Rest) -> None:
    others = {"metadata": {"b": [1, None], "a": 1.5}, "truncation": "auto", "store": False}
    made = (
        await rest.respond(input="Hello", **others, nothing=None, stream=False, id="own", object=5)
    ).json()
    assert {member: made[member] for member in others} == others
    assert "nothing" not in made and "stream" not in made
    # Members of the response itself are not those of the request.
    assert (made["id"], made["object"]) == ("resp_1", "response")
    (asked,) = rest.servicer.asked
    assert asked.others["metadata"] == '{"b":[1,null],"a":1.5}'


@pytest.mark.parametrize(
    "given",
    [
        "Hello",
        ["Hello"],
        {"role": "user", "content": "Hello"},
        [{"role": "user", "content": "Hello"}],
        [{"type": "message", "role": "user", "content": ["Hello"]}],
        [{"type": "message", "role": "user", "content": {"type": "input_text", "text": "Hello"}}],
    ],
    ids=str,
)
async def test_forms_of_one_input(rest: Rest, given: Any) -> None:
    assert (await rest.respond(input=given)).status_code == 200
    (asked,) = rest.servicer.asked
    assert list(asked.input) == [
        NEW["InputItem"](message={"role": USER, "content": [{"input_text": {"text": "Hello"}}]})
    ]


async def test_items_of_an_input(rest: Rest) -> None:
    items = [
        {"role": "assistant", "content": [{"type": "output_text", "text": "Ho", "annotations": []}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"},
        {"type": "function_call_output", "call_id": "c", "output": "5"},
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}, "What?"]},
    ]
    assert (await rest.respond(input=items)).status_code == 200
    (asked,) = rest.servicer.asked
    assert [item.WhichOneof("item") for item in asked.input] == [
        "message",
        "function_call",
        "function_call_output",
        "message",
    ]
    assert asked.input[1].function_call.call_id == "c"
    assert [part.WhichOneof("part") for part in asked.input[3].message.content] == [
        "input_image",
        "input_text",
    ]


@pytest.mark.parametrize(
    ("document", "param", "message"),
    [
        ({"input": 5}, "input", "input: expected a string, a list or an object, got an integer"),
        ({"input": [{"type": "x"}]}, "input[0].type", 'input[0].type: expected "message", "function_call"'),
        ({"input": [{"role": 5}]}, "input[0].role", "input[0].role: expected "),
        ({"input": [{"content": [{"text": "x"}]}]}, "input[0].content[0].type", ""),
        (
            {"input": [{"content": [{"type": "input_text", "text": 5}]}]},
            "input[0].content[0].text",
            "input[0].content[0].text: expected a string, got an integer",
        ),
        # The limits and required fields that the services check, as the JSON has them.
        ({"input": [{"content": "Hi"}]}, "input[0].role", "input[0].role is required"),
        ({"input": "x" * 101}, "input[0].content[0].text", "input[0].content[0].text must be at most 100"),
        ({"temperature": 3}, "temperature", "temperature must be at most 2"),
    ],
)
async def test_faults_are_named_as_the_client_spells_them(
    rest: Rest, document: dict[str, Any], param: str, message: str
) -> None:
    response = await rest.respond(**document)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(message)
    assert error["type"] == "invalid_request_error"


async def test_events_have_names(rest: Rest) -> None:
    response = await rest.respond(input="Hello", stream=True, store=False)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    begun = {
        "object": "response",
        "id": "resp_1",
        "created_at": 5,
        "status": "in_progress",
        "model": "m",
        "output": [],
        "temperature": 1.0,
        "tools": [],
        "tool_choice": "auto",
        "instructions": None,
        "usage": None,
        "store": False,
    }
    delta = {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "content_index": 0}
    assert named_events(response.text) == [
        ("response.created", {"type": "response.created", "sequence_number": 0, "response": begun}),
        ("response.output_text.delta", {**delta, "sequence_number": 1, "delta": "Hi"}),
        ("response.output_text.delta", {**delta, "sequence_number": 2, "delta": "!"}),
        (
            "response.completed",
            {
                "type": "response.completed",
                "sequence_number": 3,
                "response": {**begun, "status": "incomplete"},
            },
        ),
    ]


async def test_an_error_of_a_stream_is_an_event_with_a_name(rest: Rest) -> None:
    response = await rest.respond(instructions="break", stream=True)
    (_, _), last = named_events(response.text)
    error = {"type": "error", "code": "runtime_aborted", "message": "gone", "param": None}
    assert last == ("error", error)
    response = await rest.respond(model="missing", stream=True)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_openais_sdk(rest: Rest) -> None:
    async with openai.AsyncOpenAI(base_url=f"{rest.url}/v1", api_key="x", max_retries=0) as client:
        response = await client.responses.create(model="m", input="Hello", metadata={"a": "b"})
        assert (response.output_text, response.temperature, response.metadata) == ("Hi!", 1.0, {"a": "b"})
        stream = await client.responses.create(model="m", input="Hello", stream=True)
        events = [event async for event in stream]
        assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "Hi!"
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model="missing", input="Hello")
        stream = await client.responses.create(model="m", instructions="break", stream=True)
        last = [event async for event in stream][-1]
        assert (last.type, last.message, last.code) == ("error", "gone", "runtime_aborted")


async def test_openapi() -> None:
    """Bodies and events follow their schemas. Words of enums are those of the default dialect."""
    schemas = openapi.document(SERVICES)["components"]["schemas"]

    def valid(name: str, document: Any) -> bool:
        schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
        return not list(Draft202012Validator(schema).iter_errors(document))

    for item in ("Hi", {"role": "user", "content": "Hi"}, {"type": "message", "role": "user"}):
        assert valid("InputItem", item)
    for item in (5, {"content": "Hi"}, {"type": "function_call", "name": 5}):
        assert not valid("InputItem", item)
    assert valid("CreateMessageRequest", {"model": "m", "max_tokens": 5, "messages": [{"content": "Hi"}]})
    assert valid("MessageEvent", {"type": "content_block_delta", "index": 0})
    assert not valid("MessageEvent", {"index": 0})
    assert "input" not in schemas["Response"]["properties"]
    assert "temperature" in schemas["Response"]["required"]


# --- like Messages


async def test_a_message(rest: Rest) -> None:
    assert (await rest.message()).json() == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "text", "text": "Hi!"},
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
        ],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }


async def test_blocks(rest: Rest) -> None:
    cached = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "5"}
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"b": 1, "a": 2}}
    turns = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result, "And?"]}]
    await rest.message(messages=turns, system=[cached], tool_choice={"type": "tool", "name": "f"})
    (asked,) = rest.servicer.asked
    assert asked.system[0].text.text == "Be brief."
    assert dict(asked.system[0].text.others) == {"cache_control": '{"type":"ephemeral"}'}
    assert asked.messages[0].content[0].tool_use.input == '{"b":1,"a":2}'
    first, second = asked.messages[1].content
    assert (first.tool_result.content[0].text.text, second.text.text) == ("5", "And?")
    assert asked.tool_choice.tool.name == "f"
    await rest.message(system="Be brief.", tool_choice={"type": "any", "disable_parallel_tool_use": True})
    (asked,) = rest.servicer.asked
    assert asked.system[0].text.text == "Be brief."
    assert (asked.tool_choice.WhichOneof("choice"), asked.tool_choice.disable_parallel_tool_use) == (
        "any",
        True,
    )


async def test_events_of_a_message(rest: Rest) -> None:
    events = named_events((await rest.message(stream=True)).text)
    assert [name for name, _ in events] == [
        "message_start",
        "content_block_delta",
        "message_delta",
        "message_stop",
    ]
    assert events[0][1]["message"]["stop_reason"] is None
    assert [data for _, data in events[1:]] == [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi!"}},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}},
        {"type": "message_stop"},
    ]


@pytest.mark.parametrize(
    ("document", "status", "kind"),
    [
        ({"model": "missing"}, 404, "not_found_error"),
        ({"model": "busy"}, 529, "overloaded_error"),
        ({"model": "limited"}, 429, "rate_limit_error"),
        ({"model": "broken"}, 500, "api_error"),
        ({"max_tokens": "5"}, 400, "invalid_request_error"),
        ({"max_tokens": None}, 400, "invalid_request_error"),
        ({"messages": [{"content": "x" * 5000}]}, 413, "request_too_large"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors(rest: Rest, document: dict[str, Any], status: int, kind: str, stream: bool) -> None:
    response = await rest.message(**document, stream=stream)
    assert response.status_code == status
    body = response.json()
    assert body == {
        "type": "error",
        "error": {"type": kind, "message": body["error"]["message"]},
        "request_id": response.headers["x-request-id"],
    }
    assert response.headers.get("retry-after") == ("3" if document.get("model") == "busy" else None)


async def test_an_error_after_events(rest: Rest) -> None:
    events = named_events((await rest.message(system="break", stream=True)).text)
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "too many"}}
    assert events[-1] == ("error", error)
    assert [name for name, _ in events] == ["message_start", "error"]


async def test_errors_before_a_method_is_found_are_openais(rest: Rest) -> None:
    response = await rest.client.get("/v1/messages")
    assert (response.status_code, list(response.json())) == (405, ["error"])


async def test_malformed_json(rest: Rest) -> None:
    response = await rest.client.post("/v1/messages", content=b"{")
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_a_dialect_of_one_method(rest: Rest) -> None:
    response = await rest.post("/v1/repeat/length", content="Hi")
    assert response.json() == {"content": [{"type": "text", "text": "Hi"}], "ending": "length"}
    response = await rest.post("/v1/repeat/max_tokens")
    assert response.json()["error"]["message"].startswith("ending: expected one of stop, length")


async def test_anthropics_sdk(rest: Rest) -> None:
    anthropic = pytest.importorskip("anthropic")
    async with anthropic.AsyncAnthropic(base_url=rest.url, api_key="x", max_retries=0) as client:
        ask: dict[str, Any] = {"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
        message = await client.messages.create(model="m", **ask)
        assert (message.content[0].text, message.stop_reason, message.type) == ("Hi!", "end_turn", "message")
        stream = await client.messages.create(model="m", stream=True, **ask)
        assert [event.type async for event in stream][-1] == "message_stop"
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(model="missing", **ask)
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(model="busy", **ask)
        assert (caught.value.status_code, caught.value.body["error"]["type"]) == (529, "overloaded_error")
