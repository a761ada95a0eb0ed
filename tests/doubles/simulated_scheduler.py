"""A simulated runtime: a server of SGLang's scheduler protocol that has no model.

Serves tests of faults and load, and benchmarks. It answers as scripted, on the wire exactly as SGLang
0.5.23 with smg-grpc-servicer 0.14.1 was seen to (`tests/real` holds the real one to the same
expectations). It never stands in for a model.

    python -m tests.doubles.simulated_scheduler --port 0 --tokens-per-second 20
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, Self

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from smg_grpc_proto import sglang_scheduler_pb2 as pb
from smg_grpc_proto import sglang_scheduler_pb2_grpc as pb_grpc
from smg_grpc_proto.generated import common_pb2

from inferd.services.runtimes.tokenizer_bundle import pack

HEALTH_SERVICES = ("", "sglang.grpc.scheduler.SglangScheduler")


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong once `after` tokens were sent.

    `status` ends the call with `code`, `details` and `trailers`; `abort` is a `complete` that says so;
    `end` is the stream's end with no `complete`; `hang` is silence until the caller gives up.
    """

    kind: Literal["status", "abort", "end", "hang"]
    after: int = 0
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    details: str = "simulated fault"
    trailers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """The simulated runtime's answer to one request, before its stop conditions are applied.

    `token_ids` are cut at the first stop token or stop string, and at `max_new_tokens`. Where neither
    cut them they end with `finish_reason`, at `matched_token_id` if that is given. `chunk_sizes`
    are the tokens in each streamed message, repeated in turn. `complete` is what the last message of a
    stream brings: SGLang repeats the `last_chunk`; other engines may send `all` tokens again or `none`,
    or the `rest`: the last chunk's tokens, which then had no message of their own.
    `tokens_per_second` 0 is as fast as possible; delays are in seconds.
    """

    token_ids: Sequence[int]
    first_token_delay: float = 0.0
    tokens_per_second: float = 0.0
    chunk_sizes: tuple[int, ...] = (1,)
    complete: Literal["last_chunk", "all", "none", "rest"] = "last_chunk"
    cached_tokens: int = 0
    finish_reason: Literal["stop", "length"] = "stop"
    matched_token_id: int | None = None
    fault: Fault | None = None


Script = Callable[[pb.GenerateRequest], Reply]


def echo(**settings: Any) -> Script:
    """Answer with the prompt's own ids, over and over: streams that were crossed are told apart.

    `settings` are `Reply`'s other fields.
    """

    def script(request: pb.GenerateRequest) -> Reply:
        prompt = itertools.cycle(request.tokenized.input_ids)
        count = request.sampling_params.max_new_tokens
        return Reply(tuple(itertools.islice(prompt, count)), **settings)

    return script


def fixed(token_ids: Sequence[int], **settings: Any) -> Script:
    """Answer every request with `token_ids`. `settings` are `Reply`'s other fields."""
    reply = Reply(tuple(token_ids), **settings)
    return lambda request: reply


class Encoder(Protocol):
    """What turns a text into tokens: `inferd.services.text.tokenizer.Tokenizer` does."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The text's token ids."""
        ...


def spoken(
    tokenizer: Encoder, text: str, cuts: Sequence[int] = (), end: int | None = None, **settings: Any
) -> Script:
    """Answer every request with a text.

    `cuts` are places in it, in characters, that no token reaches across: each part is encoded by itself.
    `end` is the token that follows the text, such as the model's end of sequence. `settings` are `Reply`'s
    other fields: `chunk_sizes` are the tokens in each message.
    """
    bounds = [0, *sorted(cuts), len(text)]
    ids = [
        token_id
        for begin, stop in itertools.pairwise(bounds)
        for token_id in tokenizer.encode(text[begin:stop], add_special_tokens=False)
    ]
    return fixed(ids if end is None else [*ids, end], **settings)


def logprob_of(token_id: int) -> float:
    """The log probability that the simulated runtime gives a token: always the same."""
    return -(token_id % 97 + 1) / 8


def top_logprobs_of(token_id: int, count: int) -> list[tuple[int, float]]:
    """The `count` likeliest tokens at the place of `token_id`, which is the first of them."""
    return [(token_id + i, logprob_of(token_id) - i) for i in range(count)]


