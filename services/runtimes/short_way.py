"""The short way of a generation's responses: to the relay, from where they came off the wire."""

from time import monotonic

from inferd.services.net.http2.client_call import ClientCall, Taker
from inferd.services.runtimes.base import Delta
from inferd.services.runtimes.relay import Relay
from inferd.services.runtimes.response_reader import ResponseReader
from smg_grpc_proto import sglang_scheduler_pb2 as pb


class Call:
    """One generation under way. `heard` is when it last said something (monotonic seconds)."""

    __slots__ = ("dropped", "heard", "rpc")

    def __init__(self) -> None:
        #: None until it was sent.
        self.rpc: ClientCall | None = None
        self.heard = monotonic()
        self.dropped = False

    def drop(self) -> None:
        """End it with UNAVAILABLE."""
        self.dropped = True
        if self.rpc is not None:
            self.rpc.cancel()


class ShortWay(Taker):
    """Gives what the messages of a call bring to the relay. `reader` reads the others of its messages too."""

    __slots__ = ("_call", "_reader", "_refused", "_relay")

    def __init__(self, relay: Relay, reader: ResponseReader, call: Call) -> None:
        self._relay = relay
        self._reader = reader
        self._call = call
        self._refused: Delta | None = None

    def take(self, message: bytes) -> bool:
        """Give what a message brings to the relay. False: it is to be read."""
        reader = self._reader
        token_id = reader.next_token(message)
        if token_id >= 0:
            self._call.heard = monotonic()
            if self._relay.push_token(token_id):
                reader.received += 1
                return True
            delta: Delta | None = reader.delta_of(token_id)
        else:
            response = pb.GenerateResponse.FromString(message)
            if not response.HasField("chunk"):
                return False
            self._call.heard = monotonic()
            delta = reader.read_chunk(response.chunk)
        if delta is None or self._relay.push(delta):
            return True
        self._refused = delta
        return False

    def refused(self) -> Delta | None:
        """The delta that was refused since the last time."""
        refused, self._refused = self._refused, None
        return refused
