"""One run of a job: the answer generated, and what an error means for the job.

Writes nothing: the runner does.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message
from inferd.services.api.chat_request import prepare_chat
from inferd.services.errors import ServiceError
from inferd.services.fleet.catalog import Catalog
from inferd.services.net.flow import Flow
from inferd.services.queue.claims import MAX_LOST_ATTEMPTS
from inferd.services.queue.job_end import Run, RunEnded, RunRequeued
from inferd.services.queue.job_message import attempts_lost_error
from inferd.v1 import chat_pb2

log = logging.getLogger("inferd.queue")

#: The request is at fault, or the server's configuration: the same would happen again.
_FINAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
}
_SECOND = 1_000_000


class LocalRun:
    """A run in this process: the chunks that it has generated, for those who follow it."""

    def __init__(self, run: Run, model: str) -> None:
        # Never paused: a run waits for nobody who follows it.
        self.flow = Flow()
        self.run = run
        self.model = model
        self.task: asyncio.Task[None] | None = None
        self.chunks: list[chat_pb2.ChatCompletionChunk] = []
        #: Whether another process watches, and how many chunks are stored for it.
        self.watched = False
        self.stored = 0
        #: How many follow it in this process.
        self.followers = 0
        self._ended = False
        self._news = asyncio.Event()

    def push(self, message: Any) -> None:
        """Add a chunk."""
        self.chunks.append(message)
        self._tell()

    def text_sink(self, message: Message, part: Message, field: str) -> NoReturn:
        """Not used: an answer that is kept is not told by its texts alone."""
        raise NotImplementedError

    def end(self) -> None:
        """There are no more, and how it ended is stored; or it is not this process's any more."""
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def follow(
        self, first: int, push: Callable[[chat_pb2.ChatCompletionChunk], None], flow: Flow
    ) -> int:
        """Push its chunks, from number `first` on, until it has ended. The number of chunks then.

        While `flow` is paused, the chunks wait in the run.
        """
        self.followers += 1
        try:
            while True:
                news = self._news
                while first < len(self.chunks):
                    push(self.chunks[first])
                    first += 1
                    if flow.is_paused:
                        await flow.room()
                if self._ended:
                    return first
                await news.wait()
        finally:
            self.followers -= 1

    def unstored(self) -> list[tuple[int, bytes]]:
        """The chunks, by number, that are to be stored for those who watch from other processes."""
        if not self.watched:
            return []
        return [
            (number, self.chunks[number].SerializeToString())
            for number in range(self.stored, len(self.chunks))
        ]


async def generate(catalog: Catalog, job_id: str, created: int, data: bytes, local: LocalRun) -> bytes:
    """Answer the serialized request `data`: the serialized completion. Its chunks go to `local`."""
    request = chat_pb2.CreateChatCompletionRequest.FromString(data)
    answer = await prepare_chat(catalog, request, stream=True, background=True)
    answer.id, answer.generation.created, answer.keep = job_id, created, True
    await answer.stream(local)
    completion: bytes = answer.completion().SerializeToString()
    return completion


def outcome_of_error(
    run: Run, error: ServiceError, *, attempts: int, most: int, lost: int
) -> RunEnded | RunRequeued:
    """What an error means for a job that is at attempt number `attempts` of `most`, and has lost `lost`."""
    status = error.to_status().SerializeToString()
    if error.code in _FINAL:
        return RunEnded(run, None, status)
    if error.code is grpc.StatusCode.UNAVAILABLE:
        # The runtime went away. Its model's jobs are claimed again once it serves.
        if lost + 1 >= MAX_LOST_ATTEMPTS:
            return RunEnded(run, None, attempts_lost_error(MAX_LOST_ATTEMPTS))
        return RunRequeued(run, _delay(max(0, lost - 3)), status, lost=True)
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return RunRequeued(run, _delay(0), status)
    if attempts >= most:
        return RunEnded(run, None, status)
    return RunRequeued(run, _delay(attempts), status, counted=True)


def _delay(number: int) -> int:
    """Microseconds to wait after so many tries: half a second, and each time double, up to a minute."""
    seconds = min(60.0, 0.5 * 2.0 ** min(number, 10))
    return int(seconds * random.uniform(0.8, 1.2) * _SECOND)


def timed_out(seconds: float) -> ServiceError:
    """DEADLINE_EXCEEDED: the run took longer than a call may."""
    return ServiceError(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
        f"the answer was not complete after {seconds:g} s, the longest time that one may take",
    )


def unexpected(job_id: str) -> ServiceError:
    """INTERNAL, logged: called while the exception is handled."""
    log.exception("unexpected error; job %s", job_id)
    return ServiceError(
        grpc.StatusCode.INTERNAL,
        "INTERNAL",
        "an unexpected error, which the server has logged under the job's id",
    )
