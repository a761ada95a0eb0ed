"""The floor: a process that only reads the runtime's bytes and writes bytes to its clients.

    python -m benchmarks.floor --runtime-port PORT --rest-port PORT

It sends each request on to the runtime, and writes the same ready event for each message that comes. It reads
no text, checks nothing and handles no errors. Its cost is therefore that of the event loop and of the kernel.
`benchmarks.suite` measures it with the same load as the other fronts. It is no real server.
"""

import argparse
import asyncio
import json
import re
from typing import Any

import uvloop
from smg_grpc_proto import sglang_scheduler_pb2 as pb

from benchmarks.suite import frames
from inferd.services.net.http2.header_block import header_block

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
#: An event that is as long as one of inferd's.
_EVENT = (
    b'data: {"object":"text_completion","id":"cmpl-0123456789abcdef0123456789abcdef","created":1760000000,'
    b'"model":"m","choices":[{"index":0,"text":" token","logprobs":null,"finish_reason":null}]}\n\n'
)
_CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
#: The token ids of the prompt. The simulated runtime only counts them.
_PROMPT = list(range(20))
_METHOD = "/sglang.grpc.scheduler.SglangScheduler/Generate"
_BLOCK = header_block(
    [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", _METHOD.encode()),
        (b":authority", b"127.0.0.1"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
)


class Runtime(asyncio.Protocol):
    """The connection to the runtime. Each DATA frame of a stream becomes an event of that stream's client."""

    def __init__(self) -> None:
        self._streams: dict[int, Client] = {}
        self._next = 1
        self._rest = b""
        self._received = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(
            frames.PREFACE
            + frames.settings({frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW})
            + frames.window_update(0, 1 << 30)
        )

    def generate(self, client: "Client", tokens: int, *, stream: bool) -> None:
        """Ask the runtime for an answer of so many tokens."""
        request = pb.GenerateRequest(
            request_id="0123456789abcdef0123456789abcdef",
            tokenized=pb.TokenizedInput(original_text="", input_ids=_PROMPT),
            sampling_params=pb.SamplingParams(max_new_tokens=tokens, ignore_eos=True, n=1),
            stream=stream,
        )
        self._streams[self._next] = client
        body = frames.grpc_message(request.SerializeToString())
        self._transport.write(
            frames.frame(frames.HEADERS, frames.END_HEADERS, self._next, _BLOCK)
            + frames.frame(frames.DATA, frames.END_STREAM, self._next, body)
        )
        self._next += 2

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._rest:
            data = self._rest + data
        at, end, streams = 0, len(data), self._streams
        while end - at >= 9:
            stop = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if stop > end:
                break
            kind, flags = data[at + 3], data[at + 4]
            if kind == frames.DATA:
                streams[int.from_bytes(data[at + 5 : at + 9], "big")].token()
            elif kind == frames.HEADERS and flags & frames.END_STREAM:
                streams.pop(int.from_bytes(data[at + 5 : at + 9], "big")).end()
            elif kind == frames.SETTINGS and not flags & frames.ACK:
                self._transport.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
            elif kind == frames.PING and not flags & frames.ACK:
                self._transport.write(frames.frame(frames.PING, frames.ACK, 0, data[at + 9 : stop]))
            at = stop
        self._rest = data[at:]
        if self._received > 1 << 28:
            self._transport.write(frames.window_update(0, self._received))
            self._received = 0


class Client(asyncio.Protocol):
    """A connection of a client."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, blank, body = self._data.partition(b"\r\n\r\n")
        found = _LENGTH.search(head)
        if not blank or len(body) < int(found[1] if found else 0):
            return
        self._data = b""
        if not body:
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return
        asked = json.loads(body)
        self._tokens, self._streamed = int(asked["max_tokens"]), bool(asked.get("stream"))
        if self._streamed:
            self._transport.write(_HEAD)
        self._runtime.generate(self, self._tokens, stream=self._streamed)

    def token(self) -> None:
        """A message of the answer came: its next token, or the summary at the end."""
        if self._streamed:
            self._transport.write(_CHUNK)

    def end(self) -> None:
        """The answer is complete."""
        usage = b'{"choices":[{"text":""}],"usage":{"completion_tokens":%d}}' % self._tokens
        if self._streamed:
            last = b"data: %b\n\ndata: [DONE]\n\n" % usage
            self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last))
        else:
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(usage), usage))


async def _main(runtime_port: int, rest_port: int) -> None:
    loop = asyncio.get_running_loop()
    _, runtime = await loop.create_connection(Runtime, "127.0.0.1", runtime_port)
    server = await loop.create_server(lambda: Client(runtime), "127.0.0.1", rest_port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="benchmarks.floor", description=__doc__)
    parser.add_argument("--runtime-port", type=int, required=True)
    parser.add_argument("--rest-port", type=int, required=True)
    options = parser.parse_args()
    uvloop.run(_main(options.runtime_port, options.rest_port))
