"""Shared by the queue's tests: fronts over simulated runtimes that a test can hold, and their clients."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from inferd.services.config import Config, parse_config
from inferd.services.text.model_text import ModelText
from inferd.v1 import chat_pb2, chat_pb2_grpc, message_pb2, queue_pb2, queue_pb2_grpc
from tests.doubles.simulated_scheduler import Fault, Reply, Script, SimulatedRuntime, echo
from tests.support.running import Inferd, running_front

QUEUED = queue_pb2.JOB_STATE_QUEUED
RUNNING = queue_pb2.JOB_STATE_RUNNING
SUCCEEDED = queue_pb2.JOB_STATE_SUCCEEDED
FAILED = queue_pb2.JOB_STATE_FAILED
CANCELLED = queue_pb2.JOB_STATE_CANCELLED
EXPIRED = queue_pb2.JOB_STATE_EXPIRED

#: Seconds that a test waits for anything. Long, because machines are slow at times.
PATIENCE = 60.0

#: A queue that runs one job at a time.
ONE_AT_A_TIME = {"running_limit": 1}

WEBHOOK_URL = "https://hooks.example.com/x"
WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

_USER = re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", re.DOTALL)


class HeldRuntime(SimulatedRuntime):
    """Answers nothing while `gate` is closed."""

    def __init__(self, script: Script | None, text: ModelText) -> None:
        super().__init__(
            script,
            decode=lambda ids: text.tokenizer.decode(ids, skip_special_tokens=False),
            eos_token_id=2,
        )
        self.gate = asyncio.Event()
        self.gate.set()
        self._text = text

    def prompts(self) -> list[str]:
        """The user messages of all requests, in the order in which the requests came."""
        texts = [
            self._text.tokenizer.decode(request.tokenized.input_ids, skip_special_tokens=False)
            for request in self.requests
        ]
        return [_USER.findall(text)[-1] for text in texts]

    async def _generate(self, request: Any, reply: Reply, context: Any) -> None:
        await self.gate.wait()
        await super()._generate(request, reply, context)


@dataclass
class Front(Inferd):
    """A front, its runtimes by model, and clients of its services."""

    config: Config
    runtimes: Mapping[str, HeldRuntime]
    queue: Any = field(init=False)
    chat: Any = field(init=False)

    def __post_init__(self) -> None:
        channel = self.channel()
        self.stack.push_async_callback(channel.close)
        self.queue = queue_pb2_grpc.QueueServiceStub(channel)
        self.chat = chat_pb2_grpc.ChatServiceStub(channel)

    @property
    def runtime(self) -> HeldRuntime:
        return self.runtimes["small"]

    async def is_open(self) -> bool:
        """Whether the queue's database is open by now."""
        try:
            await self.stats()
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return False
        return True

    async def enqueue(
        self, text: str = "Hello", *, metadata: Sequence[tuple[str, str]] | None = None, **fields: Any
    ) -> queue_pb2.Job:
        """Queue a job; fields that are not the job's own are the conversation's."""
        return await self.queue.Enqueue(enqueue(text, **fields), metadata=metadata, timeout=PATIENCE)

    async def get(self, job: queue_pb2.Job | str, **fields: Any) -> queue_pb2.Job:
        return await self.queue.GetJob(queue_pb2.GetJobRequest(id=id_of(job), **fields), timeout=PATIENCE)

    async def ended(self, job: queue_pb2.Job | str) -> queue_pb2.Job:
        """The job once it has ended."""
        found = await self.queue.WaitJob(queue_pb2.WaitJobRequest(id=id_of(job)), timeout=PATIENCE)
        assert found.state not in (QUEUED, RUNNING), f"the job has not ended: {found}"
        return found

    async def reaches(self, job: queue_pb2.Job | str, state: int) -> queue_pb2.Job:
        """The job once it is in that state."""
        found = queue_pb2.Job()

        async def reached() -> bool:
            found.CopyFrom(await self.get(job))
            return found.state == state

        await eventually(reached)
        return found

    async def cancel(self, job: queue_pb2.Job | str) -> queue_pb2.Job:
        return await self.queue.CancelJob(queue_pb2.CancelJobRequest(id=id_of(job)), timeout=PATIENCE)

    async def delete(self, job: queue_pb2.Job | str) -> queue_pb2.DeleteJobResponse:
        return await self.queue.DeleteJob(queue_pb2.DeleteJobRequest(id=id_of(job)), timeout=PATIENCE)

    async def list(self, **fields: Any) -> queue_pb2.ListJobsResponse:
        return await self.queue.ListJobs(queue_pb2.ListJobsRequest(**fields), timeout=PATIENCE)

    def watch(self, job: queue_pb2.Job | str) -> AsyncIterable[queue_pb2.JobEvent]:
        return self.queue.WatchJob(queue_pb2.GetJobRequest(id=id_of(job)), timeout=PATIENCE)

    async def stats(self) -> queue_pb2.QueueStats:
        return await self.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest(), timeout=PATIENCE)

    async def held(self, text: str = "holds", **fields: Any) -> queue_pb2.Job:
        """Close the gate of the model's runtime, and start a job that cannot end until the gate is opened."""
        runtime = self.runtimes[fields.get("model", "small")]
        runtime.gate.clear()
        return await self.reaches(await self.enqueue(text, **fields), RUNNING)


