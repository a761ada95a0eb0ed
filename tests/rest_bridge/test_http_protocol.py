"""HTTP/1.1 byte by byte, from real and from hostile clients."""

import asyncio
import json

import pytest

BODY = b'{"model": "small", "prompt": "Hello", "max_tokens": 2}'


@pytest.fixture
def transport() -> str:
    """How the bridge reaches the services plays no part here."""
    return "in process"


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(20):
            status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(status.split()[1]), headers, body


async def connect(inferd) -> Connection:
    connection = Connection(*await asyncio.open_connection("127.0.0.1", inferd.rest_port))
    inferd.stack.callback(connection.writer.close)
    return connection


def post(path: str = "/v1/completions", *headers: bytes, body: bytes = BODY) -> bytes:
    lines = [f"POST {path} HTTP/1.1".encode(), b"host: x", b"content-type: application/json", *headers]
    lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def code(body: bytes) -> str:
    return json.loads(body)["error"]["code"]


async def test_an_upgrade_is_ignored(start_inferd):
    """Java's own client offers HTTP/2 so, with every request."""
    connection = await connect(await start_inferd())
    upgrade = (
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    )
    for _ in range(2):
        connection.writer.write(post("/v1/completions", *upgrade))
        status, _, body = await connection.response()
        assert status == 200
        assert json.loads(body)["usage"]["completion_tokens"] == 2
    # Split between head and body, as that client sends it.
    request = post("/v1/completions", *upgrade)
    head, end, body = request.partition(b"\r\n\r\n")
    connection.writer.write(head + end)
    await connection.writer.drain()
    connection.writer.write(body)
    assert (await connection.response())[0] == 200


async def test_a_body_may_speak_of_upgrades(start_inferd):
    connection = await connect(await start_inferd())
    text = "a\r\nUpgrade: b"
    body = (
        json.dumps({"model": "small", "prompt": text}, ensure_ascii=False)
        .replace("\\r\\n", "\\r\\n")
        .encode()
    )
    connection.writer.write(post("/v1/tokenize", body=body))
    _, _, answer = await connection.response()
    tokens = json.loads(answer)["tokens"]
    connection.writer.write(
        post("/detokenize", body=json.dumps({"model": "small", "tokens": tokens}).encode())
    )
    assert json.loads((await connection.response())[2]) == {"text": text}


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\nhost x\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"NONSENSE\r\n\r\n",
    ],
)
async def test_what_is_no_http_gets_an_answer_in_the_envelope(start_inferd, garbage):
    inferd = await start_inferd()
    connection = await connect(inferd)
    connection.writer.write(garbage)
    status, headers, body = await connection.response()
    assert status == 400
    assert headers["connection"] == "close"
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert await connection.reader.read() == b""


@pytest.mark.parametrize("flood", [b"x-a: " + b"a" * 200_000, b"\r\n".join([b"x-a: b"] * 40_000)])
async def test_a_flood_of_headers_is_refused(start_inferd, flood):
    connection = await connect(await start_inferd())
    connection.writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n" + flood)
    status, _, body = await connection.response()
    assert (status, code(body)) == (431, "request_header_fields_too_large")


async def test_a_head_that_does_not_come_is_not_waited_for(start_inferd, monkeypatch):
    monkeypatch.setattr("inferd.rest_bridge.http_protocol._HEAD_SECONDS", 0.2)
    inferd = await start_inferd()
    silent, half = await connect(inferd), await connect(inferd)
    half.writer.write(b"GET /v1/models HT")
    assert await silent.reader.read() == b""
    status, _, body = await half.response()
    assert (status, code(body)) == (408, "request_timeout")
    # The time is the head's, not the connection's or the body's.
    kept = await connect(inferd)
    for _ in range(3):
        request = post()
        kept.writer.write(request[:-5])
        await asyncio.sleep(0.3)
        kept.writer.write(request[-5:])
        assert (await kept.response())[0] == 200


@pytest.mark.parametrize(
    "path", ["/v1/models/a%0ab", "/v1/models/%0d%0ax", "/v1/models/%00", "/v1/models/%F0%9F%99%82"]
)
async def test_odd_paths_stay_in_the_envelope(start_inferd, path):
    connection = await connect(await start_inferd())
    connection.writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    status, headers, body = await connection.response()
    assert (status, code(body)) == (404, "model_not_found")
    assert headers["x-request-id"]


@pytest.mark.parametrize("path", ["/health", "/docs", "/openapi.json", "/v1/models"])
async def test_head_is_answered_and_other_verbs_are_named(start_inferd, path):
    inferd = await start_inferd()
    async with inferd.http() as http:
        answer = await http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        answer = await http.post(path)
        assert answer.status_code == 405
        assert "GET" in answer.headers["allow"]
        assert answer.json()["error"]["code"] == "method_not_allowed"
