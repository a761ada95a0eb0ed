"""The methods of servicers by their full names, each behind its chain.

gRPC's server and callers in this process share them, so that both meet the same limits and errors.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import grpc

from inferd.services.calls.chain import Chain
from inferd.services.net.http2.grpc_server import GrpcServer


class Methods:
    """Takes the place of a server in the generated `add_…Servicer_to_server` functions."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._services: dict[str, dict[str, grpc.RpcMethodHandler]] = {}

    def add_registered_method_handlers(
        self, service: str, handlers: dict[str, grpc.RpcMethodHandler]
    ) -> None:
        """Called by the generated code, with the handlers of one service."""
        self._services[service] = {
            name: self._chain.around(f"{service}/{name}", handler) for name, handler in handlers.items()
        }

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Called by the generated code with the same handlers again."""

    def include(self, others: "Methods") -> None:
        """Serve the methods of `others` too. They keep their own chain."""
        self._services.update(others._services)

    def attach(self, server: GrpcServer) -> None:
        """Serve all methods by `server`."""
        for service, handlers in self._services.items():
            server.add_registered_method_handlers(service, handlers)

    def find(self, service: str, method: str) -> grpc.RpcMethodHandler | None:
        """The handler of a method, behind its chain; None if the method is not served."""
        return self._services.get(service, {}).get(method)

    def __iter__(self) -> Iterator[str]:
        """Full names of the services."""
        return iter(self._services)
