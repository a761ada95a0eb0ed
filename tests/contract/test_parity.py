"""REST and gRPC say the same: a corpus of requests by both, compared in all that a client learns."""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import orjson
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from inferd.options.v1 import options_pb2
from inferd.rest_bridge.decode import Decoder
from inferd.rest_bridge.encode import Encoder
from inferd.rest_bridge.errors import status_of
from inferd.rest_bridge.field_spelling import field_speller
from inferd.services.app.service_descriptors import SERVICES
from inferd.services.errors import DOMAIN
from tests.contract.corpus import GROUPS, Case

METHODS = {method.name: method for service in SERVICES for method in service.methods}
#: Ids of completions, jobs and calls, and times: they differ from call to call.
_ID = re.compile(r"\b(chatcmpl|cmpl|call)([-_])[0-9a-f]{24,32}")
_TIME = re.compile(r'"(created|[a-z]+_time)":("[^"]*"|[0-9]+)')


@dataclass
class Outcome:
    """What a client learns of a call."""

    status: int
    error: dict[str, Any] | None = None
    retry_after: int | None = None
    request_id: str = ""
    ignored: str | None = None
    answers: list[Any] = field(default_factory=list)


@pytest.fixture(params=["in process", "over a channel"])
def transport(request) -> str:
    return request.param


def test_the_corpus_is_large():
    cases = [case for group in GROUPS.values() for case in group]
    assert len(cases) >= 200


@pytest.mark.parametrize("group", GROUPS)
async def test_both_protocols_say_the_same(start_inferd, group):
    inferd = await start_inferd()
    failures = []
    async with inferd.http() as http, inferd.channel() as channel:
        for number, case in enumerate(GROUPS[group]):
            by_rest = await rest_outcome(http, case, f"r-{number}")
            by_grpc = await grpc_outcome(channel, case, f"r-{number}")
            if by_rest != by_grpc:
                failures.append(f"{case.name}\n  REST {by_rest}\n  gRPC {by_grpc}")
    assert not failures, "\n".join(failures)


async def send(http: httpx.AsyncClient, case: Case, request_id: str) -> httpx.Response:
    """The answer to a case by REST."""
    headers = {"x-request-id": request_id}
    if case.path:
        return await http.request(case.verb, case.path, headers=headers)
    rule = METHODS[case.method].GetOptions().Extensions[annotations_pb2.http]
    body = {**case.body, **({"stream": True} if case.streamed else {})}
    return await http.post(rule.post, json=body, headers=headers)


async def rest_outcome(http: httpx.AsyncClient, case: Case, request_id: str) -> Outcome:
    response = await send(http, case, request_id)
    outcome = Outcome(
        status=response.status_code,
        request_id=response.headers["x-request-id"],
        ignored=response.headers.get("x-inferd-ignored"),
    )
    if "retry-after" in response.headers and response.status_code >= 400:
        outcome.retry_after = int(response.headers["retry-after"])
    if response.headers["content-type"].startswith("text/event-stream"):
        events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
        assert events.pop() == "[DONE]"
        outcome.answers = joined([plain(json.loads(event)) for event in events])
    elif response.status_code >= 400:
        outcome.error = response.json()["error"]
    else:
        # A job's status tells whether it has ended, and a job may end at any time.
        outcome.status = 200
        outcome.answers = [without_state(plain(response.json()))]
    return outcome


async def grpc_outcome(channel: grpc.aio.Channel, case: Case, request_id: str) -> Outcome:
    method = METHODS[case.method]
    request = Decoder(method.input_type).decode(case.body)
    if case.streamed:
        method = METHODS[method.GetOptions().Extensions[options_pb2.streaming].rpc]
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = channel.unary_stream if case.streamed else channel.unary_unary
    read = GetMessageClass(method.output_type).FromString
    call = kind(path, lambda message: message.SerializeToString(), read)(
        request, metadata=(("x-request-id", request_id),), timeout=60
    )
    outcome = Outcome(200)
    try:
        if case.streamed:
            outcome.answers = joined(spelled(method, [message async for message in call]))
        else:
            outcome.answers = [without_state(plain(Encoder(method.output_type).to_json(await call)))]
    except grpc.aio.AioRpcError as error:
        outcome.error, outcome.retry_after = as_json(error, METHODS[case.method])
        outcome.status = status_of(str(outcome.error["code"]).upper())
    # A response of trailers only has all metadata in them.
    metadata = dict((*await call.initial_metadata(), *await call.trailing_metadata()))
    outcome.request_id = metadata["x-request-id"]
    outcome.ignored = metadata.get("x-inferd-ignored")
    return outcome


