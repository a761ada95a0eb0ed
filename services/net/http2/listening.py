"""Opens listening sockets for addresses as gRPC writes them. Accepts no connections."""

import errno
import socket
from typing import Any

_BACKLOG = 2048


def listen(address: str, *, shared_port: bool) -> list[socket.socket]:
    """Listen on HOST:PORT, by one socket for each address of the host. An IPv6 host is in brackets.

    Port 0 is any free port, the same for all sockets. `shared_port` lets other processes listen on the port
    too. Raises OSError.
    """
    host, _, port = address.rpartition(":")
    found: list[Any] = socket.getaddrinfo(
        host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, where in dict.fromkeys((family, where) for family, *_, where in found):
            if sockets:
                # The first socket has found the port, if it was 0.
                where = (where[0], sockets[0].getsockname()[1], *where[2:])
            try:
                sockets.append(_listen(family, where, shared_port))
            except OSError as error:
                # The machine may lack an address family of the host.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
        if not sockets:
            raise missing
    except OSError:
        for listener in sockets:
            listener.close()
        raise
    return sockets


def _listen(family: int, where: Any, shared_port: bool) -> socket.socket:
    # asyncio switches Nagle's algorithm off only if the protocol is given.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "[::]" is every address of the machine, as it is for gRPC; "[::1]" is only that one.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(where[0] != "::"))
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
