"""Ports for processes that must be told their port before they start."""

import contextlib
import os
import random
import socket

_FIRST = 20000 + 1000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 12)
#: The ports that this process may use: a thousand for each worker of pytest-xdist. They are below the ports
#: that the kernel gives to clients, because a client could otherwise get the port of a server that is down.
PORTS = range(_FIRST, _FIRST + 1000)


def free_ports(count: int) -> list[int]:
    """Different ports on 127.0.0.1 that nothing listens on."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"fewer than {count} ports of {PORTS} are free")