class SimulatedRuntime:
    """The server. `async with SimulatedRuntime(script) as server:` runs it at `server.address`.

    `decode` turns token ids to text; without it stop strings are ignored. `eos_token_id` ends a
    generation that reaches it, as stop_token_ids do, unless ignore_eos. `tokenizer` is a folder whose files
    GetTokenizer hands out. More than `max_running` requests wait, in the order of their coming.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        decode: Callable[[Sequence[int]], str] | None = None,
        eos_token_id: int | None = None,
        model_path: str = "simulated",
        max_total_tokens: int = 16384,
        tokenizer: Path | None = None,
        max_running: int | None = None,
    ) -> None:
        #: May be replaced while the server runs.
        self.script = script or echo()
        #: What the health service says.
        self.serving = True
        #: The latest requests, oldest first.
        self.requests: deque[pb.GenerateRequest] = deque(maxlen=1000)
        #: How many generations run now, how many wait, and how many ended because the caller went away.
        self.running = 0
        self.waiting = 0
        self.cancelled = 0
        #: How many messages of streams were sent.
        self.sent = 0
        #: Ids of the requests that were aborted by name.
        self.aborted: deque[str] = deque(maxlen=1000)
        self.host = host
        self.port = port
        self._decode = decode
        self._eos_token_id = eos_token_id
        self._model_path = model_path
        self._max_total_tokens = max_total_tokens
        self._tokenizer = tokenizer
        self._started = time.time()
        self._slots = asyncio.Semaphore(max_running) if max_running is not None else None
        self._server: Any = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; a port of 0 becomes the one that was given. After `stop`, on the same port again."""
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", 256 << 20),
                ("grpc.max_send_message_length", 256 << 20),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ]
        )
        pb_grpc.add_SglangSchedulerServicer_to_server(_Scheduler(self), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(_Health(self), self._server)
        self.port = self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self, grace: float | None = None) -> None:
        """Close the port and the connections, as a process that dies. `grace`: seconds for open calls."""
        await self._server.stop(grace)

    async def wait(self) -> None:
        """Serve until stopped."""
        await self._server.wait_for_termination()

    async def generate(self, request: pb.GenerateRequest, context: Any) -> None:
        """Serve one Generate call."""
        self.requests.append(request)
        async with self._slot():
            await self._run(request, context)

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        if self._slots is None:
            yield
            return
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    async def _run(self, request: pb.GenerateRequest, context: Any) -> None:
        self.running += 1
        try:
            await self._generate(request, self.script(request), context)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _generate(self, request: pb.GenerateRequest, reply: Reply, context: Any) -> None:
        token_ids, finish = self._apply_stops(request.sampling_params, reply)
        fault = reply.fault
        begin = time.monotonic() + reply.first_token_delay
        sent = 0
        tail = token_ids
        for chunk in _chunks(token_ids, reply.chunk_sizes) if request.stream else ():
            if fault is not None and sent + len(chunk) > fault.after:
                await _fail(fault, request, context)
                return
            await _sleep_until(begin, sent, reply.tokens_per_second)
            tail = chunk
            if reply.complete == "rest" and sent + len(chunk) == len(token_ids):
                break
            fields = _fields(request, reply, chunk, sent + len(chunk), with_prompt=sent == 0)
            sent += len(chunk)
            message = pb.GenerateStreamChunk(token_ids=chunk, **fields)
            await context.write(pb.GenerateResponse(request_id=request.request_id, chunk=message))
            self.sent += 1
        if not request.stream:
            await _sleep_until(begin, max(len(token_ids) - 1, 0), reply.tokens_per_second)
        if fault is not None:
            await _fail(fault, request, context)
            return
        if reply.complete in ("all", "none") and request.stream:
            tail = token_ids if reply.complete == "all" else ()
        fields = _fields(request, reply, tail, len(token_ids), with_prompt=sent == 0)
        complete = pb.GenerateComplete(output_ids=tail, **finish, **fields)
        await context.write(pb.GenerateResponse(request_id=request.request_id, complete=complete))

    def _apply_stops(self, sampling: pb.SamplingParams, reply: Reply) -> tuple[Sequence[int], dict[str, Any]]:
        """The reply's tokens up to and with the first stop, and the `complete` fields that tell of it."""
        token_ids = reply.token_ids[: sampling.max_new_tokens]
        stop_ids = set(sampling.stop_token_ids)
        if self._eos_token_id is not None and not sampling.ignore_eos:
            stop_ids.add(self._eos_token_id)
        decode = self._decode if sampling.stop else None
        for end, token_id in enumerate(token_ids, 1) if stop_ids or decode else ():
            if token_id in stop_ids:
                return token_ids[:end], {"finish_reason": "stop", "matched_token_id": token_id}
            text = decode(token_ids[:end]) if decode else ""
            for stop in sampling.stop:
                if stop in text:
                    return token_ids[:end], {"finish_reason": "stop", "matched_stop_str": stop}
        if len(token_ids) == sampling.max_new_tokens:
            return token_ids, {"finish_reason": "length"}
        return token_ids, {
            "finish_reason": reply.finish_reason,
            "matched_token_id": reply.matched_token_id,
        }

    def model_info(self) -> pb.GetModelInfoResponse:
        return pb.GetModelInfoResponse(
            model_path=self._model_path,
            tokenizer_path=self._model_path,
            is_generation=True,
            max_context_length=self._max_total_tokens,
        )

    def server_info(self) -> pb.GetServerInfoResponse:
        info = pb.GetServerInfoResponse(
            active_requests=self.running,
            sglang_version="simulated",
            server_type="simulated",
            uptime_seconds=time.time() - self._started,
            max_total_num_tokens=self._max_total_tokens,
        )
        info.start_time.FromSeconds(int(self._started))
        return info

    async def send_tokenizer(self, context: Any) -> None:
        """Serve one GetTokenizer call, in two chunks as the real one may."""
        if self._tokenizer is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no tokenizer")
            return
        data, digest = pack(self._tokenizer)
        half = len(data) // 2
        await context.write(common_pb2.GetTokenizerChunk(data=data[:half]))
        await context.write(common_pb2.GetTokenizerChunk(data=data[half:], sha256=digest))

    def loads(self) -> pb.GetLoadsResponse:
        load = pb.SchedulerLoad(
            num_running_reqs=self.running,
            num_waiting_reqs=self.waiting,
            num_total_reqs=self.running + self.waiting,
            max_total_num_tokens=self._max_total_tokens,
        )
        return pb.GetLoadsResponse(version="simulated", dp_rank_count=1, loads=[load])


