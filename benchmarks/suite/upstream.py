"""A simulated OpenAI-style server, for fronts that need one. Its tokens are the simulated runtime's.

    python -m benchmarks.suite.upstream TOKENIZER_JSON

It prints {"port": …}. A line {"rate": N} on its standard input sets the pace, as for
`benchmarks.suite.runtime`.
"""

import asyncio
import json
import re
import sys
from functools import lru_cache
from typing import Any

import uvloop

from benchmarks.suite.answer import Answer
from benchmarks.suite.control import say, serve_control
from benchmarks.suite.pace import Pace

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n%s\r\n\r\n"
_STREAM = _HEAD % (b"text/event-stream", b"transfer-encoding: chunked")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_PROMPT_TOKENS = 20


def _document(choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
    document = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": choices}
    return json.dumps(document | ({"usage": usage} if usage else {})).encode()


def _choice(text: str, finish: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


def _event(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


class Texts:
    """The answers as bytes. Each is made once."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    @lru_cache(maxsize=4096)  # noqa: B019 - one for the process
    def events(self, start: int, count: int) -> list[bytes]:
        """The bytes of an event for each token, and those of finish, usage, [DONE] and the body's end."""
        usage = {
            "prompt_tokens": _PROMPT_TOKENS,
            "completion_tokens": count,
            "total_tokens": _PROMPT_TOKENS + count,
        }
        pieces = self._answer.pieces(start, count)
        end = (_document([_choice("", "length")]), _document([], usage), b"[DONE]")
        return [
            *(_event(_document([_choice(piece, None)])) for piece in pieces),
            b"".join(_event(data) for data in end) + b"0\r\n\r\n",
        ]

    @lru_cache(maxsize=4096)  # noqa: B019 - one for the process
    def whole(self, start: int, count: int) -> bytes:
        """The bytes of a response with a whole answer."""
        usage = {
            "prompt_tokens": _PROMPT_TOKENS,
            "completion_tokens": count,
            "total_tokens": _PROMPT_TOKENS + count,
        }
        body = _document([_choice("".join(self._answer.pieces(start, count)), "length")], usage)
        return _HEAD % (b"application/json", b"content-length: %d" % len(body)) + body


class Upstream:
    """The state of all connections."""

    def __init__(self, answer: Answer) -> None:
        self.texts = Texts(answer)
        self.busy: set[Connection] = set()
        self.pace = Pace(self.step)
        self.requests = 0

    def step(self) -> bool:
        """Give every request its next token. Returns whether there is more to do."""
        advanced = [connection.advance() for connection in list(self.busy)]
        return bool(self.busy) and (bool(self.pace.rate) or any(advanced))


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, with one request after another."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._received = b""
        self._events: list[bytes] = []
        self._sent = 0
        self._due = 0
        self._paused = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._upstream.busy.discard(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._upstream.pace.wake()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not blank or length is None or len(body) < int(length[1]):
            return
        self._received = b""
        upstream = self._upstream
        upstream.requests += 1
        request = json.loads(body)
        count = int(request["max_tokens"])
        if request.get("stream"):
            self._transport.write(_STREAM)
            self._events = upstream.texts.events(upstream.requests % 16, count)
        else:
            self._events = [b""] * count + [upstream.texts.whole(upstream.requests % 16, count)]
        self._sent = 0
        self._due = 0
        upstream.busy.add(self)
        # The prefill makes the first token, and the steps make the others.
        self.advance()
        upstream.pace.wake()

    def advance(self) -> bool:
        """Send the next token, and the end after the last one. Returns whether it could be sent."""
        tokens = len(self._events) - 1
        self._due = min(self._due + 1, tokens)
        if self._paused:
            return False
        pieces = self._events[self._sent : self._due]
        self._sent = self._due
        if self._due == tokens:
            pieces.append(self._events[tokens])
            self._upstream.busy.discard(self)
        if data := b"".join(pieces):
            self._transport.write(data)
        return True


async def _main(tokenizer_file: str) -> None:
    upstream = Upstream(Answer(tokenizer_file))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(upstream), "127.0.0.1", 0, backlog=4096)
    say({"port": server.sockets[0].getsockname()[1]})

    async def control(command: dict[str, Any]) -> dict[str, Any]:
        upstream.pace.rate = float(command["rate"])
        return {"requests": upstream.requests}

    await serve_control(control)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1]))
