"""Name look-ups and connections that a test scripts: no look-up leaves the machine."""

import asyncio
import contextlib
import socket
from ipaddress import ip_address


class Names:
    """Answers the running loop's look-ups of names: each time with the next list, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        loop = asyncio.get_running_loop()
        self._real = loop.getaddrinfo
        loop.getaddrinfo = self._look_up  # type: ignore[method-assign]

    async def _look_up(self, host, port, **options):
        with contextlib.suppress(ValueError):
            ip_address(host)
            return await self._real(host, port, **options)
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in answer]
        return [
            (family, socket.SOCK_STREAM, 6, "", (address, port))
            for family, address in zip(families, answer, strict=True)
        ]


class Connections:
    """The running loop's connections by address; led to a local port where `to` is given, else refused."""

    def __init__(self, to: int | None = None) -> None:
        self.made: list[str] = []
        self.to = to
        loop = asyncio.get_running_loop()
        self._real = loop.create_connection
        loop.create_connection = self._connect  # type: ignore[method-assign]

    async def _connect(self, factory, host=None, port=None, **options):
        self.made.append(host)
        if self.to is None:
            raise ConnectionRefusedError(111, "Connection refused")
        return await self._real(factory, "127.0.0.1", self.to, **options)
