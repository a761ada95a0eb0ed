"""The RPCs of QueueService: validates requests as the chat service does, stores them, and answers from the
queue.

It runs no job and has no SQL; `job_queue` and `queries` have.
"""

import hashlib
import re

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from inferd.services.api.chat_request import prepare_chat
from inferd.services.calls.context import CallContext
from inferd.services.config import QueueConfig
from inferd.services.errors import errors_within, invalid
from inferd.services.fleet.catalog import Catalog
from inferd.services.net.message_writer import Metadata
from inferd.services.queue.job_message import job_message, timestamp
from inferd.services.queue.job_queue import JobQueue
from inferd.services.queue.paging import next_page_token, parse_page
from inferd.services.queue.queries import StoredJob, list_jobs, queue_stats
from inferd.services.queue.submission import Submission, Submitted
from inferd.services.queue.webhook_deliveries import check_webhook
from inferd.v1 import queue_pb2 as pb
from inferd.v1 import queue_pb2_grpc

_MAX_ATTEMPTS = 3
_MAX_EXPIRY_SECONDS = 30 * 24 * 3600
_IDEMPOTENCY_KEY = "idempotency-key"
#: Also the keys that an HTTP header can hold: see `rest_bridge.request_headers`.
_REQUEST_ID = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")
#: A wait ends this many seconds before the call's deadline, so that the response arrives in time.
_MARGIN = 0.2


class QueueServicer(queue_pb2_grpc.QueueServiceServicer):
    """See protos/inferd/v1/queue.proto. `longest_call` limits the time of a call, in seconds."""

    def __init__(self, catalog: Catalog, queue: JobQueue, config: QueueConfig, longest_call: float) -> None:
        self._catalog = catalog
        self._queue = queue
        self._config = config
        self._longest_call = longest_call

    async def Enqueue(self, request: pb.EnqueueRequest, context: CallContext) -> pb.Job:
        submitted = await self._enqueue(request, context)
        if wait := _seconds(request.wait, "wait"):
            return job_message(await self._waited(submitted.job["id"], wait, context))
        if submitted.new:
            return job_message(await self._found(submitted))
        return job_message(await self._queue.watcher.find(submitted.job["id"]))

    async def EnqueueAndWatch(self, request: pb.EnqueueRequest, context: CallContext) -> None:
        submitted = await self._enqueue(request, context)
        await self._queue.watcher.watch(submitted.job["id"], context.writer)

    async def GetJob(self, request: pb.GetJobRequest, context: CallContext) -> pb.Job:
        found = await self._waited(request.id, _seconds(request.wait, "wait"), context)
        return job_message(found, whole=request.view != pb.JOB_VIEW_BASIC)

    async def WatchJob(self, request: pb.GetJobRequest, context: CallContext) -> None:
        await self._queue.watcher.watch(request.id, context.writer)

    async def WaitJob(self, request: pb.WaitJobRequest, context: CallContext) -> pb.Job:
        seconds = None
        if request.HasField("timeout"):
            seconds = _seconds(request.timeout, "timeout")
            if seconds < 0:
                raise invalid("timeout", "timeout must not be negative", "OUT_OF_RANGE")
        return job_message(await self._waited(request.id, seconds, context))

    async def ListJobs(self, request: pb.ListJobsRequest, context: CallContext) -> pb.ListJobsResponse:
        model = self._catalog.find(request.model).id if request.model else None
        page = parse_page(request, model)
        found, more = await self._queue.database.read(list_jobs, page)
        whole = request.view != pb.JOB_VIEW_BASIC
        jobs = [job_message(job, whole=whole) for job in found]
        response = pb.ListJobsResponse(jobs=jobs, has_more=more)
        if found:
            response.first_id, response.last_id = found[0].job["id"], found[-1].job["id"]
        if more:
            response.next_page_token = next_page_token(request, found[-1].job["seq"])
        return response

    async def CancelJob(self, request: pb.CancelJobRequest, context: CallContext) -> pb.Job:
        await self._queue.cancel(request.id)
        return job_message(await self._queue.watcher.find(request.id))

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: CallContext) -> pb.DeleteJobResponse:
        await self._queue.delete(request.id)
        return pb.DeleteJobResponse(id=request.id, deleted=True)

    async def GetQueueStats(self, request: pb.GetQueueStatsRequest, context: CallContext) -> pb.QueueStats:
        found = await self._queue.database.read(queue_stats)
        models = [
            pb.ModelQueue(
                model=model,
                queued=entry.queued,
                running=entry.running,
                running_limit=self._config.running_limit_of(model),
                oldest_queued_time=timestamp(entry.oldest),
            )
            for model, entry in sorted(found.items())
        ]
        return pb.QueueStats(
            models=models,
            queued=sum(entry.queued for entry in found.values()),
            running=sum(entry.running for entry in found.values()),
            running_limit=self._config.running_limit,
        )

    async def _waited(self, job_id: str, seconds: float | None, context: CallContext) -> StoredJob:
        remaining = context.time_remaining()
        latest = self._longest_call if remaining is None else min(remaining, self._longest_call)
        latest = max(0.0, latest - _MARGIN)
        seconds = latest if seconds is None else min(seconds, latest)
        return await self._queue.watcher.wait(job_id, seconds)

    async def _found(self, submitted: Submitted) -> StoredJob:
        if submitted.job["webhook"]:
            return await self._queue.watcher.find(submitted.job["id"])
        return StoredJob(submitted.job, position=submitted.position)

    async def _enqueue(self, request: pb.EnqueueRequest, context: CallContext) -> Submitted:
        metadata = tuple(context.invocation_metadata() or ())
        request_id = _request_id(request, metadata)
        with errors_within("request"):
            model = self._catalog.find(request.request.model, request.request.lora_path or None)
        run_after = _run_after(request)
        expires_after = _expires_after(request)
        if request.HasField("webhook"):
            check_webhook(request.webhook, self._config.webhooks)
        with errors_within("request"):
            answer = await prepare_chat(self._catalog, request.request, stream=True)
        submission = Submission(
            caller=_caller(metadata),
            request_id=request_id,
            digest=_digest(request),
            model=model.id,
            requested_model=request.request.model,
            request=request.request.SerializeToString(),
            priority=request.priority,
            run_after=run_after,
            expires_after=expires_after,
            max_attempts=request.max_attempts if request.HasField("max_attempts") else _MAX_ATTEMPTS,
            webhook_url=request.webhook.url if request.HasField("webhook") else None,
            webhook_secret=request.webhook.secret if request.webhook.HasField("secret") else None,
        )
        submitted = await self._queue.submit(submission)
        # Sent before the first event, so that a client that loses the connection can find its job again.
        await context.send_initial_metadata(
            (*answer.generation.metadata(), ("x-inferd-job", submitted.job["id"]))
        )
        return submitted