class _Scheduler(pb_grpc.SglangSchedulerServicer):
    """The protocol's methods, onto the simulated runtime."""

    def __init__(self, runtime: SimulatedRuntime) -> None:
        self._runtime = runtime

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> None:
        await self._runtime.generate(request, context)

    async def Abort(self, request: pb.AbortRequest, context: Any) -> pb.AbortResponse:
        self._runtime.aborted.append(request.request_id)
        return pb.AbortResponse(success=True)

    async def GetModelInfo(self, request: Any, context: Any) -> pb.GetModelInfoResponse:
        return self._runtime.model_info()

    async def GetServerInfo(self, request: Any, context: Any) -> pb.GetServerInfoResponse:
        return self._runtime.server_info()

    async def GetTokenizer(self, request: Any, context: Any) -> None:
        await self._runtime.send_tokenizer(context)

    async def GetLoads(self, request: Any, context: Any) -> pb.GetLoadsResponse:
        return self._runtime.loads()


class _Health(health_pb2_grpc.HealthServicer):
    """The health service as the SMG servicer has it: Watch says the state once and ends."""

    def __init__(self, runtime: SimulatedRuntime) -> None:
        self._runtime = runtime

    def _status(self) -> health_pb2.HealthCheckResponse:
        states = health_pb2.HealthCheckResponse
        return states(status=states.SERVING if self._runtime.serving else states.NOT_SERVING)

    async def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:
        if request.service not in HEALTH_SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Unknown service: {request.service}")
        return self._status()

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        yield self._status()


