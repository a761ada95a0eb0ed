"""Posts the webhooks of ended jobs, and retries them until they are delivered or their attempts are used up.

Due webhooks stay in the database until then, so they outlive this process. `webhook_sender` makes the
HTTP request.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from google.protobuf.timestamp_pb2 import Timestamp

from inferd.services.config import WebhookConfig
from inferd.services.errors import ServiceError, invalid
from inferd.services.net.public_address import AddressNotAllowed, check_url
from inferd.services.net.wait import wait_for_event
from inferd.services.net.webhook_signature import parse_secret
from inferd.services.queue.database import Database, Transaction
from inferd.services.queue.job_message import job_message
from inferd.services.queue.queries import StoredJob, find_job
from inferd.services.queue.repeat import repeat
from inferd.services.queue.tables import D, DeliveryState, J, deliveries
from inferd.services.queue.webhook_sender import MAX_ATTEMPTS, DeliveryResult, WebhookSender, retry_delay
from inferd.v1 import queue_pb2 as pb

#: Seconds until the database is checked without a known change.
_POLL = 10.0
#: The most webhooks that one process posts at the same time.
_MAX_CONCURRENT = 16
#: How long a process has a webhook for itself, in microseconds. It is longer than an attempt may take.
_LEASE = 120_000_000

EncodeJob = Callable[[pb.Job], bytes]


def check_webhook(webhook: pb.Webhook, config: WebhookConfig) -> None:
    """Raise ServiceError INVALID_ARGUMENT if the webhook cannot be posted."""
    try:
        check_url(webhook.url, allow_private=config.allow_private)
    except AddressNotAllowed as error:
        raise invalid("webhook.url", f"webhook.url: {error}") from None
    if webhook.HasField("secret"):
        try:
            parse_secret(webhook.secret)
        except ValueError as error:
            raise invalid("webhook.secret", f"webhook.secret {error}") from None
    elif config.secret is None:
        raise invalid(
            "webhook.secret",
            "webhook.secret is required: the server's configuration has no queue.webhooks.secret",
            "REQUIRED_FIELD_MISSING",
        )


_CLAIM = (
    deliveries.update()
    .where(
        D.seq.in_(
            sa.select(D.seq)
            .where(D.due.is_not(None), D.due <= sa.bindparam("now"))
            .order_by(D.due)
            .limit(sa.bindparam("most"))
        ),
        D.due <= sa.bindparam("now"),
    )
    .values(due=sa.bindparam("until"))
    .returning(deliveries)
)
_ID = sa.select(J.id).where(J.seq == sa.bindparam("of_seq"))


_NEXT = sa.select(sa.func.min(D.due))


def _claim_due(transaction: Transaction, most: int) -> tuple[list[tuple[Any, StoredJob]], float]:
    """Claim up to `most` due webhooks. Returns their rows and jobs, and the seconds until more are due."""
    taken = []
    for row in transaction.rows(_CLAIM, now=transaction.now, most=most, until=transaction.now + _LEASE):
        job_id = transaction.scalar(_ID, of_seq=row.seq)
        found = find_job(transaction, row.seq, job_id) if job_id is not None else None
        if found is not None:
            taken.append((row, found))
    due = transaction.scalar(_NEXT)
    return taken, _POLL if due is None else min(_POLL, max(0.0, (due - transaction.now) / 1e6))


_RECORD = (
    deliveries.update()
    .where(D.seq == sa.bindparam("of_seq"), D.attempts == sa.bindparam("before"))
    .values(
        state=sa.bindparam("to_state"),
        attempts=D.attempts + 1,
        response_status=sa.bindparam("to_status"),
        error=sa.bindparam("to_error"),
        attempted=sa.bindparam("now"),
        due=sa.bindparam("to_due"),
    )
)


def _record(transaction: Transaction, row: Any, result: DeliveryResult) -> None:
    """Write the result of an attempt, and when the next attempt is due."""
    attempts = row.attempts + 1
    state, due = DeliveryState.PENDING, None
    if result.delivered:
        state = DeliveryState.DELIVERED
    elif result.final or attempts >= MAX_ATTEMPTS:
        state = DeliveryState.FAILED
    else:
        wait = max(retry_delay(attempts), result.retry_after or 0.0)
        due = transaction.now + int(wait * 1e6)
    transaction.execute(
        _RECORD,
        {
            "of_seq": row.seq,
            "before": row.attempts,
            "to_state": state,
            "to_status": result.status,
            "to_error": result.error,
            "now": transaction.now,
            "to_due": due,
        },
    )


class WebhookDeliveries:
    """Posts the due webhooks in `database`. `encode` makes the JSON of a job."""

    def __init__(self, database: Database, config: WebhookConfig, encode: EncodeJob) -> None:
        self._database = database
        self._secret = config.secret
        self._sender = WebhookSender(allow_private=config.allow_private)
        self._encode = encode
        self._wake = asyncio.Event()
        self._wait_seconds = 0.0
        self._posting: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """Check the database now: a webhook may be due."""
        self._wake.set()

    async def work(self) -> None:
        """Post webhooks until cancelled."""
        try:
            await repeat("posting webhooks", self._post_due)
        finally:
            for task in self._posting:
                task.cancel()
            await asyncio.gather(*self._posting, return_exceptions=True)
            await self._sender.close()

    async def _post_due(self) -> None:
        await wait_for_event(self._wake, self._wait_seconds)
        self._wake.clear()
        room = _MAX_CONCURRENT - len(self._posting)
        if room <= 0:
            # `_posted` sets the event when a slot is free.
            self._wait_seconds = _POLL
            return
        taken, self._wait_seconds = await self._database.write(_claim_due, room)
        for row, found in taken:
            task = asyncio.create_task(self._post(row, found), name=f"webhook of {found.job['id']}")
            self._posting.add(task)
            task.add_done_callback(self._posted)

    def _posted(self, task: asyncio.Task[None]) -> None:
        self._posting.discard(task)
        self._wake.set()

    async def _post(self, row: Any, found: StoredJob) -> None:
        secret = row.secret or self._secret
        if secret is None:
            result = DeliveryResult(None, "the configuration has no queue.webhooks.secret any more")
        else:
            body = self._body(job_message(found))
            result = await self._sender.send(row.url, parse_secret(secret), found.job["id"], body)
        # If this fails, the webhook is posted again later. A webhook may arrive twice, but is never lost.
        with contextlib.suppress(ServiceError):
            await self._database.write(_record, row, result)

    def _body(self, job: pb.Job) -> bytes:
        """The body of the webhook. It is the same in each attempt."""
        state = pb.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()
        time = job.finish_time.ToJsonString() if job.HasField("finish_time") else Timestamp().ToJsonString()
        job.ClearField("webhook")
        head = f'{{"type":"chat.completion.{state}","timestamp":"{time}","data":'
        return head.encode() + self._encode(job) + b"}"
