"""The gRPC health service (grpc.health.v1), kept up to date with the runtimes and the queue.

A service that needs a runtime is SERVING while every model has a serving one. This module checks no runtime
itself.
"""

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from inferd.services.calls.context import CallContext
from inferd.services.errors import ServiceError
from inferd.services.fleet.catalog import Catalog

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class _Servicer(aio.HealthServicer):
    """grpcio's servicer, with `List`, which it lacks, and with errors that have a reason."""

    # Both methods read a private attribute of grpcio's class, which has no method for that.

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: CallContext
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._server_status:
            raise ServiceError(
                grpc.StatusCode.NOT_FOUND,
                "SERVICE_NOT_FOUND",
                f"there is no service {request.service!r}",
                metadata={"service": request.service},
            )
        return health_pb2.HealthCheckResponse(status=self._server_status[request.service])

    async def List(
        self, request: health_pb2.HealthListRequest, context: CallContext
    ) -> health_pb2.HealthListResponse:
        statuses = {
            name: health_pb2.HealthCheckResponse(status=status)
            for name, status in self._server_status.items()
        }
        return health_pb2.HealthListResponse(statuses=statuses)


class Health:
    """The health of the server (the service "") and of each service.

    `generating` are the services that need a runtime, `others` those that do not.
    """

    def __init__(self, catalog: Catalog, generating: Sequence[str], others: Sequence[str]) -> None:
        self._catalog = catalog
        self._generating = ["", *generating]
        self._others = others
        #: The servicer of grpc.health.v1.
        self.servicer = _Servicer()
        #: The services in `others` that fail now.
        self._failing: set[str] = set()
        self.draining = False

    @property
    def serving(self) -> bool:
        """Whether every model has a serving runtime, and the server is not about to stop."""
        return not self.draining and all(model.replicas.serving for model in self._catalog)

    def set_failing(self, service: str, failing: bool) -> None:
        """Set whether a service in `others` fails now. `update` publishes it."""
        if failing:
            self._failing.add(service)
        else:
            self._failing.discard(service)

    async def update(self) -> None:
        """Publish the present state. Must be called after each change of a runtime or of `set_failing`."""
        status = _SERVING if self.serving else _NOT_SERVING
        for name in self._generating:
            await self.servicer.set(name, status)
        for name in self._others:
            await self.servicer.set(name, _NOT_SERVING if name in self._failing else _SERVING)

    async def drain(self) -> None:
        """Report NOT_SERVING from now on, because the server is about to stop."""
        self.draining = True
        await self.servicer.enter_graceful_shutdown()
