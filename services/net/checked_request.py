"""Sends an HTTP request to a URL that a client chose, and connects only to addresses that were checked.

Each request has its own connection. There are no redirects, cookies, proxies or decompression. The caller
limits the time of the whole request, and the size of the response.
"""

import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager

import httpcore

from inferd.services.net.public_address import Address, AddressNotAllowed, parse_url, resolve


@asynccontextmanager
async def checked_request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None = None,
    allow_private: bool,
    connect_seconds: float,
    ssl_context: ssl.SSLContext,
) -> AsyncIterator[httpcore.Response]:
    """Yield the response, with its body still unread. Connecting may take `connect_seconds`.

    Raises AddressNotAllowed, httpcore's errors, OSError and ssl.SSLError; see `describe_failure`.
    """
    # httpcore and not httpx, because httpcore follows no redirects, keeps no cookies, ignores the proxies of
    # the environment and decompresses nothing.
    parsed = parse_url(url, allow_private=allow_private)
    target = httpcore.URL(
        scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path
    )
    all_headers = {"host": parsed.netloc.decode(), "user-agent": "inferd", "connection": "close", **headers}
    network = _CheckedNetwork(allow_private, connect_seconds)
    connection = httpcore.AsyncHTTPConnection(target.origin, ssl_context=ssl_context, network_backend=network)
    try:
        async with connection.stream(
            method, target, headers=list(all_headers.items()), content=body
        ) as response:
            yield response
    finally:
        await network.aclose()


def describe_failure(error: Exception) -> str | None:
    """Why the request failed, as text for users. None for a timeout, and for errors that are not expected."""
    if isinstance(error, AddressNotAllowed):
        return str(error)
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return "the host's name cannot be resolved"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS: certificate verify failed: {cause.verify_message}"[:200]
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {(cause.reason or 'handshake failed').replace('_', ' ').lower()}"
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno).lower()
    if isinstance(error, httpcore.RemoteProtocolError):
        return "no valid HTTP answer"
    if isinstance(error, httpcore.NetworkError):
        return "the connection was lost"
    return None


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that were checked, for one request.

    The host's name is resolved once. A second look-up at connecting could give another address (DNS
    rebinding). The Host header and the TLS certificate are still those of the name.
    """

    def __init__(self, allow_private: bool, timeout: float) -> None:
        self._allow_private = allow_private
        self._timeout = timeout
        self._inner = httpcore.AnyIOBackend()
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's.
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Try the best address of IPv6 and of IPv4. Each has its share of the time, so one dead family is no
        failure."""
        addresses = _best_of_each_family(await resolve(host, port, allow_private=self._allow_private))
        share = self._timeout / len(addresses)
        for address in addresses[:-1]:
            try:
                return await self._connect(address, port, share)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._connect(addresses[-1], port, share)

    async def _connect(self, address: Address, port: int, seconds: float) -> httpcore.AsyncNetworkStream:
        self._stream = await self._inner.connect_tcp(str(address), port, seconds)
        return self._stream

    async def aclose(self) -> None:
        """Close the connection. httpcore itself leaves it open if the TLS handshake is cut short."""
        if self._stream is not None:
            await self._stream.aclose()


def _best_of_each_family(addresses: list[Address]) -> list[Address]:
    best: dict[int, Address] = {}
    for address in addresses:
        best.setdefault(address.version, address)
    return list(best.values())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