def _request_id(request: pb.EnqueueRequest, metadata: Metadata) -> str | None:
    """The id that the caller gave the request, from `request_id` or the metadata `idempotency-key`."""
    given = request.request_id if request.HasField("request_id") else None
    if given is not None:
        _check_request_id(given, "request_id")
    keys = [str(value) for name, value in metadata if name == _IDEMPOTENCY_KEY]
    if not keys:
        return given
    if len(keys) > 1:
        raise invalid("request_id", f"{_IDEMPOTENCY_KEY} must be given once, not {len(keys)} times")
    _check_request_id(keys[0], _IDEMPOTENCY_KEY)
    if given is not None and given != keys[0]:
        raise invalid("request_id", f"request_id and {_IDEMPOTENCY_KEY} are both given, and differ")
    return keys[0]


def _check_request_id(value: str, name: str) -> None:
    if not _REQUEST_ID.fullmatch(value):
        raise invalid(
            "request_id",
            f"{name} must be 1 to 255 printable ASCII characters, without a space at either end",
            "OUT_OF_RANGE",
        )


def _caller(metadata: Metadata) -> str:
    """A hash that stands for the caller's credentials, which are not stored. Empty if there are none."""
    credentials = "".join(str(value) for name, value in metadata if name == "authorization")
    return hashlib.sha256(credentials.encode()).hexdigest()[:32] if credentials else ""


def _digest(request: pb.EnqueueRequest) -> bytes:
    """A hash of the request without its id and `wait`. A field with its default counts as unset."""
    same = pb.EnqueueRequest()
    same.CopyFrom(request)
    if not request.priority:
        same.ClearField("priority")
    if request.max_attempts == _MAX_ATTEMPTS:
        same.ClearField("max_attempts")
    same.ClearField("request_id")
    same.ClearField("wait")
    return hashlib.sha256(same.SerializeToString(deterministic=True)).digest()


def _run_after(request: pb.EnqueueRequest) -> int | None:
    if not request.HasField("not_before"):
        return None
    value: Timestamp = request.not_before
    try:
        value.ToJsonString()
    except ValueError:
        raise invalid(
            "not_before", "not_before must be a time in the years 1 to 9999", "OUT_OF_RANGE"
        ) from None
    return value.ToMicroseconds()


def _expires_after(request: pb.EnqueueRequest) -> int | None:
    if not request.HasField("expires_after"):
        return None
    seconds = _seconds(request.expires_after, "expires_after")
    if not 0 < seconds <= _MAX_EXPIRY_SECONDS:
        raise invalid(
            "expires_after",
            f"expires_after must be above 0 and at most {_MAX_EXPIRY_SECONDS} s, not {seconds} s",
            "OUT_OF_RANGE",
        )
    return max(1, request.expires_after.ToMicroseconds())


def _seconds(value: Duration, field: str) -> float:
    try:
        value.ToJsonString()
    except ValueError:
        raise invalid(field, f"{field} is no valid duration", "OUT_OF_RANGE") from None
    return value.ToNanoseconds() / 1e9
