"""Posts webhooks: one try, signed, to an address that may be posted to, within a bounded time.

When to try again is told here, and kept elsewhere. Each try has a connection of its own: one that is kept
may have been closed by the other end, which shows only once the try has failed by it.
"""

import asyncio
import logging
import random
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpcore
import httpx
from inferd.services.net.checked_request import checked_request, describe_failure
from inferd.services.net.webhook_signature import signature_headers

log = logging.getLogger("inferd.webhooks")

#: How many times a webhook is tried before it is given up: over about 19 hours.
MAX_TRIES = 10
#: Seconds between the tries, before the jitter.
_DELAYS = (5, 30, 2 * 60, 10 * 60, 30 * 60, 3600, 2 * 3600, 5 * 3600, 10 * 3600)
_MAX_RETRY_AFTER = 24 * 3600
_MAX_CONNECTIONS = 64
#: What is read of an answer's body: enough that most receivers can write theirs to its end.
_MAX_ANSWER_BYTES = 1024


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """How one try went.

    `status` is the HTTP status of the answer, if there was one; `error` what was wrong, None where it was
    delivered; `final` where no other try can help; `retry_after` the seconds asked for by the receiver, if
    any, 0 to a day.
    """

    status: int | None
    error: str | None
    final: bool = False
    retry_after: float | None = None

    @property
    def delivered(self) -> bool:
        """Whether the receiver has it."""
        return self.error is None


def retry_delay(attempt: int) -> float:
    """Seconds until the try after the attempt-th failed one, counted from 1; up to 20% more or less."""
    delay = _DELAYS[min(max(attempt, 1), len(_DELAYS)) - 1]
    return delay * random.uniform(0.8, 1.2)


class WebhookSender:
    """Posts webhooks, a bounded number at a time. `timeout` is that of a whole try, in seconds.

    Trusts the certificate authorities of certifi, or those of SSL_CERT_FILE or SSL_CERT_DIR where set.
    """

    def __init__(self, *, allow_private: bool, timeout: float = 15.0) -> None:
        self._allow_private = allow_private
        self._timeout = timeout
        self._ssl_context = httpx.create_ssl_context()
        self._slots = asyncio.Semaphore(_MAX_CONNECTIONS)
        self._running: set[asyncio.Timeout] = set()
        self._closed = False

    async def send(self, url: str, secret: bytes, message_id: str, body: bytes) -> DeliveryResult:
        """Try once. Raises nothing but CancelledError. The wait for a free connection is not timed."""
        result: DeliveryResult | None = None
        async with self._slots:
            limit = asyncio.timeout(0 if self._closed else self._timeout)
            self._running.add(limit)
            try:
                async with limit, self._post(url, secret, message_id, body) as answer:
                    # The status decides: whatever befalls the rest of the answer changes nothing.
                    result = _result_of(answer)
                    await _drain(answer)
            except Exception as error:
                result = result or DeliveryResult(None, self._describe(error, message_id))
            finally:
                self._running.discard(limit)
        return result

    async def close(self) -> None:
        """End the tries that still run, as failed ones; later ones fail at once."""
        self._closed = True
        now = asyncio.get_running_loop().time()
        for limit in self._running:
            if not limit.expired():
                limit.reschedule(now)

    def _post(
        self, url: str, secret: bytes, message_id: str, body: bytes
    ) -> AbstractAsyncContextManager[httpcore.Response]:
        return checked_request(
            "POST",
            url,
            headers={
                "content-type": "application/json",
                **signature_headers(secret, message_id, int(time.time()), body),
            },
            body=body,
            allow_private=self._allow_private,
            connect_seconds=self._timeout,
            ssl_context=self._ssl_context,
        )

    def _describe(self, error: Exception, message_id: str) -> str:
        if self._closed and isinstance(error, TimeoutError):
            return "the server stopped"
        if isinstance(error, TimeoutError | httpcore.TimeoutException):
            return f"timed out after {self._timeout:g} s"
        known = describe_failure(error)
        if known is not None:
            return known
        log.error("webhook %s: cannot be posted", message_id, exc_info=error)
        return "cannot be posted"


def _result_of(answer: httpcore.Response) -> DeliveryResult:
    status = answer.status
    if 200 <= status < 300:
        return DeliveryResult(status, None)
    if 300 <= status < 400:
        return DeliveryResult(status, "redirects are not followed")
    # Standard Webhooks: the receiver wants no more of it.
    if status == 410:
        return DeliveryResult(status, "answered with status 410 (gone)", final=True)
    retry_after = _retry_after(answer) if status in (429, 503) else None
    return DeliveryResult(status, f"answered with status {status}", retry_after=retry_after)


def _retry_after(answer: httpcore.Response) -> float | None:
    """Seconds, from either of the header's forms (RFC 9110, 10.2.3)."""
    value = next((value for name, value in answer.headers if name.lower() == b"retry-after"), b"")
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _MAX_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(text)
        # The header's dates are in UTC, also in the form that does not say so.
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


async def _drain(answer: httpcore.Response) -> None:
    size = 0
    async for chunk in answer.aiter_stream():
        size += len(chunk)
        if size >= _MAX_ANSWER_BYTES:
            return
