"""Makes one attempt to post a webhook: signed, to a public address, and within a time limit.

`webhook_deliveries` schedules the attempts. Each attempt has a new connection, because the receiver may have
closed a kept one, and the attempt would fail by that.
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

#: Attempts until a webhook fails, over about 19 hours.
MAX_ATTEMPTS = 10
#: Seconds between the attempts, before they are varied.
_DELAYS = (5, 30, 2 * 60, 10 * 60, 30 * 60, 3600, 2 * 3600, 5 * 3600, 10 * 3600)
_MAX_RETRY_AFTER = 24 * 3600
_MAX_CONNECTIONS = 64
#: The most bytes that are read of a response's body. Most receivers can then write theirs to its end.
_MAX_RESPONSE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The result of one attempt.

    `status` is the HTTP status, None if there was no response. `error` is the reason of a failure for users,
    None if the webhook was delivered. `final` means that no further attempt is to be made. `retry_after` is
    the receiver's Retry-After in seconds, 0 to a day, if it sent one.
    """

    status: int | None
    error: str | None
    final: bool = False
    retry_after: float | None = None

    @property
    def delivered(self) -> bool:
        """Whether the receiver accepted the webhook."""
        return self.error is None


def retry_delay(attempt: int) -> float:
    """Seconds from failed attempt number `attempt`, counted from 1, to the next; varied by 20 %."""
    delay = _DELAYS[min(max(attempt, 1), len(_DELAYS)) - 1]
    return delay * random.uniform(0.8, 1.2)


class WebhookSender:
    """Posts webhooks, a limited number at a time. `timeout` limits a whole attempt, in seconds.

    It trusts the certificate authorities of certifi, or those of SSL_CERT_FILE or SSL_CERT_DIR if one is set.
    """

    def __init__(self, *, allow_private: bool, timeout: float = 15.0) -> None:
        self._allow_private = allow_private
        self._timeout = timeout
        self._ssl_context = httpx.create_ssl_context()
        self._slots = asyncio.Semaphore(_MAX_CONNECTIONS)
        self._running: set[asyncio.Timeout] = set()
        self._closed = False

    async def send(self, url: str, secret: bytes, message_id: str, body: bytes) -> DeliveryResult:
        """Make one attempt. Raises only CancelledError. `timeout` does not cover the wait for a free slot."""
        result: DeliveryResult | None = None
        async with self._slots:
            limit = asyncio.timeout(0 if self._closed else self._timeout)
            self._running.add(limit)
            try:
                async with limit, self._post(url, secret, message_id, body) as response:
                    # The status decides. Errors while the body is read do not matter.
                    result = _result_of(response)
                    await _drain(response)
            except Exception as error:
                result = result or DeliveryResult(None, self._describe(error, message_id))
            finally:
                self._running.discard(limit)
        return result

    async def close(self) -> None:
        """Let running attempts fail now, and later ones at once."""
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


def _result_of(response: httpcore.Response) -> DeliveryResult:
    status = response.status
    if 200 <= status < 300:
        return DeliveryResult(status, None)
    if 300 <= status < 400:
        return DeliveryResult(status, "redirects are not followed")
    # Standard Webhooks: 410 asks for no further attempts.
    if status == 410:
        return DeliveryResult(status, "answered with status 410 (gone)", final=True)
    retry_after = _retry_after(response) if status in (429, 503) else None
    return DeliveryResult(status, f"answered with status {status}", retry_after=retry_after)


def _retry_after(response: httpcore.Response) -> float | None:
    """The seconds of Retry-After, which is a number or a date (RFC 9110, 10.2.3); None if it is neither."""
    value = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"")
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _MAX_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(text)
        # Dates in HTTP are in UTC, also in the obsolete form without a zone.
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


async def _drain(response: httpcore.Response) -> None:
    size = 0
    async for chunk in response.aiter_stream():
        size += len(chunk)
        if size >= _MAX_RESPONSE_BYTES:
            return
