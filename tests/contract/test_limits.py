"""Both sides of each limit of the contract, on a live server; and the limits that comments state."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from inferd.rest_bridge import proto_comments
from inferd.services.errors import DOMAIN
from tests.contract.requests import Place, element, is_required, places

COMMENTS = proto_comments.load()
PLACES = list(places())
LIMITED = [place for place in PLACES if place.limits.ListFields()]
REQUIRED = [place for place in PLACES if is_required(place.field)]
ENUMS = [place for place in PLACES if place.field.enum_type is not None]
UNIONS = [
    place
    for place in PLACES
    if place.field.message_type is not None
    and any(len(oneof.fields) > 1 for oneof in place.field.message_type.oneofs)
]
#: Fields whose comments state ranges that no limit holds. `test_stated_ranges` tries them.
ELSEWHERE = {"inferd.v1.EnqueueRequest.expires_after", "inferd.v1.Webhook.secret"}
#: A number of a comment, and a range such as "0 to 2" or "up to 128 characters".
_NUMBER = r"-?\d+(?:\.\d+)?"
_STATED = re.compile(rf"({_NUMBER}) to ({_NUMBER})|up to ({_NUMBER})|({_NUMBER}) or more")


class Refusal(NamedTuple):
    """The reason, field and limit of an error. The limit is None if it is not one of the protos."""

    reason: str
    field: str
    limit: str | None


def name_of(place: Place) -> str:
    return place.field.full_name.removeprefix("inferd.v1.")


async def refusal(channel: grpc.aio.Channel, place: Place, request: Message) -> Refusal | None:
    """How the server refuses the request. None: it answers."""
    method = place.method
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = kind(path, request_serializer=lambda message: message.SerializeToString())(request, timeout=60)
    try:
        if method.server_streaming:
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)
        assert status is not None, error
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in status.details:
            for known in (info, bad):
                detail.Unpack(known)
        assert info.domain == DOMAIN
        field = bad.field_violations[0].field if bad.field_violations else ""
        return Refusal(info.reason, field, info.metadata.get("limit"))
    return None


def sides(place: Place) -> Iterator[tuple[Any, bool]]:
    """Values at the limits of a field and beyond them, each with whether it is within."""
    field, limits = place.field, place.limits
    one = element(field) if not _is_map(field) else None
    if limits.max_length:
        yield _held(field, "x" * limits.max_length), True
        yield _held(field, "x" * (limits.max_length + 1)), False
    if limits.max_items and _is_map(field):
        yield _entries(field, limits.max_items), True
        yield _entries(field, limits.max_items + 1), False
    elif limits.max_items:
        yield [one] * limits.max_items, True
        yield [one] * (limits.max_items + 1), False
    step = 1.0 if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE or _is_map(field) else 1
    if limits.HasField("min"):
        yield _number(field, limits.min), True
        yield _number(field, limits.min - step), False
    if limits.HasField("max"):
        yield _number(field, limits.max), True
        yield _number(field, limits.max + step), False
    if limits.HasField("above"):
        yield _number(field, limits.above + 1e-9), True
        yield _number(field, limits.above), False


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _held(field: FieldDescriptor, value: Any) -> Any:
    return [value] if field.is_repeated else value


def _entries(field: FieldDescriptor, count: int) -> dict[Any, Any]:
    key, value = field.message_type.fields
    texts = key.cpp_type == FieldDescriptor.CPPTYPE_STRING
    return {
        str(i) if texts else i: "x" if value.cpp_type == FieldDescriptor.CPPTYPE_STRING else 1
        for i in range(count)
    }


def _number(field: FieldDescriptor, value: float) -> Any:
    if _is_map(field):
        return {1: value}
    if field.message_type is not None:
        return {"seconds": int(value)}
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return value
    # A number that the type cannot hold is never sent.
    return (
        int(value)
        if value >= 0 or field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
        else None
    )


@pytest.fixture
async def channel(start_inferd, transport, tmp_path):
    inferd = await start_inferd(queue={"url": f"sqlite:///{tmp_path}/queue.db"})
    async with inferd.channel() as channel:
        yield channel


@pytest.mark.parametrize("place", LIMITED, ids=name_of)
async def test_both_sides_of_each_limit(channel, place):
    for value, within in sides(place):
        if value is None:
            continue
        found = await refusal(channel, place, place.request(value))
        broken = found is not None and found.limit is not None
        assert broken is not within, (value, found)
        if found is not None and broken:
            assert found.reason == "OUT_OF_RANGE"
            assert re.sub(r"\[[^]]*\]$", "", found.field) == place.path


@pytest.mark.parametrize("place", REQUIRED, ids=name_of)
async def test_required_fields(channel, place):
    reason, field, _ = await refusal(channel, place, place.request(None))
    assert reason == "REQUIRED_FIELD_MISSING"
    assert field == place.path


@pytest.mark.parametrize("place", ENUMS, ids=name_of)
async def test_values_that_an_enum_does_not_have_are_refused(channel, place):
    reason, field, _ = await refusal(channel, place, place.request([99] if place.field.is_repeated else 99))
    assert reason == "INVALID_ARGUMENT"
    assert field.removesuffix("[0]") == place.path


@pytest.mark.parametrize("place", UNIONS, ids=name_of)
async def test_a_union_without_an_arm_is_refused(channel, place):
    reason, field, _ = await refusal(channel, place, place.request([{}] if place.field.is_repeated else {}))
    assert reason == "REQUIRED_FIELD_MISSING"
    assert field.removesuffix("[0]") == place.path


@pytest.mark.parametrize("place", LIMITED, ids=name_of)
def test_comments_state_the_limits(place):
    text, limits = COMMENTS[place.field.full_name], place.limits
    for number in (limits.max_items, limits.max_length, limits.max if limits.HasField("max") else 0):
        assert not number or f"{number:g}" in text.replace(",", "") or str(int(number)) in text, (
            number,
            text,
        )
    if limits.HasField("above"):
        assert f"above {limits.above:g}" in text


@pytest.mark.parametrize("place", REQUIRED, ids=name_of)
def test_comments_state_what_is_required(place):
    assert "Required" in COMMENTS[place.field.full_name]


@pytest.mark.parametrize("place", PLACES, ids=name_of)
def test_stated_ranges_are_limits(place):
    """A range that a comment states is a limit of the field, except in `ELSEWHERE`."""
    text = COMMENTS[place.field.full_name]
    if place.field.full_name in ELSEWHERE:
        return
    limits = place.limits
    known = {limits.min, limits.max, limits.above, limits.max_items, limits.max_length, 0, 1}
    stated = {float(number) for found in _STATED.findall(text) for number in found if number}
    assert stated <= {float(number) for number in known}, (stated - known, text)
