"""Fetches images that requests give by URL, from hosts that the configuration allows.

Checks host, address, size and content type. Does not look into the files: `media` does.
"""

import asyncio
import logging
import ssl
from functools import cached_property

import httpcore
import httpx

from inferd.services.config import MediaConfig
from inferd.services.net.checked_request import checked_request, describe_failure
from inferd.services.net.public_address import AddressNotAllowed, parse_url

log = logging.getLogger("inferd.media")

#: How many files one process fetches at the same time.
_MAX_FETCHES = 32
_ACCEPT = "image/png, image/jpeg, image/webp, image/gif, image/bmp"


class MediaNotFetched(Exception):
    """A file cannot be fetched. The message says why, for people."""


class MediaFetcher:
    """Fetches files for all models of a process, a bounded number at the same time."""

    def __init__(self, config: MediaConfig) -> None:
        self.config = config
        self._slots = asyncio.Semaphore(_MAX_FETCHES)

    def check(self, url: str) -> None:
        """Raise MediaNotFetched if the host of a URL is not allowed. Does no DNS lookup."""
        try:
            parsed = parse_url(url, allow_private=self.config.allow_private)
        except AddressNotAllowed as error:
            raise MediaNotFetched(str(error)) from None
        host = parsed.raw_host.decode().rstrip(".")
        if not any(_matches(host, allowed) for allowed in self.config.allowed_hosts):
            raise MediaNotFetched(
                f"images are not fetched from {host[:256]}: send a data URL, or have the host added to"
                " media.allowed_hosts in the configuration"
            )

    async def fetch(self, url: str) -> bytes:
        """The file at a URL that `check` has accepted. Raises MediaNotFetched."""
        seconds = self.config.timeout
        try:
            async with self._slots, asyncio.timeout(seconds):
                return await self._read(url)
        except MediaNotFetched:
            raise
        except (TimeoutError, httpcore.TimeoutException):
            raise MediaNotFetched(f"fetching it timed out after {seconds:g} s") from None
        except Exception as error:
            known = describe_failure(error)
            if known is None:
                log.error("an image cannot be fetched", exc_info=error)
            raise MediaNotFetched(f"it cannot be fetched: {known or 'the request failed'}") from None

    async def _read(self, url: str) -> bytes:
        async with checked_request(
            "GET",
            url,
            # Not compressed, because the limit on bytes is for the transferred file.
            headers={"accept": _ACCEPT, "accept-encoding": "identity"},
            allow_private=self.config.allow_private,
            connect_seconds=self.config.timeout,
            ssl_context=self._ssl_context,
        ) as answer:
            headers = {name.lower(): value.decode("latin-1") for name, value in answer.headers}
            _check_headers(answer.status, headers)
            size = headers.get(b"content-length", "")
            if size.isascii() and size.isdigit() and int(size) > self.config.max_bytes:
                raise self._too_long()
            file = bytearray()
            async for chunk in answer.aiter_stream():
                file += chunk
                if len(file) > self.config.max_bytes:
                    raise self._too_long()
            return bytes(file)

    def _too_long(self) -> MediaNotFetched:
        return MediaNotFetched(f"it is longer than {self.config.max_bytes} bytes")

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()


def _matches(host: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return host.endswith(allowed[1:])
    return host == allowed


def _check_headers(status: int, headers: dict[bytes, str]) -> None:
    if 300 <= status < 400:
        raise MediaNotFetched("it was answered with a redirect, and these are not followed")
    if status != 200:
        raise MediaNotFetched(f"it was answered with status {status}")
    media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if not media_type.startswith("image/"):
        raise MediaNotFetched(f"its content-type is {media_type[:64]!r}, and must be that of an image")