class Fronts:
    """Starts fronts, all on one database; all of them end with the context."""

    def __init__(self, model: Path, text: ModelText, url: str) -> None:
        self._model = model
        self._text = text
        self._url = url
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self._stack.aclose()

    async def start(
        self,
        script: Script | None = None,
        *,
        models: Sequence[str] = ("small",),
        runtimes: Mapping[str, HeldRuntime] | None = None,
        held: bool = False,
        queue: Mapping[str, object] | None = None,
        opened: bool = True,
        **server: object,
    ) -> Front:
        """A front of these models, each with a runtime of its own, or over `runtimes` that there are; where
        its database can be `opened`."""
        if runtimes is None:
            runtimes = {model: HeldRuntime(script or echo(), self._text) for model in models}
            for runtime in runtimes.values():
                if held:
                    runtime.gate.clear()
                await self._stack.enter_async_context(runtime)
        config = self._config(runtimes, queue or {}, server)
        ports = await self._stack.enter_async_context(running_front(config))
        front = Front(*ports, self._stack, config, runtimes)
        if opened:
            await eventually(front.is_open)
        return front

    def _config(
        self,
        runtimes: Mapping[str, HeldRuntime],
        queue: Mapping[str, object],
        server: Mapping[str, object],
    ) -> Config:
        models = [
            {
                "id": model,
                "aliases": [f"org/{model}"],
                "path": str(self._model),
                "runtimes": [{"grpc": runtime.address}],
            }
            for model, runtime in runtimes.items()
        ]
        server = {"grpc": "127.0.0.1:0", "rest": "127.0.0.1:0", "grace": 0.1, **server}
        return parse_config(
            {"models": models, "queue": {"url": self._url, **queue}, "server": server}, "tests"
        )


def chat(text: str = "Hello", *, model: str = "small", **fields: Any) -> chat_pb2.CreateChatCompletionRequest:
    """A conversation; short of answer, unless told otherwise."""
    content = [message_pb2.ContentPart(text=text)]
    fields.setdefault("messages", [message_pb2.Message(role=message_pb2.ROLE_USER, content=content)])
    if "max_completion_tokens" not in fields:
        fields.setdefault("max_tokens", 6)
    return chat_pb2.CreateChatCompletionRequest(model=model, **fields)


