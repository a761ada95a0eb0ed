"""Errors over real sockets: status, JSON body and headers, for whole answers and streams."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from inferd.services.errors import ServiceError, invalid
from tests.support.rest_server import (
    Rest,
    connect,
    error_of,
    http_request,
    read_response,
    rest_fixture,
    within,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
rest = rest_fixture


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("CANCELLED", 499, "invalid_request_error"),
        ("UNKNOWN", 500, "server_error"),
        ("INVALID_ARGUMENT", 400, "invalid_request_error"),
        ("DEADLINE_EXCEEDED", 504, "server_error"),
        ("NOT_FOUND", 404, "invalid_request_error"),
        ("ALREADY_EXISTS", 409, "invalid_request_error"),
        ("PERMISSION_DENIED", 403, "permission_error"),
        ("RESOURCE_EXHAUSTED", 429, "rate_limit_error"),
        ("FAILED_PRECONDITION", 409, "invalid_request_error"),
        ("ABORTED", 409, "invalid_request_error"),
        ("OUT_OF_RANGE", 400, "invalid_request_error"),
        ("UNIMPLEMENTED", 501, "server_error"),
        ("INTERNAL", 500, "server_error"),
        ("UNAVAILABLE", 503, "server_error"),
        ("DATA_LOSS", 500, "server_error"),
        ("UNAUTHENTICATED", 401, "authentication_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors(rest: Rest, code: str, status: int, kind: str, stream: bool) -> None:
    async def unary(request: Any, context: Any) -> Any:
        raise ServiceError(grpc.StatusCode[code], "SOME_REASON", "what happened: ünïcode")

    async def events(request: Any, context: Any) -> AsyncIterator[Any]:
        await unary(request, context)
        yield

    response = await rest.say(rest.on(events if stream else unary), stream=stream)
    assert response.status_code == status
    assert error_of(response) == {
        "message": "what happened: ünïcode",
        "type": kind,
        "param": None,
        "code": "some_reason",
    }


@pytest.mark.parametrize(
    ("code", "final"),
    [("FAILED_PRECONDITION", True), ("ALREADY_EXISTS", True), ("ABORTED", False), ("UNAVAILABLE", False)],
)
async def test_conflicts_that_stay_are_not_sent_again(rest: Rest, code: str, final: bool) -> None:
    """OpenAI's SDKs repeat every 409 that does not say this."""

    async def handler(request: Any, context: Any) -> Any:
        raise ServiceError(grpc.StatusCode[code], "SOME_REASON", "what happened")

    response = await rest.say(rest.on(handler))
    assert response.headers.get("x-should-retry") == ("false" if final else None)


async def test_the_field_at_fault_and_when_to_try_again(rest: Rest) -> None:
    async def field(request: Any, context: Any) -> Any:
        raise invalid("messages[0].content", "too bad")

    response = await rest.say(rest.on(field))
    assert error_of(response)["param"] == "messages[0].content"
    assert "retry-after" not in response.headers

    for seconds, header in ((0.2, "1"), (1, "1"), (1.001, "2"), (30, "30")):

        async def later(request: Any, context: Any, seconds: float = seconds) -> Any:
            raise ServiceError(grpc.StatusCode.UNAVAILABLE, "LATER", "later", retry_after=seconds)

        response = await rest.say(rest.on(later))
        assert response.headers["retry-after"] == header


@pytest.mark.parametrize("stream", [False, True])
async def test_internals_do_not_leak(rest: Rest, stream: bool) -> None:
    async def unary(request: Any, context: Any) -> Any:
        raise RuntimeError("secret")

    async def events(request: Any, context: Any) -> AsyncIterator[Any]:
        await unary(request, context)
        yield

    response = await rest.say(rest.on(events if stream else unary), stream=stream)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert error_of(response)["type"] == "server_error"


async def test_a_connection_lives_on_after_an_error(rest: Rest) -> None:
    bad = http_request("/say", b"{")
    good = http_request("/say", b'{"name":"x"}')
    unknown = http_request("/nope", b"x" * 100_000)
    unsupported = http_request("/say", b"x", content_type="text/html")
    reader, writer = await connect(rest.port)
    # Pipelined: all are sent before an answer is read.
    writer.write(bad + good + unknown + good + unsupported + bad + good)
    statuses = [(await within(read_response(reader)))[0] for _ in range(7)]
    assert statuses == [400, 200, 404, 200, 415, 400, 200]
    writer.close()
