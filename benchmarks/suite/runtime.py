"""A simulated SGLang scheduler for benchmarks: the scheduler's gRPC protocol on plain frames, no model.

The tests have `tests.doubles.simulated_scheduler`. This one costs a small part of that: messages are encoded
before they are needed, and one tick serves all streams. It simulates no faults and no stop strings.

    python -m benchmarks.suite.runtime MODEL_FOLDER

It prints {"port": …}. A line {"rate": N} on its standard input sets the pace to N tokens a second of each
stream; 0 means as fast as the client reads.
"""

import asyncio
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import hpack
import uvloop
from grpc_health.v1 import health_pb2
from smg_grpc_proto import sglang_scheduler_pb2 as pb
from smg_grpc_proto.generated import common_pb2

from benchmarks.suite import frames
from benchmarks.suite.answer import Answer
from benchmarks.suite.control import say, serve_control
from benchmarks.suite.pace import Pace
from inferd.services.runtimes.tokenizer_bundle import pack

_SCHEDULER = "/sglang.grpc.scheduler.SglangScheduler/"
_CONTEXT = 32768
# These headers are not indexed, so that their bytes are the same on every connection.
_HEAD = bytes([0x88]) + b"\x0f\x10\x10application/grpc"
_TRAILERS = b"\x00\x0bgrpc-status\x010"
_UNIMPLEMENTED = bytes([0x88]) + b"\x0f\x10\x10application/grpc" + b"\x00\x0bgrpc-status\x0212"


class Generation:
    """One request that is being answered. `due` of its `count` tokens should have been sent by now."""

    __slots__ = ("connection", "count", "due", "head", "messages", "opened", "sent", "stream", "window")

    def __init__(
        self, connection: "Connection", stream: int, request: Any, answer: Answer, number: int
    ) -> None:
        self.connection = connection
        self.stream = stream
        self.window = connection.initial_window
        self.count: int = request.sampling_params.max_new_tokens
        prompt_tokens = len(request.tokenized.input_ids)
        request_id = request.request_id.encode()
        self.head = b"\x0a" + bytes([len(request_id)]) + request_id
        start = number % 16
        if request.stream:
            self.messages = answer.chunks(start, self.count, prompt_tokens)
        else:
            whole = answer.complete(start, self.count, prompt_tokens, streamed=False)
            self.messages = [b""] * self.count + [whole]
        self.due = 0
        self.sent = 0
        self.opened = False

    def advance(self) -> bool:
        """Send the tokens that are due, as far as they fit. Returns whether the client may be sent more."""
        connection, head = self.connection, self.head
        if not self.opened:
            self.opened = True
            connection.out.append(frames.frame(frames.HEADERS, frames.END_HEADERS, self.stream, _HEAD))
        while self.sent < self.due:
            message = self.messages[self.sent]
            if message and not self._send(head, message):
                return False
            self.sent += 1
        if self.sent == self.count:
            if not self._send(head, self.messages[self.count]):
                return False
            end = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, self.stream, _TRAILERS)
            connection.out.append(end)
            connection.generations.pop(self.stream, None)
        return True

    def _send(self, head: bytes, message: bytes) -> bool:
        connection = self.connection
        size = len(head) + len(message)
        if connection.paused or connection.window < size + 5 or self.window < size + 5:
            return False
        connection.window -= size + 5
        self.window -= size + 5
        connection.out.append(frames.data_head(size + 5, self.stream))
        connection.out.append(b"\0" + size.to_bytes(4, "big") + head)
        connection.out.append(message)
        return True


