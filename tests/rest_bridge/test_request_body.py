"""Request bodies over real sockets: syntax, content types, and the limit of their size."""

import json
from collections.abc import AsyncIterator

import pytest

from tests.support.rest_server import (
    LIMIT,
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


@pytest.mark.parametrize("body", [b" ", b"{", b"[]", b"null", b'{"a":1}{}', b"\xff", b'{"name": 5}', b'"x"'])
async def test_malformed_bodies(rest: Rest, body: bytes) -> None:
    response = await rest.client.post("/say", content=body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


async def test_an_empty_body_is_the_empty_document(rest: Rest) -> None:
    for request in (
        http_request("/say"),
        http_request("/say", content_type="application/x-www-form-urlencoded"),
        b"POST /say HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /say HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ):
        reader, writer = await connect(rest.port)
        writer.write(request)
        status, _, body = await within(read_response(reader))
        assert (status, json.loads(body)) == (200, {"text": "", "count": 0})
        writer.close()


async def test_an_empty_body_where_something_is_required(rest: Rest) -> None:
    error = error_of(await rest.client.post("/needy", content=b""))
    assert error["code"] == "malformed_json"
    assert "the body is empty" in error["message"]
    # The path says all that is required.
    assert (await rest.client.post("/needy/x", content=b"")).json()["name"] == "x"


async def test_malformed_json_says_where(rest: Rest) -> None:
    response = await rest.client.post("/say", content=b'{"name":\n  x}')
    error = error_of(response)
    assert error["code"] == "malformed_json"
    assert "line 2" in error["message"]
    assert "column 3" in error["message"]


@pytest.mark.parametrize(
    "content_type",
    [
        None, "application/json", "application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"',
        "application/vnd.api+json", "text/plain", "text/plain;charset=UTF-8", "application/json; profile=x",
        "",
    ],
)  # fmt: skip
async def test_accepted_content_types(rest: Rest, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = await rest.client.post("/say", content=b'{"name":"x"}', headers=headers)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/xml"},
        {"content-type": "application/jsonx"},
        {"content-type": "application/json; charset=latin1"},
        {"content-encoding": "gzip"},
    ],
)
async def test_refused_content_types(rest: Rest, headers: dict[str, str]) -> None:
    response = await rest.client.post("/say", content=b'{"name":"x"}', headers=headers)
    assert response.status_code == 415
    error = error_of(response)
    assert error["code"] == "unsupported_media_type"
    assert "application/json" in error["message"]


async def test_content_encoding_identity(rest: Rest) -> None:
    headers = {"content-encoding": "identity"}
    assert (await rest.client.post("/say", content=b"{}", headers=headers)).status_code == 200


async def test_a_body_at_the_limit(rest: Rest) -> None:
    body = b'{"name":"x"}'.ljust(LIMIT)
    assert (await rest.client.post("/say", content=body)).status_code == 200
    response = await rest.client.post("/say", content=body + b" ")
    assert (response.status_code, response.headers["connection"]) == (413, "close")
    error = error_of(response)
    assert (error["code"], error["type"]) == ("body_too_large", "invalid_request_error")
    assert str(LIMIT) in error["message"]


async def test_a_body_too_large_is_refused_before_it_is_sent(rest: Rest) -> None:
    reader, writer = await connect(rest.port)
    writer.write(
        b"POST /say HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 999999999\r\n\r\n"
    )
    status, _, body = await within(read_response(reader))
    assert status == 413
    assert json.loads(body)["error"]["code"] == "body_too_large"
    writer.close()


async def test_a_chunked_body_too_large(rest: Rest) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 65536

    response = await rest.client.post("/say", content=parts())
    assert response.status_code == 413
    small = await rest.client.post("/say", content=_parts(b'{"na', b'me":"x', b'"}'))
    assert small.json()["text"] == "x"


async def _parts(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
