"""Finds a job, waits for its end, and watches its state, its position and its answer as it is generated.

A job of another process is watched by way of the database (`stored_chunks`).
"""

import time

import grpc
from google.rpc import status_pb2

from inferd.services.api.chat_replay import replay_chunks
from inferd.services.errors import ServiceError
from inferd.services.net.message_writer import MessageWriter
from inferd.services.queue.database import Database
from inferd.services.queue.job_end import not_found
from inferd.services.queue.job_id import seq_of
from inferd.services.queue.job_message import is_ended, job_message
from inferd.services.queue.queries import StoredJob, find_job, read_request
from inferd.services.queue.runner import Runner
from inferd.services.queue.stored_chunks import read_chunks, request_chunks
from inferd.services.queue.subscriptions import Subscription, Subscriptions
from inferd.services.queue.tables import JobState
from inferd.v1 import chat_pb2
from inferd.v1 import queue_pb2 as pb

#: Seconds until the stored chunks of a job of another process are read without a notification.
_CHUNK_POLL = 2.0


class JobWatcher:
    """Finds, waits for and watches jobs. `runner` runs some of them in this process.

    All methods raise ServiceError NOT_FOUND. Waits raise UNAVAILABLE once `stop` was called, because a job
    may wait longer than this process lives.
    """

    def __init__(self, database: Database, runner: Runner, subscriptions: Subscriptions) -> None:
        self._database = database
        self._runner = runner
        self._subscriptions = subscriptions
        self._stopping = False

    def stop(self) -> None:
        """End all waits."""
        self._stopping = True
        self._subscriptions.notify_all()

    async def find(self, job_id: str) -> StoredJob:
        """The stored job."""
        seq = seq_of(job_id)
        found = None if seq is None else await self._database.read(find_job, seq, job_id)
        if found is None:
            raise not_found(job_id)
        return found

    async def wait(self, job_id: str, seconds: float | None) -> StoredJob:
        """Wait for the end of the job, at most `seconds` (None: without limit). Returns the job."""
        end = None if seconds is None else time.monotonic() + seconds
        with self._subscriptions.subscribe(seq_of(job_id) or 0) as subscription:
            while True:
                found = await self.find(job_id)
                left = None if end is None else end - time.monotonic()
                if is_ended(found) or (left is not None and left <= 0):
                    return found
                self._check_stopping()
                await subscription.wait(left)

    def _check_stopping(self) -> None:
        if self._stopping:
            raise ServiceError(
                grpc.StatusCode.UNAVAILABLE,
                "SHUTTING_DOWN",
                "the server is stopping; the job stays in the queue",
                retry_after=1,
            )

    async def watch(self, job_id: str, writer: MessageWriter) -> None:
        """Push the job's events to `writer`, up to its end; see QueueService.Watch."""

        def push_chunk(chunk: chat_pb2.ChatCompletionChunk) -> None:
            writer.push(pb.JobEvent(chunk=chunk))

        with self._subscriptions.subscribe(seq_of(job_id) or 0, with_position=True) as subscription:
            last_sent: pb.Job | None = None
            #: The run whose chunks were sent, and the number of sent chunks.
            run, sent = 0, 0
            while True:
                found = await self.find(job_id)
                job = job_message(found, whole=False)
                # The client has this position now. The next change is measured by it, and not by the last
                # check, which was earlier.
                subscription.position = job.queue_position if job.HasField("queue_position") else None
                if job != last_sent:
                    last_sent = job
                    writer.push(pb.JobEvent(job=job))
                row = found.job
                if sent and (row["runs"] != run or row["state"] in (JobState.QUEUED, JobState.DELAYED)):
                    raise _attempt_lost(job_id)
                if row["state"] == JobState.RUNNING:
                    local = self._runner.local(row["seq"], row["runs"])
                    run = row["runs"]
                    if local is not None:
                        sent = await local.follow(sent, push_chunk, writer.flow)
                        continue
                    for chunk in await self._stored(row["seq"], run, sent):
                        push_chunk(chunk)
                        sent += 1
                elif is_ended(found):
                    for event in await self._end(found, run, sent):
                        writer.push(event)
                    return
                self._check_stopping()
                await writer.flow.room()
                await self._next(subscription, found)

    async def _next(self, subscription: Subscription, found: StoredJob) -> None:
        if found.job["state"] == JobState.RUNNING:
            # Another process runs the job, and stores its chunks for us.
            subscription.wants_chunks = True
            await self._database.write(request_chunks, found.job["seq"])
            await subscription.wait(_CHUNK_POLL)
        else:
            subscription.wants_chunks = False
            await subscription.wait()

    async def _stored(self, seq: int, run: int, first: int) -> list[chat_pb2.ChatCompletionChunk]:
        found = await self._database.read(read_chunks, seq, run, first)
        return [chat_pb2.ChatCompletionChunk.FromString(chunk) for chunk in found]

    async def _end(self, found: StoredJob, run: int, sent: int) -> list[pb.JobEvent]:
        """The last events of an ended job, after `sent` chunks of `run` were sent."""
        row = found.job
        if found.completion is None:
            return [pb.JobEvent(error=status_pb2.Status.FromString(row["error"] or b""))]
        completion = chat_pb2.ChatCompletion.FromString(found.completion)
        if sent:
            # Only chunks of another process can be missing; those of this process were all sent.
            chunks = await self._stored(row["seq"], run, sent)
        else:
            request = await self._database.read(read_request, row["seq"])
            chunks = replay_chunks(
                completion, chat_pb2.CreateChatCompletionRequest.FromString(request or b"")
            )
        return [pb.JobEvent(chunk=chunk) for chunk in chunks]


def _attempt_lost(job_id: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ABORTED,
        "ATTEMPT_LOST",
        "the attempt whose answer was streamed was lost, and the job is tried again: watch it again",
        retry_after=1,
        metadata={"id": job_id},
    )
