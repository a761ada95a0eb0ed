"""Clients of a later inferd.v1 against this server: what it does not know is ignored, or refused by name.

A later version is stood for by field numbers, enum values and words that no proto has.
"""

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from inferd.v1 import chat_pb2, message_pb2, sampling_pb2

#: A field of a number that no message has: a varint of value 1, and a string.
NEW_NUMBER = b"\xf8\xfc\x03\x01"
NEW_STRING = b"\xfa\xfc\x03\x01x"
CHAT: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


def request(**fields: Any) -> chat_pb2.CreateChatCompletionRequest:
    content = [message_pb2.ContentPart(text="Hello")]
    messages = [message_pb2.Message(role=message_pb2.ROLE_USER, content=content)]
    return chat_pb2.CreateChatCompletionRequest(model="small", messages=messages, max_tokens=2, **fields)


async def call(inferd: Any, data: bytes, method: str = "ChatService/CreateChatCompletion") -> Any:
    async with inferd.channel() as channel:
        return await channel.unary_unary(f"/inferd.v1.{method}", None, chat_pb2.ChatCompletion.FromString)(
            data
        )


async def refusal(
    inferd: Any, data: bytes, method: str = "ChatService/CreateChatCompletion"
) -> tuple[Any, str, str]:
    """The code, the reason and the field of the error."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(inferd, data, method)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in rpc_status.from_call(raised.value).details:
        detail.Unpack(info)
        detail.Unpack(bad)
    return raised.value.code(), info.reason, "".join(each.field for each in bad.field_violations)


@pytest.mark.parametrize("new", [NEW_NUMBER, NEW_STRING])
async def test_a_new_field_is_ignored(start_inferd, new):
    inferd = await start_inferd()
    answer = await call(inferd, request().SerializeToString() + new)
    assert answer.choices[0].message.content
    message = message_pb2.Message.FromString(request().messages[0].SerializeToString() + new)
    asked = chat_pb2.CreateChatCompletionRequest(model="small", messages=[message], max_tokens=2)
    assert (await call(inferd, asked.SerializeToString())).choices[0].message.content


async def test_a_new_arm_of_a_union_is_refused(start_inferd):
    inferd = await start_inferd()
    kinds = {"response_format": sampling_pb2.ResponseFormat, "tool_choice": chat_pb2.ToolChoice}
    for field, kind in kinds.items():
        asked = request(**{field: kind.FromString(NEW_STRING)})
        code, reason, path = await refusal(inferd, asked.SerializeToString())
        assert (code, reason, path) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUIRED_FIELD_MISSING", field)


async def test_a_new_value_of_an_enum_is_refused(start_inferd):
    inferd = await start_inferd()
    asked = request()
    asked.messages[0].role = 99
    code, reason, path = await refusal(inferd, asked.SerializeToString())
    assert (code, reason, path) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "messages[0].role")


async def test_a_new_method_is_not_there(start_inferd):
    inferd = await start_inferd()
    code, reason, _ = await refusal(inferd, b"", "ChatService/NewMethod")
    assert (code, reason) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_NOT_FOUND")


async def test_rest_does_the_same(start_inferd):
    inferd = await start_inferd()
    async with inferd.http() as http:

        async def answer(**members: Any) -> tuple[int, str | None]:
            response = await http.post("/v1/chat/completions", json={**CHAT, **members})
            return response.status_code, response.json().get("error", {}).get("param")

        assert await answer(new_member=1) == (200, None)
        assert await answer(response_format={"type": "new_type"}) == (400, "response_format.type")
        assert await answer(messages=[{"role": "new_role", "content": "a"}]) == (400, "messages[0].role")
        response = await http.post("/v1/new_path", json=CHAT)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "path_not_found")
