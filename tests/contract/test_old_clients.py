"""The first clients against this server: every RPC is called by messages of the first contract's descriptors.

A client of an older inferd.v1 knows no field, enum value or arm of a union that came later, and needs none.
"""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.api import annotations_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from inferd.options.v1 import options_pb2
from tests.contract import first_contract
from tests.contract.first_contract import METHODS, options_of

CHAT: dict[str, Any] = {
    "model": "small",
    "messages": [{"role": "ROLE_USER", "content": [{"text": "Hello"}]}],
    "max_tokens": 3,
}
TEXT: dict[str, Any] = {"model": "small", "prompt": [{"text": "Hello"}], "max_tokens": 3}
ADAPTED: dict[str, Any] = {
    **CHAT,
    "n": 2,
    "logprobs": True,
    "top_logprobs": 2,
    "temperature": 0.5,
    "stop": ["zzz"],
}
LATER: dict[str, Any] = {"request": CHAT, "not_before": "2099-01-01T00:00:00Z"}

#: Requests of each RPC, and fields that its response, or the responses of a stream together, must have. JOB
#: stands for the id of a job that waits.
CALLS: dict[str, list[tuple[dict[str, Any], set[str]]]] = {
    "ChatService.CreateChatCompletion": [
        (CHAT, {"id", "model", "choices.message.content", "choices.finish_reason", "usage.total_tokens"}),
        (ADAPTED, {"choices.index", "choices.logprobs.content.token"}),
    ],
    "ChatService.StreamChatCompletion": [
        (CHAT, {"id", "model", "choices.delta.content", "choices.finish_reason"}),
        ({**CHAT, "stream_options": {"include_usage": True}}, {"usage.total_tokens"}),
    ],
    "CompletionService.CreateCompletion": [
        (TEXT, {"id", "model", "choices.text", "choices.finish_reason", "usage.total_tokens"}),
    ],
    "CompletionService.StreamCompletion": [(TEXT, {"id", "model", "choices.text", "choices.finish_reason"})],
    "TokenizeService.CountTokens": [
        ({"chat": CHAT}, {"total_tokens"}),
        ({"completion": TEXT}, {"total_tokens"}),
    ],
    "TokenizeService.Tokenize": [({"chat": CHAT}, {"tokens", "count"}), ({"completion": TEXT}, {"tokens"})],
    "TokenizeService.Detokenize": [({"model": "small", "tokens": [72, 73]}, {"text"})],
    "ModelService.ListModels": [({}, {"models.id", "models.create_time.seconds"})],
    "ModelService.GetModel": [({"model": "small"}, {"id", "max_model_len"})],
    "QueueService.Enqueue": [
        ({"request": CHAT, "wait": "30s"}, {"id", "state", "completion.choices.message.content"}),
        (LATER, {"id", "state"}),
    ],
    "QueueService.EnqueueAndWatch": [
        ({"request": CHAT}, {"job.id", "job.state", "chunk.choices.delta.content"})
    ],
    "QueueService.GetJob": [({"id": "JOB"}, {"id", "state"})],
    "QueueService.WatchJob": [({"id": "JOB"}, {"job.id"})],
    "QueueService.WaitJob": [({"id": "JOB", "timeout": "0.01s"}, {"id", "state"})],
    "QueueService.ListJobs": [({"page_size": 5}, {"jobs.id"})],
    "QueueService.CancelJob": [({"id": "JOB"}, {"id", "state"})],
    "QueueService.DeleteJob": [({"id": "JOB"}, {"id"})],
    "QueueService.GetQueueStats": [({}, {"queued", "models.model"})],
}


#: The methods whose protos have an example of a request in JSON.
EXAMPLES = [name for name, method in METHODS.items() if options_of(method).Extensions[options_pb2.example]]


class OldClient:
    """Calls methods by the messages of the first contract."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def call(self, name: str, fields: dict[str, Any]) -> list[Message]:
        """The response, or the responses of a stream; of WatchJob, which may last, the first one."""
        method = METHODS[f"inferd.v1.{name}"]
        request = ParseDict(fields, GetMessageClass(method.input_type)(), descriptor_pool=first_contract.POOL)
        path = f"/{method.containing_service.full_name}/{method.name}"
        kind = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        read = GetMessageClass(method.output_type).FromString
        running = kind(path, type(request).SerializeToString, read)(request, timeout=60)
        if not method.server_streaming:
            return [await running]
        found = []
        async for response in running:
            found.append(response)
            if name == "QueueService.WatchJob":
                running.cancel()
                break
        return found


def paths(message: Message) -> Iterator[str]:
    """The names of all fields that are set, with the names of the fields around them."""
    for field, value in message.ListFields():
        yield field.name
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for each in value if field.is_repeated else [value]:
            yield from (f"{field.name}.{path}" for path in paths(each))


def unknown_values(message: Message) -> Iterator[str]:
    """The fields with values of enums that an old client does not know."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        if field.enum_type is not None:
            yield from (field.full_name for each in values if each not in field.enum_type.values_by_number)
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in values:
                yield from unknown_values(each)


def test_every_method_of_the_first_contract_is_called():
    assert set(METHODS) == {f"inferd.v1.{name}" for name in CALLS}


@pytest.mark.parametrize("name", CALLS)
async def test_an_old_client_gets_the_answers_it_knows(start_inferd, name):
    inferd = await start_inferd()
    async with inferd.channel() as channel:
        client = OldClient(channel)
        for fields, expected in CALLS[name]:
            (job,) = await client.call("QueueService.Enqueue", LATER)
            text = json.dumps(fields).replace("JOB", job.id)
            responses = await client.call(name, json.loads(text))
            found = {path for response in responses for path in paths(response)}
            assert expected <= found, expected - found
            assert not [enum for response in responses for enum in unknown_values(response)]


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_old_example_is_answered_at_each_path(start_inferd, name):
    inferd = await start_inferd()
    options = options_of(METHODS[name])
    body = json.loads(options.Extensions[options_pb2.example])
    body["model"] = "small"
    if "tokens" in body:
        # The tests' model has fewer tokens than the example's.
        body["tokens"] = [72, 73]
    rule = options.Extensions[annotations_pb2.http]
    async with inferd.http() as http:
        for binding in (rule, *rule.additional_bindings):
            verb = binding.WhichOneof("pattern")
            path = getattr(binding, verb).replace("{model=**}", "small")
            response = await http.request(verb.upper(), path, json=body)
            assert response.status_code in (200, 202), (path, response.text)
