"""The OpenAPI document is valid, complete and matches the codec. Its page works without internet."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from google.protobuf.message import Message
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from starlette.applications import Starlette

from inferd.rest_bridge import proto_comments
from inferd.rest_bridge.decode import Decoder
from inferd.rest_bridge.docs_page import docs_routes
from inferd.rest_bridge.encode import Encoder
from inferd.rest_bridge.openapi import document
from inferd.rest_bridge.routes import compile_routes
from inferd.services.calls.field_limits import check_limits
from inferd.services.errors import ServiceError, invalid
from inferd.v1 import chat_pb2, completion_pb2, message_pb2, models_pb2, queue_pb2, sampling_pb2, tokenize_pb2

SERVICES = [
    service
    for module in (chat_pb2, completion_pb2, tokenize_pb2, models_pb2, queue_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
DOCUMENT = document(SERVICES)
OPERATIONS = [
    pytest.param(path, verb, operation, id=f"{verb} {path}")
    for path, operations in DOCUMENT["paths"].items()
    for verb, operation in operations.items()
]


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def component(name: str) -> Draft202012Validator:
    return validator({"$ref": f"#/components/schemas/{name}"})


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def last(reference: str) -> str:
    return reference.rpartition("/")[2]


def parameters_of(operation: dict[str, Any]) -> list[dict[str, Any]]:
    known = DOCUMENT["components"]["parameters"]
    given = operation.get("parameters", [])
    return [known[last(parameter["$ref"])] if "$ref" in parameter else parameter for parameter in given]


def test_document_is_valid_openapi() -> None:
    validate(DOCUMENT)
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_no_reference_dangles_and_no_component_is_unused() -> None:
    used = set(references(DOCUMENT))
    made = {
        f"#/components/{kind}/{name}"
        for kind in DOCUMENT["components"]
        for name in DOCUMENT["components"][kind]
    }
    assert used == made


def test_every_http_rule_is_described() -> None:
    described = {(verb.upper(), path) for path, verbs in DOCUMENT["paths"].items() for verb in verbs}
    ruled = {(route.verb, route.template.text.replace("=**", "")) for route in compile_routes(SERVICES)}
    assert described == ruled | {("GET", "/health")}


def test_operation_ids_are_unique_and_stable() -> None:
    ids = [parameter.values[2]["operationId"] for parameter in OPERATIONS]
    assert len(set(ids)) == len(ids)
    assert {
        "ChatService_CreateChatCompletion",
        "ChatService_CreateChatCompletion_post_engines_model_chat_completions",
        "ModelService_ListModels",
        "health",
    } <= set(ids)


@pytest.mark.parametrize(("path", "verb", "operation"), OPERATIONS)
def test_operation_is_described(path: str, verb: str, operation: dict[str, Any]) -> None:
    assert operation["summary"] and operation["description"]
    assert operation["tags"][0] in {tag["name"] for tag in DOCUMENT["tags"]}
    placed = {parameter["name"] for parameter in parameters_of(operation) if parameter["in"] == "path"}
    assert placed == set(re.findall(r"{([^}]+)}", path))
    assert all(parameter["description"] for parameter in parameters_of(operation))
    assert ("requestBody" in operation) == (verb == "post")
    assert all("$ref" in response or response["description"] for response in operation["responses"].values())
    if path == "/health":
        assert set(operation["responses"]) == {"200", "4XX", "503"}
        return
    headers = {parameter["name"] for parameter in parameters_of(operation) if parameter["in"] == "header"}
    assert headers >= {"x-request-timeout", "grpc-timeout", "x-request-id"}
    for status, response in operation["responses"].items():
        told = DOCUMENT["components"]["responses"][last(response["$ref"])] if "$ref" in response else response
        assert "x-request-id" in told["headers"]
        assert ("x-should-retry" in told["headers"]) == (status in ("409", "default"))
        for header in told["headers"].values():
            assert "$ref" not in header or last(header["$ref"]) in DOCUMENT["components"]["headers"]
    expected = {"200", "400", "404", "429", "503", "504", "default"}
    expected |= {"413", "415"} if verb == "post" else set()
    expected |= {"202"} if operation["operationId"] == "QueueService_Enqueue" else set()
    conflicting = ("Enqueue", "EnqueueAndWatch", "GetJob", "WatchJob", "CancelJob")
    expected |= {"409"} if operation["operationId"].removeprefix("QueueService_") in conflicting else set()
    assert set(operation["responses"]) == expected
    content = operation["responses"]["200"]["content"]
    assert set(content) == {"text/event-stream"} if ":stream" in path else "application/json" in content
    if verb == "post":
        assert operation["requestBody"]["description"]


@pytest.mark.parametrize(("path", "verb", "operation"), OPERATIONS)
def test_examples_run_as_they_are(path: str, verb: str, operation: dict[str, Any]) -> None:
    media = operation.get("requestBody", {"content": {}})["content"].get("application/json", {})
    examples = [media["example"]] if "example" in media else []
    examples += [example["value"] for example in media.get("examples", {}).values()]
    # A body that may be empty needs no example.
    assert examples or not operation.get("requestBody", {}).get("required")
    for example in examples:
        validator(media["schema"]).validate(example)
        named_in_path = {p["name"] for p in parameters_of(operation) if p["in"] == "path"}
        assert not named_in_path & example.keys()
    for parameter in parameters_of(operation):
        if "example" in parameter:
            validator(parameter["schema"]).validate(parameter["example"])


def test_every_field_of_the_contract_is_described() -> None:
    """No field is without a comment, so no member is without a description."""
    known = proto_comments.load()
    for service in SERVICES:
        assert known[service.full_name]
        for method in service.methods:
            assert known[method.full_name]
            for message in (method.input_type, method.output_type):
                assert all(known[field.full_name] for field in message.fields)
    assert "- `user`: The person" in DOCUMENT["components"]["schemas"]["Role"]["description"]


def event_of(success: dict[str, Any]) -> Draft202012Validator:
    """The schema of the data of one event."""
    stream = success["content"]["text/event-stream"]["schema"]
    assert (stream["type"], stream["contentMediaType"]) == ("string", "text/event-stream")
    return validator(stream["contentSchema"]["items"])


def test_a_path_that_streams_says_how() -> None:
    operation = DOCUMENT["paths"]["/v1/chat/completions"]["post"]
    examples = operation["requestBody"]["content"]["application/json"]["examples"]
    assert examples["stream"]["value"] == {**examples["whole"]["value"], "stream": True}
    success = operation["responses"]["200"]
    assert set(success["content"]) == {"application/json", "text/event-stream"}
    assert "data: [DONE]" in success["description"] and ": keep-alive" in success["description"]
    event = event_of(success)
    event.validate({"error": {"message": "m", "type": "server_error", "param": None, "code": "unavailable"}})
    chunk = chat_pb2.ChatCompletionChunk(id="chatcmpl-1", create_time={"seconds": 1}, model="m")
    chunk.choices.add(delta=chat_pb2.ChatDelta(content="Paris"))
    event.validate(as_json(chunk))
    assert "text/event-stream" not in DOCUMENT["paths"]["/v1/tokenize"]["post"]["responses"]["200"]["content"]


def test_a_path_that_always_streams_takes_the_same_body() -> None:
    """Clients of generators that know one type of answer for an operation can stream by this path only."""
    main = DOCUMENT["paths"]["/v1/chat/completions"]["post"]
    stream = DOCUMENT["paths"]["/v1/chat/completions:stream"]["post"]
    assert stream["operationId"] == "ChatService_StreamChatCompletion" and stream["tags"] == ["ChatService"]
    body, other = (
        operation["requestBody"]["content"]["application/json"]["schema"] for operation in (main, stream)
    )
    assert body == other
    event_of(stream["responses"]["200"]).validate({"error": as_json(full_job())["error"]})
    assert "data: [DONE]" in stream["responses"]["200"]["description"]
    assert "`POST /v1/chat/completions:stream` always streams." in main["description"]


def test_a_stream_of_news_is_of_chunks() -> None:
    path = DOCUMENT["paths"]["/queue/chat/completions/{id}"]
    operation = path["get"]
    (selector,) = (p for p in parameters_of(operation) if p["name"] == "stream")
    assert (selector["in"], selector["required"], selector["schema"]["type"]) == ("query", False, "boolean")
    success = operation["responses"]["200"]
    assert "`?stream=true`" in operation["description"] and "`?stream=true`" in success["description"]
    assert "one `ChatCompletionChunk`" in success["description"]
    assert "one `Job`" in success["description"]
    event = event_of(success)
    event.validate(as_json(chat_pb2.ChatCompletionChunk(create_time={"seconds": 1})))
    event.validate({"error": as_json(full_job())["error"]})
    assert not event.is_valid(as_json(queue_pb2.Job(state=queue_pb2.JOB_STATE_QUEUED)))
    assert "stream" not in {parameter["name"] for parameter in parameters_of(path["delete"])}


def test_work_that_may_outlast_its_call() -> None:
    enqueue = DOCUMENT["paths"]["/queue/chat/completions"]["post"]
    done, pending = enqueue["responses"]["200"], enqueue["responses"]["202"]
    always = {"x-request-id", "x-inferd-job", "x-inferd-ignored"}
    assert set(done["headers"]) == {*always, "Location", "Preference-Applied"}
    assert set(pending["headers"]) == {*always, "Location", "Preference-Applied", "Retry-After"}
    assert pending["content"]["application/json"] == done["content"]["application/json"]
    assert "text/event-stream" in done["content"] and "text/event-stream" not in pending["content"]
    parameters = {parameter["name"]: parameter for parameter in parameters_of(enqueue)}
    assert set(parameters) == {
        "x-request-timeout",
        "grpc-timeout",
        "x-request-id",
        "idempotency-key",
        "Prefer",
    }
    assert (parameters["Prefer"]["in"], parameters["Prefer"]["required"]) == ("header", False)
    get = DOCUMENT["paths"]["/queue/chat/completions/{id}"]["get"]
    assert set(get["responses"]["200"]["headers"]) == {"x-request-id", "Preference-Applied", "Retry-After"}
    chat = DOCUMENT["paths"]["/v1/chat/completions"]["post"]
    assert set(chat["responses"]["200"]["headers"]) == {"x-request-id", "x-inferd-ignored"}


def test_an_inline_message_has_no_member_of_its_own() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    request, job = schemas[JOB], schemas["Job"]
    assert "request" not in request["properties"] and "completion" not in job["properties"]
    own = {"priority", "not_before", "expires_after", "max_attempts", "webhook", "request_id", "wait_seconds"}
    own.add("runtime_priority")
    assert set(request["properties"]) == {*schemas[CHAT]["properties"], *own}
    assert request["required"] == ["model"]
    assert job["properties"]["object"]["const"] == "chat.completion"
    assert {"object", "id", "created", "model", "choices", "status"} <= set(job["required"])
    assert "usage" not in job["required"]
    # A name that both have is the job's.
    created = job["properties"]["created"]["description"]
    assert created == 'Time at which the job was queued. In JSON, also "created", in Unix seconds.'


def test_an_error_within_a_response_is_that_of_an_error_response() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    reference = "#/components/schemas/ErrorObject"
    assert schemas["Job"]["properties"]["error"]["$ref"] == reference
    assert schemas["ErrorResponse"]["properties"]["error"]["$ref"] == reference


def test_a_union_is_of_components() -> None:
    """Generators name a class after each component. Of two inline schemas with one title, they drop one."""
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["ResponseFormat"]["discriminator"]["mapping"]["json_schema"].endswith(
        "/ResponseFormatJsonSchema"
    )
    for name, schema in schemas.items():
        for form in schema.get("oneOf", []):
            assert "$ref" in form or form["type"] == "string", name
        for reference in schema.get("discriminator", {"mapping": {}})["mapping"].values():
            assert schema["discriminator"]["propertyName"] in schemas[last(reference)]["required"], name
    assert not [name for name, schema in schemas.items() if set(schema) & {"title", "default"}]
    # The member alone tells the kind of a tool.
    assert schemas["ToolFunction"]["required"] == ["function"]
    assert schemas["ToolCallOutputFunction"]["required"] == ["type", "id", "function"]
    delta = schemas["ToolCallDelta"]
    assert delta["required"] == ["index"] and delta["properties"]["type"]["enum"] == ["function", "custom"]


def test_a_member_that_is_always_sent_is_required() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert {"created", "usage"} <= set(schemas["ChatCompletion"]["required"])
    assert {"created", "usage"} <= set(schemas["Completion"]["required"])
    assert "message" in schemas["ChatChoice"]["required"]
    assert "delta" in schemas["ChatChunkChoice"]["required"]
    assert (
        "stream" not in schemas[CHAT]["required"] and "default" not in schemas[CHAT]["properties"]["stream"]
    )


def test_further_paths_are_told_at_the_first_one() -> None:
    main = DOCUMENT["paths"]["/v1/chat/completions"]["post"]
    for path in ("/chat/completions", "/engines/{model}/chat/completions"):
        assert f"`{path}`" in main["description"]
        alias = DOCUMENT["paths"][path]["post"]
        assert alias["tags"] == ["Aliases"] and alias["responses"] == main["responses"]
        assert alias["description"] == "The same as `POST /v1/chat/completions`."
    assert main["tags"] == ["ChatService"]
    assert DOCUMENT["tags"][-1]["name"] == "Aliases"


def test_an_operation_that_can_be_repeated_says_so() -> None:
    paths = DOCUMENT["paths"]
    for operation, is_safe in (
        (paths["/v1/models"]["get"], True),
        (paths["/queue/chat/completions/{id}"]["delete"], True),
        (paths["/queue/chat/completions"]["post"], False),
        (paths["/v1/chat/completions"]["post"], False),
    ):
        assert ("A request can be repeated safely." in operation["description"]) == is_safe


def test_constants_of_enums_are_unique() -> None:
    """In Go, the constants of all enums share one namespace."""
    enums = [schema for schema in DOCUMENT["components"]["schemas"].values() if "x-enum-varnames" in schema]
    names = [name for schema in enums for name in schema["x-enum-varnames"]]
    assert len(enums) > 5 and len(set(names)) == len(names)
    assert all(len(schema["x-enum-varnames"]) == len(schema["enum"]) for schema in enums)


def test_a_body_that_may_be_empty_is_not_required() -> None:
    paths = DOCUMENT["paths"]
    assert paths["/queue/chat/completions/{id}/cancel"]["post"]["requestBody"]["required"] is False
    assert paths["/queue/chat/completions"]["post"]["requestBody"]["required"] is True


def test_filters_of_a_list_are_parameters() -> None:
    operation = DOCUMENT["paths"]["/queue/chat/completions"]["get"]
    schemas = {p["name"]: p["schema"] for p in parameters_of(operation) if p["in"] == "query"}
    assert set(schemas) == {"limit", "page_token", "after", "status", "model", "order", "view"}
    validator(schemas["status"]).validate(["queued", "running"])
    assert not validator(schemas["order"]).is_valid("up")


def test_model_in_the_path_is_not_required_in_the_body() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    assert not component("CreateChatCompletionRequest").is_valid(body)
    operation = DOCUMENT["paths"]["/engines/{model}/chat/completions"]["post"]
    validator(operation["requestBody"]["content"]["application/json"]["schema"]).validate(body)
    (parameter,) = (p for p in parameters_of(operation) if p["in"] == "path")
    assert parameter["required"] and "slashes" in parameter["description"]
    assert parameter["example"] == "smollm2"


TEXT_PART = {"type": "text", "text": "Hi"}
USER = {"role": "user", "content": "Hi"}
FUNCTION = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "b": 1, "a": [None]}},
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}

CHAT, TEXT, JOB = "CreateChatCompletionRequest", "CreateCompletionRequest", "EnqueueRequest"
COUNT, TOKENS = "CountTokensRequest", "TokenizeRequest"
TAKEN: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {}),
    (CHAT, {"messages": [USER], "no_such_member": {"a": 1}}),
    (CHAT, {"messages": [{"role": "user", "content": [TEXT_PART, "and"]}]}),
    (CHAT, {"messages": [{"role": "user", "content": TEXT_PART}]}),
    (CHAT, {"messages": [{"role": "assistant", "content": None, "name": None}]}),
    (CHAT, {"messages": [{"role": "tool", "tool_call_id": "1", "content": []}]}),
    (CHAT, {"messages": None, "prompt": "Hi", "temperature": None}),
    (CHAT, {"stop": "a"}),
    (CHAT, {"stop": ["a", "b"]}),
    (CHAT, {"stop": []}),
    (CHAT, {"stop": None}),
    (CHAT, {"tools": [FUNCTION], "tool_choice": "auto"}),
    (CHAT, {"tools": [{"function": {"name": "mcp.server:tool/x_-1"}}]}),
    (CHAT, {"tool_choice": "none"}),
    (CHAT, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
    (CHAT, {"response_format": {"type": "text"}}),
    (CHAT, {"response_format": {"type": "json_object"}}),
    (CHAT, {"response_format": {"type": "json_object", "json_object": {}}}),
    (CHAT, {"response_format": JSON_SCHEMA}),
    (CHAT, {"logit_bias": {"5": -100, "6": 0.5}, "seed": -(2**63), "top_k": -1, "n": 128}),
    (TEXT, {"prompt": "Hi"}),
    (TEXT, {"prompt": ["Hi", "Ho"]}),
    (TEXT, {"prompt": [1, 2, 3]}),
    (TEXT, {"prompt": [[1, 2], [3]]}),
    (TEXT, {"prompt": ["Hi", [3]]}),
    (TEXT, {"prompt": []}),
    (TEXT, {"prompt": [[]]}),
    (TEXT, {"max_tokens": 0, "logprobs": 20, "temperature": 2, "top_p": 1}),
    (COUNT, {"messages": [USER], "logprobs": True}),
    (COUNT, {"prompt": [[1, 2]], "logprobs": 5}),
    (TOKENS, {"input_ids": [1], "add_special_tokens": False}),
    (TOKENS, {"prompt": ["Hi"], "add_special_tokens": None}),
    (JOB, {"messages": [USER], "temperature": 1, "stop": "a"}),
    (JOB, {"priority": -1000000, "max_attempts": None, "request_id": "r", "wait_seconds": 3600}),
    (JOB, {"not_before": "2026-11-23T18:00:00Z", "expires_after": "3600s"}),
    (JOB, {"not_before": 1800000000.5, "expires_after": 3600}),
    (JOB, {"not_before": None, "expires_after": "1.5s"}),
    (JOB, {"webhook": "https://a.example"}),
    (JOB, {"webhook": {"url": "https://a.example", "secret": None}}),
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"model": ""}),
    (CHAT, {"model": None}),
    (CHAT, {"model": "m" * 513}),
    (CHAT, {"messages": USER}),
    (CHAT, {"messages": [{"content": "Hi"}]}),
    (CHAT, {"messages": [{"role": "robot", "content": "Hi"}]}),
    (CHAT, {"messages": [{"role": "user", "content": 5}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "smell", "text": "Hi"}]}]}),
    (CHAT, {"stop": 5}),
    (CHAT, {"stop": [5]}),
    (CHAT, {"stop": ["a"] * 33}),
    (CHAT, {"stop": "a" * 1025}),
    (CHAT, {"tools": [{"type": "function", "function": {}}]}),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "é"}}]}),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "a" * 257}}]}),
    (CHAT, {"functions": [{"name": ""}]}),
    (CHAT, {"tool_choice": "maybe"}),
    (CHAT, {"tool_choice": {"type": "function"}}),
    (CHAT, {"tool_choice": {"type": "function", "function": {"name": ""}}}),
    (CHAT, {"response_format": "text"}),
    (CHAT, {"response_format": {"type": "json_schema"}}),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "s"}}}),
    (CHAT, {"response_format": {"type": "xml"}}),
    (CHAT, {"temperature": 2.5}),
    (CHAT, {"temperature": "1"}),
    (CHAT, {"top_p": 0}),
    (CHAT, {"n": 0}),
    (CHAT, {"n": 1.5}),
    (CHAT, {"top_k": -2}),
    (CHAT, {"max_tokens": 0}),
    (CHAT, {"min_tokens": -1}),
    (CHAT, {"seed": 2**63}),
    (CHAT, {"logit_bias": {"5": 101}}),
    (TEXT, {"prompt": 5}),
    (TEXT, {"prompt": [-1]}),
    (TEXT, {"prompt": [1, "Hi"]}),
    (TEXT, {"prompt": {"text": "Hi"}}),
    (TEXT, {"prompt": ["Hi"] * 1025}),
    (COUNT, {"prompt": "Hi", "model": None}),
    (TOKENS, {"prompt": "Hi", "add_special_tokens": "no"}),
    (JOB, {"model": None}),
    (JOB, {"temperature": 3}),
    (JOB, {"messages": [{"content": "Hi"}]}),
    (JOB, {"priority": 1000001}),
    (JOB, {"max_attempts": 0}),
    (JOB, {"not_before": True}),
    (JOB, {"not_before": {"seconds": 5}}),
    (JOB, {"expires_after": "3600"}),
    (JOB, {"webhook": {"secret": "s"}}),
    (JOB, {"request_id": "r" * 256}),
]
MESSAGES: dict[str, type[Message]] = {
    CHAT: chat_pb2.CreateChatCompletionRequest,
    TEXT: completion_pb2.CreateCompletionRequest,
    JOB: queue_pb2.EnqueueRequest,
    COUNT: tokenize_pb2.CountTokensRequest,
    TOKENS: tokenize_pb2.TokenizeRequest,
}


def server_takes(name: str, body: dict[str, Any]) -> bool:
    try:
        check_limits(Decoder(MESSAGES[name].DESCRIPTOR).decode(body))
    except ServiceError:
        return False
    return True


@pytest.mark.parametrize(("name", "members"), TAKEN)
def test_schema_takes_what_the_server_takes(name: str, members: dict[str, Any]) -> None:
    body = {"model": "m", **members}
    assert server_takes(name, body)
    component(name).validate(body)


@pytest.mark.parametrize(("name", "members"), REFUSED)
def test_schema_refuses_what_the_server_refuses(name: str, members: dict[str, Any]) -> None:
    body = {"model": "m", **members}
    assert not server_takes(name, body)
    assert not component(name).is_valid(body)


def as_json(message: Message) -> Any:
    return json.loads(Encoder(message.DESCRIPTOR).encode(message))


def full_chat() -> chat_pb2.ChatCompletion:
    answer = chat_pb2.ChatCompletion(id="chatcmpl-1", create_time={"seconds": 2**37}, model="m")
    choice = answer.choices.add(finish_reason=sampling_pb2.FINISH_REASON_STOP)
    choice.message.role = message_pb2.ROLE_ASSISTANT
    choice.message.content = "Paris"
    token = choice.logprobs.content.add(token="Paris", logprob=-0.5, bytes=b"Paris")
    token.top_logprobs.add(token="Rome", logprob=-2, bytes=b"\xff")
    answer.usage.prompt_tokens_details.cached_tokens = 1
    return answer


def full_text() -> completion_pb2.Completion:
    answer = completion_pb2.Completion(id="cmpl-1", create_time={"seconds": 1}, usage={})
    logprobs = answer.choices.add(text="a").logprobs
    logprobs.tokens.append("a")
    logprobs.token_logprobs.add()
    logprobs.token_logprobs.add(logprob=-1)
    logprobs.top_logprobs.add()
    logprobs.top_logprobs.add().top.logprobs.add(token="a", logprob=-1)
    return answer


def full_job() -> queue_pb2.Job:
    job = queue_pb2.Job(id="chatcmpl-1", state=queue_pb2.JOB_STATE_FAILED, completion=full_chat())
    job.create_time.GetCurrentTime()
    job.error.CopyFrom(invalid("model", "model: no").to_status())
    job.webhook.state = queue_pb2.DELIVERY_STATE_PENDING
    return job


@pytest.mark.parametrize(
    "message",
    [
        queue_pb2.Job(state=queue_pb2.JOB_STATE_QUEUED, create_time={"seconds": 1}),
        full_job(),
        queue_pb2.ListJobsResponse(jobs=[full_job()]),
        queue_pb2.DeleteJobResponse(id="chatcmpl-1", deleted=True),
        queue_pb2.QueueStats(models=[queue_pb2.ModelQueue(oldest_queued_time={"seconds": 5})]),
        full_chat(),
        chat_pb2.ChatCompletionChunk(create_time={"seconds": 1}, choices=[{"delta": {}}]),
        full_text(),
        models_pb2.ListModelsResponse(models=[{"id": "m", "aliases": ["n"], "create_time": {}}]),
        tokenize_pb2.TokenizeResponse(),
        tokenize_pb2.CountTokensResponse(total_tokens=3),
    ],
    ids=lambda message: message.DESCRIPTOR.name,
)
def test_responses_follow_their_schemas(message: Message) -> None:
    component(message.DESCRIPTOR.name).validate(as_json(message))


def test_response_schema_holds_what_is_always_there() -> None:
    empty = as_json(chat_pb2.ChatCompletion(create_time={}, usage={}))
    for member in empty:
        assert not component("ChatCompletion").is_valid({k: v for k, v in empty.items() if k != member})
    assert not component("ChatCompletion").is_valid({**empty, "object": "other"})
    assert DOCUMENT["components"]["schemas"]["ListModelsResponse"]["required"] == ["object", "data"]


@pytest.fixture(scope="module")
def site() -> Iterator[httpx.Client]:
    """The page, served on a real socket."""
    app = Starlette(routes=docs_routes(DOCUMENT))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def test_openapi_json(site: httpx.Client) -> None:
    response = site.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == DOCUMENT


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_page_needs_no_other_host(site: httpx.Client, path: str) -> None:
    page = site.get(path)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "<title>inferd</title>" in page.text and "//" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'self';")
    types = {}
    for reference in re.findall(r'(?:href|src)="([^"]*)"', page.text):
        response = site.get(reference)
        assert response.status_code == 200 and response.content, reference
        types[reference] = response.headers["content-type"].partition(";")[0]
    assert types == {
        "/docs/swagger-ui.css": "text/css",
        "/docs/favicon-32x32.png": "image/png",
        "/docs/favicon-16x16.png": "image/png",
        "/docs/swagger-ui-bundle.js": "text/javascript",
        "/docs/start.js": "text/javascript",
    }
    assert "//" not in site.get("/docs/start.js").text
    assert not re.search(r"@import|url\((?!['\"]?data:)", site.get("/docs/swagger-ui.css").text)


@pytest.mark.parametrize("name", ["swagger-ui.js", "index.html", "../docs.py", "swagger-ui-bundle.js.map"])
def test_only_the_needed_files_are_served(site: httpx.Client, name: str) -> None:
    assert site.get(f"/docs/{name}").status_code == 404
