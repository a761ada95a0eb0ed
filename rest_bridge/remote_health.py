"""The health of a remote gRPC server, by the standard health service (grpc.health.v1).

Does not keep the answer: each call asks the server again.
"""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_SECONDS = 2.0


class ChannelHealth:
    """The health of the whole server behind a channel, which is the health of the service named ""."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = health_pb2_grpc.HealthStub(channel)

    async def __call__(self) -> bool:
        """Whether the server answers SERVING within two seconds."""
        try:
            reply = await self._stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