class Runtime:
    """The state of all connections: the generations, the pace, and the answers to other methods."""

    def __init__(self, model: Path) -> None:
        self.answer = Answer(str(model / "tokenizer.json"))
        self.connections: set[Connection] = set()
        self.pace = Pace(self.step)
        self.requests = 0
        self._started = time.time()
        data, digest = pack(model)
        self.tokenizer = [
            common_pb2.GetTokenizerChunk(data=data[at : at + 65536]).SerializeToString()
            for at in range(0, len(data), 65536)
        ] + [common_pb2.GetTokenizerChunk(sha256=digest).SerializeToString()]
        self._model = str(model)

    def step(self) -> bool:
        """Give every generation its next token. Returns whether there is more to do."""
        free_running = not self.pace.rate
        working = False
        for connection in self.connections:
            if not connection.generations:
                continue
            for generation in list(connection.generations.values()):
                if generation.due < generation.count and (
                    not free_running or generation.due == generation.sent
                ):
                    generation.due += 1
                # Without a pace, a blocked client gets nothing until it reads on, which wakes the pace.
                working = generation.advance() or not free_running or working
            connection.flush()
        return working

    def unary(self, path: str) -> list[bytes] | None:
        """The messages that answer a method other than Generate. None if there is no such method."""
        match path.removeprefix(_SCHEDULER):
            case "/grpc.health.v1.Health/Check":
                return [health_pb2.HealthCheckResponse(status=1).SerializeToString()]
            case "HealthCheck":
                return [pb.HealthCheckResponse(healthy=True, message="ok").SerializeToString()]
            case "GetModelInfo":
                info = pb.GetModelInfoResponse(
                    model_path=self._model,
                    tokenizer_path=self._model,
                    is_generation=True,
                    served_model_name="m",
                    max_context_length=_CONTEXT,
                    vocab_size=49152,
                    model_type="llama",
                    architectures=["LlamaForCausalLM"],
                    eos_token_ids=[2],
                    bos_token_id=1,
                    pad_token_id=2,
                )
                return [info.SerializeToString()]
            case "GetServerInfo":
                server = pb.GetServerInfoResponse(
                    sglang_version="simulated",
                    server_type="grpc",
                    uptime_seconds=time.time() - self._started,
                    max_total_num_tokens=1 << 24,
                )
                return [server.SerializeToString()]
            case "GetLoads":
                running = sum(len(connection.generations) for connection in self.connections)
                load = pb.SchedulerLoad(
                    num_running_reqs=running, num_total_reqs=running, max_total_num_tokens=1 << 24
                )
                return [
                    pb.GetLoadsResponse(
                        version="simulated", dp_rank_count=1, loads=[load]
                    ).SerializeToString()
                ]
            case "Abort":
                return [pb.AbortResponse(success=True).SerializeToString()]
            case "GetTokenizer":
                return self.tokenizer
        return None


