"""A simulated SGLang HTTP server without a model, for tests of faults: see `simulated_scheduler`.

Answers as scripted, on the wire exactly as SGLang 0.5.23 was seen to (`tests/real` holds the real one to the
same expectations). It never stands in for a model.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import orjson

from tests.doubles.simulated_scheduler import logprob_of, top_logprobs_of

_REASONS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 429: b"Too Many Requests"}


@dataclass(frozen=True, slots=True)
class HttpFault:
    """What goes wrong once `after` tokens were sent.

    `status` is an answer of that status and `body`, before anything else; `error` is an error event of
    `status` and `message` in the stream; `abort` is a last chunk that says so, of that status if it has one;
    `end` is the stream's end with no last chunk; `cut` closes the connection in the midst of it; `hang` is
    silence until the caller gives up.
    """

    kind: Literal["status", "error", "abort", "end", "cut", "hang"]
    after: int = 0
    status: int | None = 400
    message: str = "simulated fault"
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class HttpReply:
    """The simulated server's answer to one request.

    `token_ids` are cut at `max_new_tokens`; else they end with `finish_reason`. `chunk_sizes` are the tokens
    in each event of a stream, repeated in turn; `events_per_write` go out together. A stream's second write
    waits for `gate`.
    """

    token_ids: Sequence[int]
    chunk_sizes: tuple[int, ...] = (1,)
    events_per_write: int = 1
    cached_tokens: int = 0
    finish_reason: dict[str, Any] | None = None
    fault: HttpFault | None = None
    gate: asyncio.Event | None = None


HttpScript = Callable[[dict[str, Any]], HttpReply]


def echo_http(**settings: Any) -> HttpScript:
    """Answer with the prompt's own ids, over and over. `settings` are `HttpReply`'s other fields."""

    def script(body: dict[str, Any]) -> HttpReply:
        prompt = itertools.cycle(body["input_ids"])
        count = body["sampling_params"]["max_new_tokens"]
        return HttpReply(tuple(itertools.islice(prompt, count)), **settings)

    return script


class SimulatedHttpServer:
    """The server. `async with SimulatedHttpServer(script) as server:` runs it at `server.url`.

    `incremental` is --incremental-streaming-output. `server_info` and `model_info` are what it says of itself
    beside what it must. Without `ready` it has no /ready, as an older SGLang.
    """

    def __init__(
        self,
        script: HttpScript | None = None,
        *,
        incremental: bool = True,
        ready: bool = True,
        server_info: dict[str, Any] | None = None,
        model_info: dict[str, Any] | None = None,
    ) -> None:
        #: May be replaced while the server runs.
        self.script = script or echo_http()
        #: What the health check says.
        self.serving = True
        #: The latest requests' bodies, oldest first, and the paths of all that was asked.
        self.requests: deque[dict[str, Any]] = deque(maxlen=1000)
        self.paths: deque[str] = deque(maxlen=1000)
        #: How many generations run now, how many wait, and how many connections were made.
        self.running = 0
        self.waiting = 0
        self.connections = 0
        #: Ids of the requests that were aborted.
        self.aborted: deque[str] = deque(maxlen=1000)
        self.port = 0
        self._incremental = incremental
        self._ready = ready
        self._server_info = {
            "model_path": "simulated",
            "max_total_num_tokens": 16384,
            "incremental_streaming_output": incremental,
            "enable_deterministic_inference": True,
            "enable_priority_scheduling": True,
            **(server_info or {}),
        }
        self._model_info = {
            "has_image_understanding": True,
            "has_audio_understanding": True,
            **(model_info or {}),
        }
        self._server: asyncio.Server | None = None
        # The tasks of connections, and those of them that generate.
        self._open: set[asyncio.Task[None]] = set()
        self._generating: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after `stop`, on the same port again."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 26)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self, *, keep_calls: bool = False) -> None:
        """Close the port and the connections, as a process that dies. `keep_calls`: generations stay."""
        assert self._server is not None
        self._server.close()
        ending = self._open - self._generating if keep_calls else self._open
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request. Whether the connection may be used for another."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        target, *lines = head.split("\r\n")
        path = target.split(" ")[1].partition("?")[0]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.paths.append(path)
        if path == "/generate":
            task = asyncio.current_task()
            assert task is not None
            self._generating.add(task)
            try:
                return await self._generate(orjson.loads(body), reader, writer)
            finally:
                self._generating.discard(task)
        status, answer = self._answer(path, body)
        _write(writer, status, orjson.dumps(answer))
        await writer.drain()
        return True

    def _answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if path == ("/ready" if self._ready else "/health"):
            return (200 if self.serving else 503), {}
        if path == "/server_info":
            return 200, self._server_info
        if path == "/model_info":
            return 200, self._model_info
        if path == "/v1/loads":
            return 200, {"loads": [{"num_running_reqs": self.running, "num_waiting_reqs": self.waiting}]}
        if path == "/abort_request":
            self.aborted.append(orjson.loads(body)["rid"])
            return 200, {}
        return 404, {"detail": "Not Found"}

    async def _generate(
        self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        self.requests.append(body)
        self.running += 1
        # The caller sends nothing more, so this ends only when the caller has gone away.
        gone = asyncio.create_task(reader.read(1))
        work = asyncio.create_task(self._run(body, self.script(body), writer))
        try:
            await asyncio.wait((gone, work), return_when=asyncio.FIRST_COMPLETED)
            return work.done() and work.result()
        finally:
            self.running -= 1
            for task in (gone, work):
                task.cancel()
            await asyncio.gather(gone, work, return_exceptions=True)

    async def _run(self, body: dict[str, Any], reply: HttpReply, writer: asyncio.StreamWriter) -> bool:
        limit = body["sampling_params"]["max_new_tokens"]
        token_ids = reply.token_ids[:limit]
        stop = reply.finish_reason or {"type": "stop", "matched": None}
        finish = {"type": "length", "length": limit} if len(token_ids) == limit else stop
        fault = reply.fault
        if fault is not None and fault.kind == "status":
            assert fault.status is not None
            _write(writer, fault.status, fault.body or orjson.dumps({"error": {"message": fault.message}}))
            await writer.drain()
            return True
        if not body["stream"]:
            if fault is not None and fault.kind == "hang":
                await asyncio.Event().wait()
            if fault is not None and fault.kind in ("end", "cut"):
                return False
            if fault is not None and fault.status is not None:
                _write(writer, fault.status, orjson.dumps({"error": {"message": fault.message}}))
            else:
                finish = finish if fault is None else _abort(fault)
                _write(writer, 200, orjson.dumps(_chunk(body, reply, token_ids, 0, finish)))
            await writer.drain()
            return True
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        sent, events = 0, []
        for size in itertools.cycle(reply.chunk_sizes):
            end = min(sent + size, len(token_ids))
            if fault is not None and end > fault.after:
                return await _break(fault, body, writer)
            begin = sent if self._incremental else 0
            last = end == len(token_ids)
            events.append(_chunk(body, reply, token_ids[:end], begin, finish if last else None))
            sent = end
            if last or len(events) == reply.events_per_write:
                _send(writer, *events)
                events = []
                await writer.drain()
                # As a step of the engine does, so that the events come one by one.
                await asyncio.sleep(0)
                if reply.gate is not None:
                    await reply.gate.wait()
            if last:
                break
        if fault is not None:
            return await _break(fault, body, writer)
        _send(writer)
        await writer.drain()
        return True


async def _break(fault: HttpFault, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
    if fault.kind == "hang":
        await writer.drain()
        await asyncio.Event().wait()
    if fault.kind == "cut":
        await writer.drain()
        return False
    if fault.kind == "error":
        error = {"message": fault.message, "type": "invalid_request_error", "code": fault.status}
        _send(writer, {"error": error})
    if fault.kind == "abort":
        # SGLang repeats the last token, and does not count it again.
        last = [body["input_ids"][0]] if fault.after else []
        meta = {"finish_reason": _abort(fault), "completion_tokens": fault.after, "cached_tokens": 0}
        _send(writer, {"output_ids": last, "meta_info": {**meta, "prompt_tokens": len(body["input_ids"])}})
    _send(writer)
    await writer.drain()
    return True


def _abort(fault: HttpFault) -> dict[str, Any]:
    return {"type": "abort", "message": fault.message, "status_code": fault.status, "err_type": None}


def _chunk(
    body: dict[str, Any],
    reply: HttpReply,
    token_ids: Sequence[int],
    begin: int,
    finish: dict[str, Any] | None,
) -> dict[str, Any]:
    """An event, or the whole answer, of the tokens so far: with those from `begin`."""
    new = list(token_ids[begin:])
    meta: dict[str, Any] = {
        "id": body["rid"],
        "finish_reason": finish,
        "prompt_tokens": len(body["input_ids"]),
        "completion_tokens": len(token_ids),
        "cached_tokens": reply.cached_tokens,
    }
    if body.get("return_logprob"):
        prompt = body["input_ids"] if body["logprob_start_len"] >= 0 else []
        top = body["top_logprobs_num"]
        meta["output_token_logprobs"] = [[logprob_of(i), i, None] for i in new]
        # The first of a prompt has none: nothing comes before it. SGLang repeats these in each event.
        meta["input_token_logprobs"] = [
            [logprob_of(i) if place else None, i, None] for place, i in enumerate(prompt)
        ]
        if top:
            meta["output_top_logprobs"] = [_top(i, top) for i in new]
            meta["input_top_logprobs"] = [_top(i, top) if place else None for place, i in enumerate(prompt)]
    return {"text": "", "output_ids": new, "meta_info": meta}


def _top(token_id: int, count: int) -> list[list[float | int | None]]:
    return [[value, other, None] for other, value in top_logprobs_of(token_id, count)]


def _write(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    head = b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b"Status"))
    writer.write(head + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


def _send(writer: asyncio.StreamWriter, *events: dict[str, Any]) -> None:
    """Write these events as one chunk of the body; none are the stream's end."""
    data = b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in events)
    ending = b"" if events else b"0\r\n\r\n"
    data = data or b"data: [DONE]\n\n"
    writer.write(b"%x\r\n%b\r\n" % (len(data), data) + ending)