def as_json(error: grpc.aio.AioRpcError, method: MethodDescriptor) -> tuple[dict[str, Any], int | None]:
    """The error in the form of REST, made from gRPC's details alone; and the seconds to wait."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for detail in status.details:
        for known in (info, bad, retry):
            detail.Unpack(known)
    assert info.domain == DOMAIN
    http_status = status_of(info.reason)
    param, message = None, status.message
    if bad.field_violations:
        violation = bad.field_violations[0]
        param = field_speller(method.input_type)(violation.field)
        assert (violation.reason, violation.description) == (info.reason, status.message)
        if param != violation.field:
            message = message.replace(violation.field, param)
    kinds = {429: "rate_limit_error"}
    kind = "server_error" if http_status >= 500 else kinds.get(http_status, "invalid_request_error")
    found = {"message": message, "type": kind, "param": param, "code": info.reason.lower()}
    if info.metadata:
        found["metadata"] = dict(info.metadata)
    seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return found, math.ceil(seconds) if seconds else None


def spelled(method: MethodDescriptor, messages: list[Any]) -> list[Any]:
    """The chunks of a stream as JSON. The members of the first chunk that the others repeat are filled in."""
    chunks = [
        getattr(each, "chunk", each)
        for each in messages
        if each.DESCRIPTOR.name != "JobEvent" or each.HasField("chunk")
    ]
    first = chunks[0] if chunks else None
    found = []
    for chunk in chunks:
        if chunk is not first:
            assert not (chunk.id or chunk.model or chunk.HasField("create_time"))
            chunk.id, chunk.model = first.id, first.model
            chunk.create_time.CopyFrom(first.create_time)
        found.append(plain(Encoder(chunk.DESCRIPTOR).to_json(chunk)))
    return found


def plain(document: Any) -> Any:
    """A JSON document without ids and times."""
    text = orjson.dumps(document).decode()
    return json.loads(_TIME.sub(r'"\1":0', _ID.sub(r"\1\2ID", text)))


def without_state(document: Any) -> Any:
    """An answer, or a job without what depends on how far it has come."""
    if isinstance(document, dict) and "attempts" in document:
        return {name: document[name] for name in ("object", "model", "priority", "max_attempts")}
    return document


def joined(chunks: list[dict[str, Any]]) -> list[Any]:
    """The chunks of a stream, joined by choice: which tokens come in one chunk depends on the time."""
    choices: dict[int, Any] = {}
    others: list[Any] = []
    for chunk in chunks:
        for choice in chunk.pop("choices"):
            index = choice["index"]
            choices[index] = merged(choices.get(index), choice)
        others.append(chunk)
    usage = [chunk.pop("usage") for chunk in others if "usage" in chunk][-1:]
    prompt_tokens = [chunk.pop("prompt_token_ids") for chunk in others if "prompt_token_ids" in chunk]
    assert all(chunk == others[0] for chunk in others)
    return [choices, usage, prompt_tokens, others[:1]]


def merged(left: Any, right: Any) -> Any:
    match left, right:
        case None, _:
            return right
        case _, None:
            return left
        case dict(), dict():
            return {
                key: merged(left.get(key), right.get(key))
                if key not in ("index", "type", "role", "id")
                else right.get(key, left.get(key))
                for key in left | right
            }
        case list(), list():
            return left + right
        case str(), str():
            return left + right
        case _:
            return right