class Connection(asyncio.Protocol):
    """One HTTP/2 connection of a client."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._reader = frames.FrameReader()
        self._decoder = hpack.Decoder()
        self._preface = len(frames.PREFACE)
        self._calls: dict[int, tuple[str, bytearray]] = {}
        self._block: tuple[int, int, bytes] = (0, 0, b"")
        self._received = 0
        self._replies: deque[tuple[int, bytes]] = deque()
        self.generations: dict[int, Generation] = {}
        self.out: list[bytes] = []
        self.initial_window = self.window = frames.DEFAULT_WINDOW
        self.paused = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._runtime.connections.add(self)
        self.out.append(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 24, 0x3: 1 << 20}))
        self.out.append(frames.window_update(0, 1 << 30))
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._runtime.connections.discard(self)
        self.generations.clear()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._catch_up()

    def flush(self) -> None:
        """Write the bytes in `out`, in one call."""
        if self.out:
            self._transport.write(b"".join(self.out))
            self.out.clear()

    def data_received(self, data: bytes) -> None:
        if self._preface:
            skipped = min(self._preface, len(data))
            self._preface -= skipped
            data = data[skipped:]
        catch_up = False
        for kind, flags, stream, payload in self._reader.feed(data):
            if kind == frames.DATA:
                self._received += len(payload)
                self._calls[stream][1].extend(payload)
                if flags & frames.END_STREAM:
                    self._call(stream)
            elif kind in (frames.HEADERS, frames.CONTINUATION):
                self._headers(kind, flags, stream, payload)
            elif kind == frames.WINDOW_UPDATE:
                catch_up = True
                self._widen(stream, frames.read_increment(payload))
            elif kind == frames.SETTINGS and not flags & frames.ACK:
                catch_up = True
                self._apply(frames.read_settings(payload))
            elif kind == frames.PING and not flags & frames.ACK:
                self.out.append(frames.frame(frames.PING, frames.ACK, 0, payload))
            elif kind == frames.RST_STREAM:
                self._calls.pop(stream, None)
                self.generations.pop(stream, None)
        if self._received > 1 << 28:
            self.out.append(frames.window_update(0, self._received))
            self._received = 0
        if catch_up:
            self._catch_up()
        self.flush()

    def _headers(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.HEADERS:
            self._block = (stream, flags & frames.END_STREAM, payload)
        else:
            self._block = (*self._block[:2], self._block[2] + payload)
        if flags & frames.END_HEADERS:
            headers: list[tuple[Any, Any]] = list(self._decoder.decode(self._block[2]))
            path = next(value for name, value in headers if name == ":path")
            self._calls[stream] = (path, bytearray())
            if self._block[1]:
                self._call(stream)

    def _apply(self, settings: dict[int, int]) -> None:
        window = settings.get(frames.INITIAL_WINDOW_SIZE)
        if window is not None:
            for generation in self.generations.values():
                generation.window += window - self.initial_window
            self.initial_window = window
        self.out.append(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _widen(self, stream: int, increment: int) -> None:
        if stream == 0:
            self.window += increment
        elif stream in self.generations:
            self.generations[stream].window += increment

    def _catch_up(self) -> None:
        self._send_replies()
        for generation in list(self.generations.values()):
            if generation.sent < generation.due or generation.due == generation.count:
                generation.advance()
        self.flush()
        if self.generations:
            self._runtime.pace.wake()

    def _call(self, stream: int) -> None:
        path, body = self._calls.pop(stream)
        runtime = self._runtime
        if path == _SCHEDULER + "Generate":
            runtime.requests += 1
            request = pb.GenerateRequest.FromString(bytes(body[5:]))
            generation = Generation(self, stream, request, runtime.answer, runtime.requests)
            self.generations[stream] = generation
            # The prefill makes the first token, and the steps make the others.
            generation.due = 1
            generation.advance()
            runtime.pace.wake()
            return
        messages = runtime.unary(path)
        flags = frames.END_HEADERS
        if messages is None:
            end = frames.frame(frames.HEADERS, flags | frames.END_STREAM, stream, _UNIMPLEMENTED)
            self._replies.append((0, end))
        else:
            self._replies.append((0, frames.frame(frames.HEADERS, flags, stream, _HEAD)))
            payload = b"".join(frames.grpc_message(message) for message in messages)
            for at in range(0, len(payload), frames.LARGEST_FRAME):
                part = payload[at : at + frames.LARGEST_FRAME]
                self._replies.append((len(part), frames.data_head(len(part), stream) + part))
            end = frames.frame(frames.HEADERS, flags | frames.END_STREAM, stream, _TRAILERS)
            self._replies.append((0, end))
        self._send_replies()

    def _send_replies(self) -> None:
        # These answers are small, so only the window of the connection counts.
        while self._replies and self._replies[0][0] <= self.window:
            size, piece = self._replies.popleft()
            self.window -= size
            self.out.append(piece)


async def _main(model: Path) -> None:
    runtime = Runtime(model)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(runtime), "127.0.0.1", 0, backlog=4096)
    say({"port": server.sockets[0].getsockname()[1]})

    async def control(command: dict[str, Any]) -> dict[str, Any]:
        runtime.pace.rate = float(command["rate"])
        return {"requests": runtime.requests}

    await serve_control(control)


if __name__ == "__main__":
    uvloop.run(_main(Path(sys.argv[1])))
