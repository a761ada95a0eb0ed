"""grpc.health.v1, true to the runtimes: a service that needs them serves while every model has one."""

from collections.abc import Sequence

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio
from inferd.services.fleet.catalog import Catalog

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """The health of the server ("") and of each of its services."""

    def __init__(self, catalog: Catalog, generating: Sequence[str], others: Sequence[str]) -> None:
        self._catalog = catalog
        self._generating = ["", *generating]
        self._others = others
        #: Serves grpc.health.v1.
        self.servicer = aio.HealthServicer()
        #: Those of the others that cannot do their work now.
        self._failing: set[str] = set()
        self.draining = False

    @property
    def serving(self) -> bool:
        """Whether every model has a runtime that serves, and the server takes new calls."""
        return not self.draining and all(model.replicas.serving for model in self._catalog)

    def set_failing(self, service: str, failing: bool) -> None:
        """Whether one of the other services cannot do its work now. `update` publishes it."""
        if failing:
            self._failing.add(service)
        else:
            self._failing.discard(service)

    async def update(self) -> None:
        """Publish what holds now. Called whenever a runtime's state has changed."""
        status = _SERVING if self.serving else _NOT_SERVING
        for name in self._generating:
            await self.servicer.set(name, status)
        for name in self._others:
            await self.servicer.set(name, _NOT_SERVING if name in self._failing else _SERVING)

    async def drain(self) -> None:
        """Report NOT_SERVING for good: the server is about to stop."""
        self.draining = True
        await self.servicer.enter_graceful_shutdown()
