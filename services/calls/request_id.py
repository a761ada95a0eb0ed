"""The id under which a call is logged and its errors are reported: the client's, or a new one."""

from inferd.services.calls.call import Call
from inferd.services.net.random_id import random_id

#: The key of the metadata, and the name of the HTTP header.
REQUEST_ID = "x-request-id"


class RequestId:
    """Sets `call.request_id`."""

    def enter(self, call: Call) -> None:
        for key, value in call.metadata:
            if key == REQUEST_ID:
                call.request_id = str(value)
                return
        call.request_id = random_id()

    def leave(self, call: Call) -> None:
        pass
