"""The id under which a call is logged and its errors are reported: the client's, or a new one."""

from inferd.services.calls.call import Call
from inferd.services.net.request_id import REQUEST_ID, request_id_of


class RequestId:
    """Sets `call.request_id`. gRPC's server and the bridge have checked the id in the metadata."""

    def enter(self, call: Call) -> None:
        for key, value in call.metadata:
            if key == REQUEST_ID:
                call.request_id = str(value)
                return
        call.request_id = request_id_of(None)

    def leave(self, call: Call) -> None:
        pass
