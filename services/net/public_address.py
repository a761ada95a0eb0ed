"""Checks that a URL chosen by a client leads to a public host.

Clients choose the URLs of webhooks and images. Without a check, a client could make this server connect to
the server's own network: to databases, admin pages or the cloud's metadata (server-side request forgery).
`check_url` refuses bad URLs early, without looking names up. `resolve` looks a name up and checks its
addresses; `checked_request` connects to those addresses. This module connects to nothing.
"""

import asyncio
import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpx

Address = IPv4Address | IPv6Address

_HOST = re.compile(r"(?=.{1,253}$)([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?")
#: IPv4 hosts as IPv6 addresses (RFC 6052), which networks without IPv4 use.
_NAT64 = ip_network("64:ff9b::/96")
#: The IPv6 addresses that are assigned to hosts at all (RFC 4291).
_UNICAST = ip_network("2000::/3")
#: Networks that Python's is_global takes for public, at least in some versions of Python.
_NOT_PUBLIC = [
    ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's metadata: a public address, answered by the machine's own host.
        "192.0.0.0/24",  # For protocols (RFC 6890); Oracle's metadata.
        "192.88.99.0/24",  # Relays of 6to4 (RFC 7526).
        "2001::/23",  # For protocols (RFC 2928); Teredo, which embeds IPv4 addresses.
        "2002::/16",  # 6to4, which embeds IPv4 addresses.
        "3fff::/20",  # For documentation (RFC 9637).
    )
]


class AddressNotAllowed(Exception):
    """This server does not connect to the URL. The message says why, for users."""


def check_url(url: str, *, allow_private: bool) -> None:
    """Raise AddressNotAllowed if the URL is not valid or its host is not public. Looks up no name."""
    parse_url(url, allow_private=allow_private)


def parse_url(url: str, *, allow_private: bool) -> httpx.URL:
    """The parsed URL, with its host in lower-case ASCII. Raises as check_url does."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise AddressNotAllowed("the URL is not valid") from None
    host = parsed.raw_host.decode()
    if parsed.scheme not in ("http", "https"):
        raise AddressNotAllowed("the URL must begin with http:// or https://")
    if not host:
        raise AddressNotAllowed("the URL has no host")
    if parsed.userinfo:
        raise AddressNotAllowed("the URL must not have a user name or password")
    if "#" in url:
        raise AddressNotAllowed("the URL must not have a fragment")
    if parsed.port is not None and not 1 <= parsed.port <= 65535:
        raise AddressNotAllowed("the URL's port must be 1 to 65535")
    address = _literal(host)
    if address is None and not _HOST.fullmatch(host):
        raise AddressNotAllowed("the URL's host is not valid")
    if not allow_private:
        name = host.rstrip(".")
        if name == "localhost" or name.endswith(".localhost"):
            raise AddressNotAllowed("the host is this machine, and private addresses are not allowed")
        if address is not None:
            _check_public(address)
    return parsed


async def resolve(host: str, port: int, *, allow_private: bool) -> list[Address]:
    """The addresses of the host, best first.

    Raises AddressNotAllowed if any of the addresses is not public, because a host with both kinds is either
    misconfigured or an attack. Raises socket.gaierror if there is no address.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(ip_address(entry[4][0]) for entry in found))
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    if not allow_private:
        for address in addresses:
            _check_public(address)
    return addresses


def is_public(address: Address) -> bool:
    """Whether the address is a single host's, and the whole Internet reaches the host by it."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            address = IPv4Address(int(address) & 0xFFFF_FFFF)
        elif address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address not in _UNICAST:
            return False
    if address.is_multicast or not address.is_global:
        return False
    return not any(address in network for network in _NOT_PUBLIC)


def _check_public(address: Address) -> None:
    if not is_public(address):
        raise AddressNotAllowed(
            f"the host's address {address} is not public, and private ones are not allowed"
        )


def _literal(host: str) -> Address | None:
    """The IP address in `host`, also as inet_aton spells it (127.1, 0x7f000001, 2130706433); None for a
    name."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host)) if _HOST.fullmatch(host) else None
    except OSError:
        return None
