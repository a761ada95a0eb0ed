"""Whether a remote server takes requests, by the standard health service (grpc.health.v1)."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SECONDS = 2.0


class ChannelHealth:
    """Asks the server behind a channel, as a whole: the service named ""."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = health_pb2_grpc.HealthStub(channel)

    async def __call__(self) -> bool:
        """Whether it says SERVING, within two seconds."""
        try:
            reply = await self._stub.Check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
