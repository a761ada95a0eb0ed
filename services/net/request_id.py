"""The id of a request: the client's, or a new one. Knows neither gRPC nor HTTP."""

import re

from inferd.services.net.random_id import random_id

#: The key of gRPC's metadata, and the name of the HTTP header.
REQUEST_ID = "x-request-id"

_ID = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]{0,126}[\x21-\x7e])?")


def request_id_of(given: bytes | None) -> str:
    """The client's id, or a random one if the client's is not 1 to 128 characters of printable ASCII."""
    if given is not None and _ID.fullmatch(given):
        return given.decode("ascii")
    return random_id()