def enqueue(text: str = "Hello", **fields: Any) -> queue_pb2.EnqueueRequest:
    """A job to queue; fields that are not the job's own are the conversation's."""
    names = {name for name in queue_pb2.EnqueueRequest.DESCRIPTOR.fields_by_name if name != "request"}
    own = {name: value for name, value in fields.items() if name in names}
    conversation = {name: value for name, value in fields.items() if name not in names}
    return queue_pb2.EnqueueRequest(request=chat(text, **conversation), **own)


def id_of(job: queue_pb2.Job | str) -> str:
    return job if isinstance(job, str) else job.id


async def eventually(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait until `condition` holds; it may be asynchronous."""
    end = time.monotonic() + seconds
    while True:
        held = condition()
        if isinstance(held, Awaitable):
            held = await held
        if held:
            return
        assert time.monotonic() < end, "it did not come to be"
        await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Failure:
    """How a call failed, or a job: the code, and what the details tell."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    field: str | None = None
    retry_after: float | None = None


def failure_of(status: status_pb2.Status) -> Failure:
    """What a status tells."""
    [code] = [code for code in grpc.StatusCode if code.value[0] == status.code]
    told: dict[str, Any] = {}
    for packed in status.details:
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(packed.value)
            told |= {"reason": info.reason, "metadata": dict(info.metadata)}
        elif packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            [violation] = error_details_pb2.BadRequest.FromString(packed.value).field_violations
            told["field"] = violation.field
        elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(packed.value).retry_delay
            told["retry_after"] = delay.ToNanoseconds() / 1e9
    return Failure(code, status.message, **told)


async def failure(call: Awaitable[Any]) -> Failure:
    """The failure of a call, which must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    status = rpc_status.from_call(raised.value)
    if status is None:
        return Failure(raised.value.code(), raised.value.details() or "")
    return failure_of(status)


async def events_of(stream: AsyncIterable[queue_pb2.JobEvent]) -> list[queue_pb2.JobEvent]:
    """All events of a watch."""
    return [event async for event in stream]


def kinds(events: Sequence[queue_pb2.JobEvent]) -> list[str]:
    """The kinds of the events without repetitions, for example job, chunk, job."""
    found = [event.WhichOneof("event") for event in events]
    return [kind for index, kind in enumerate(found) if index == 0 or kind != found[index - 1]]


def jobs_in(events: Sequence[queue_pb2.JobEvent]) -> list[queue_pb2.Job]:
    return [event.job for event in events if event.HasField("job")]


def chunks_in(events: Sequence[queue_pb2.JobEvent]) -> list[chat_pb2.ChatCompletionChunk]:
    return [event.chunk for event in events if event.HasField("chunk")]


def text_of(chunks: Sequence[chat_pb2.ChatCompletionChunk], index: int = 0) -> str:
    """The text of one choice, joined."""
    return "".join(
        choice.delta.content for chunk in chunks for choice in chunk.choices if choice.index == index
    )


def refuses(code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT, after: int = 0) -> Script:
    """A script of failures after a number of tokens. With the default code the queue does not try again."""
    return echo(fault=Fault("status", after=after, code=code))


async def one_of_each_state(front: Front) -> dict[int, queue_pb2.Job]:
    """A job in each state, from a front that runs one job at a time. The runtime is held at the end."""
    front.runtime.script, echoes = refuses(), front.runtime.script
    failed = await front.ended(await front.enqueue("fails"))
    front.runtime.script = echoes
    succeeded = await front.ended(await front.enqueue("succeeds"))
    running = await front.held("runs")
    cancelled = await front.enqueue("cancelled")
    await front.cancel(cancelled)
    expired = await front.ended(await front.enqueue("expires", expires_after={"nanos": 1}))
    queued = await front.enqueue("queued")
    jobs = {QUEUED: queued, RUNNING: running, SUCCEEDED: succeeded, FAILED: failed}
    jobs |= {CANCELLED: cancelled, EXPIRED: expired}
    found = {state: await front.get(job) for state, job in jobs.items()}
    assert {state: job.state for state, job in found.items()} == {state: state for state in jobs}
    return found