def _chunks(token_ids: Sequence[int], sizes: Sequence[int]) -> list[Sequence[int]]:
    """Cut into pieces of `sizes`, in turn. No tokens are one empty piece, as SGLang sends it."""
    pieces: list[Sequence[int]] = []
    start = 0
    for size in itertools.cycle(sizes):
        if start >= len(token_ids):
            break
        pieces.append(token_ids[start : start + size])
        start += size
    return pieces or [()]


async def _sleep_until(begin: float, token: int, tokens_per_second: float) -> None:
    """Sleep until the token of this index is due; by the clock, so that waits do not add up."""
    due = begin + token / tokens_per_second if tokens_per_second else begin
    delay = due - time.monotonic()
    if delay > 0:
        await asyncio.sleep(delay)


async def _fail(fault: Fault, request: pb.GenerateRequest, context: Any) -> None:
    if fault.kind == "status":
        await context.abort(fault.code, fault.details, fault.trailers)
    elif fault.kind == "hang":
        await asyncio.Event().wait()
    elif fault.kind == "abort":
        complete = pb.GenerateComplete(finish_reason="abort", completion_tokens=fault.after)
        await context.write(pb.GenerateResponse(request_id=request.request_id, complete=complete))


def _fields(
    request: pb.GenerateRequest, reply: Reply, token_ids: Sequence[int], completion: int, *, with_prompt: bool
) -> dict[str, Any]:
    """The fields that a chunk and a `complete` share, of a message that brings `token_ids`."""
    return {
        "prompt_tokens": len(request.tokenized.input_ids),
        "completion_tokens": completion,
        "cached_tokens": reply.cached_tokens,
        **_logprobs(request, token_ids, with_prompt),
    }


def _logprobs(request: pb.GenerateRequest, token_ids: Sequence[int], with_prompt: bool) -> dict[str, Any]:
    """The logprob fields; the prompt's come in the first message only."""
    if not request.return_logprob:
        return {}
    count = request.top_logprobs_num
    fields: dict[str, Any] = {
        "output_logprobs": pb.OutputLogProbs(
            token_ids=token_ids,
            token_logprobs=[logprob_of(i) for i in token_ids],
            top_logprobs=[_top(i, count) for i in token_ids] if count else [],
        )
    }
    if with_prompt and request.logprob_start_len >= 0:
        prompt = request.tokenized.input_ids[request.logprob_start_len :]
        values = [pb.InputTokenLogProb(value=logprob_of(i)) for i in prompt]
        tops = [_top(i, count) for i in prompt] if count else []
        # The first token asked for has none: nothing comes before it.
        values[:1] = [pb.InputTokenLogProb()]
        tops[:1] = [pb.TopLogProbs()] if count else []
        fields["input_logprobs"] = pb.InputLogProbs(
            token_ids=prompt, token_logprobs=values, top_logprobs=tops
        )
    return fields


def _top(token_id: int, count: int) -> pb.TopLogProbs:
    pairs = top_logprobs_of(token_id, count)
    return pb.TopLogProbs(token_ids=[i for i, _ in pairs], values=[value for _, value in pairs])


async def _serve(arguments: argparse.Namespace) -> None:
    settings = {
        "first_token_delay": arguments.first_token_delay,
        "tokens_per_second": arguments.tokens_per_second,
        "chunk_sizes": (arguments.tokens_per_chunk,),
    }
    ids = arguments.token_ids
    script = fixed(json.loads(ids), **settings) if ids else echo(**settings)
    runtime = SimulatedRuntime(script, host=arguments.host, port=arguments.port)
    async with runtime:
        print(f"simulated runtime on {runtime.address}", flush=True)
        await runtime.wait()


def main() -> NoReturn:
    """Run a simulated runtime until interrupted."""
    parser = argparse.ArgumentParser(description="A simulated runtime: the scheduler protocol, no model.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--tokens-per-second", type=float, default=0.0, help="of each stream; 0: no limit")
    parser.add_argument("--first-token-delay", type=float, default=0.0, help="seconds")
    parser.add_argument("--tokens-per-chunk", type=int, default=1)
    parser.add_argument("--token-ids", help="JSON list, the answer to every prompt; default: the prompt")
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(parser.parse_args()))
    raise SystemExit(0)


if __name__ == "__main__":
    main()
