"""Parses a ListJobs request to a page of jobs, and makes the token of the next page.

A token continues only the query that it was made for. This module does not query the database.
"""

import base64
import binascii
import hashlib

from inferd.services.errors import ServiceError, invalid
from inferd.services.queue.job_id import seq_of
from inferd.services.queue.job_message import STATES
from inferd.services.queue.queries import Page
from inferd.v1 import queue_pb2 as pb

_DEFAULT_PAGE_SIZE = 20
_DIGEST_BYTES = 8


def parse_page(request: pb.ListJobsRequest, model: str | None) -> Page:
    """The page that `request` asks for. `model` is the id of the model that the request names.

    Raises ServiceError INVALID_ARGUMENT.
    """
    return Page(
        size=request.page_size if request.HasField("page_size") else _DEFAULT_PAGE_SIZE,
        after=_after(request),
        ascending=request.order == pb.JOB_ORDER_ASC,
        states=_states(request),
        model=model,
    )


def _states(request: pb.ListJobsRequest) -> list[str]:
    for index, state in enumerate(request.states):
        if state == pb.JOB_STATE_UNSPECIFIED:
            raise invalid(f"states[{index}]", f"states[{index}] must not be JOB_STATE_UNSPECIFIED")
    return [stored for stored, state in STATES.items() if state in request.states]


def _after(request: pb.ListJobsRequest) -> int | None:
    if request.page_token and request.after:
        raise invalid("page_token", "page_token and after exclude each other")
    if request.after:
        after = seq_of(request.after)
        if after is None:
            raise invalid("after", "after must be the id of a job: chatcmpl- and 32 hexadecimal digits")
        return after
    if not request.page_token:
        return None
    try:
        data = base64.b64decode(request.page_token.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    seq = int.from_bytes(data[:8], "big")
    if data[8:] != _digest(request, seq):
        raise _bad_token()
    return seq


def _bad_token() -> ServiceError:
    return invalid(
        "page_token",
        "page_token must be the next_page_token of a page with the same filters and order",
        "INVALID_PAGE_TOKEN",
    )


def next_page_token(request: pb.ListJobsRequest, last: int) -> str:
    """The token of the page after job number `last`."""
    return base64.urlsafe_b64encode(last.to_bytes(8, "big") + _digest(request, last)).decode()


def _digest(request: pb.ListJobsRequest, last: int) -> bytes:
    """A hash of the last job, the filters and the order, but not of the page size, which may change."""
    states = ",".join(_states(request))
    query = f"{last}\0{request.model}\0{states}\0{request.order == pb.JOB_ORDER_ASC}"
    return hashlib.sha256(query.encode()).digest()[:_DIGEST_BYTES]
