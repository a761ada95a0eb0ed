"""One run of a job: generates the answer, and decides what an error means for the job.

It does not write to the database; `runner` does.
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
from inferd.services.queue.job_end import RunEnded, RunRequeued
from inferd.services.queue.job_id import Run
from inferd.services.queue.job_message import attempts_lost_error
from inferd.v1 import chat_pb2

log = logging.getLogger("inferd.queue")

#: Errors of the request or of the server's configuration. The job fails, because another attempt would fail
#: too.
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
    """A run in this process, and the chunks that it has generated so far, for the calls that follow it."""

    def __init__(self, run: Run, model: str) -> None:
        # This flow is never paused: a run does not wait for the calls that follow it.
        self.flow = Flow()
        self.run = run
        self.model = model
        self.task: asyncio.Task[None] | None = None
        self.chunks: list[chat_pb2.ChatCompletionChunk] = []
        #: Whether a client of another process watches, and how many chunks were stored for it.
        self.watched = False
        self.stored = 0
        #: The number of calls in this process that follow the run.
        self.followers = 0
        self._ended = False
        self._changed = asyncio.Event()

    def push(self, message: Any) -> None:
        """Add a chunk."""
        self.chunks.append(message)
        self._notify()

    def text_sink(self, message: Message, part: Message, field: str) -> NoReturn:
        """Not used, because a stored answer needs whole chunks."""
        raise NotImplementedError

    def end(self) -> None:
        """No more chunks follow. Called after the end is stored, or after the run has lost its job."""
        self._ended = True
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(
        self, first: int, push: Callable[[chat_pb2.ChatCompletionChunk], None], flow: Flow
    ) -> int:
        """Push the chunks from number `first` on, until the run has ended. Returns the number of all chunks.

        While `flow` is paused, the chunks wait in the run.
        """
        self.followers += 1
        try:
            while True:
                changed = self._changed
                while first < len(self.chunks):
                    push(self.chunks[first])
                    first += 1
                    if flow.is_paused:
                        await flow.room()
                if self._ended:
                    return first
                await changed.wait()
        finally:
            self.followers -= 1

    def unstored(self) -> list[tuple[int, bytes]]:
        """The chunks, each with its number, that must still be stored for clients of other processes."""
        if not self.watched:
            return []
        return [
            (number, self.chunks[number].SerializeToString())
            for number in range(self.stored, len(self.chunks))
        ]


async def generate(catalog: Catalog, job_id: str, created: int, data: bytes, local: LocalRun) -> bytes:
    """Answer the serialized request `data`: the serialized completion. The chunks go to `local`."""
    request = chat_pb2.CreateChatCompletionRequest.FromString(data)
    answer = await prepare_chat(catalog, request, stream=True, background=True)
    answer.id, answer.generation.created, answer.keep_deltas = job_id, created, True
    await answer.stream(local)
    completion: bytes = answer.completion().SerializeToString()
    return completion


def outcome_of_error(
    run: Run, error: ServiceError, *, attempts: int, most: int, lost: int
) -> RunEnded | RunRequeued:
    """What happens to the job after its run raised `error`: the job fails, or is queued again.

    `attempts` is the number of attempts with this one, `most` the number of allowed attempts, and `lost` the
    number of lost attempts before this one.
    """
    status = error.to_status().SerializeToString()
    if error.code in _FINAL:
        return RunEnded(run, None, status)
    if error.code is grpc.StatusCode.UNAVAILABLE:
        # The runtime is gone. The job runs again when a runtime of its model serves.
        if lost + 1 >= MAX_LOST_ATTEMPTS:
            return RunEnded(run, None, attempts_lost_error(MAX_LOST_ATTEMPTS))
        return RunRequeued(run, _delay(max(0, lost - 3)), status, lost=True)
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return RunRequeued(run, _delay(0), status)
    if attempts >= most:
        return RunEnded(run, None, status)
    return RunRequeued(run, _delay(attempts), status, counted=True)


def _delay(number: int) -> int:
    """Microseconds until the next try: 0.5 s, doubled `number` times, at most 60 s, varied by 20 %."""
    seconds = min(60.0, 0.5 * 2.0 ** min(number, 10))
    return int(seconds * random.uniform(0.8, 1.2) * _SECOND)


def timed_out(seconds: float) -> ServiceError:
    """The error DEADLINE_EXCEEDED: the run took longer than `seconds`, the limit of a call."""
    return ServiceError(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
        f"the answer was not complete after {seconds:g} s, the longest time that one may take",
    )


def unexpected(job_id: str) -> ServiceError:
    """The error INTERNAL. Must be called in an `except` block, because it logs the exception."""
    log.exception("unexpected error; job %s", job_id)
    return ServiceError(
        grpc.StatusCode.INTERNAL,
        "INTERNAL",
        "an unexpected error, which the server has logged under the job's id",
    )
