"""Ids of jobs: "chatcmpl-" and 32 hexadecimal digits, which begin with the job's number.

The number (`seq`) grows with each job; the other half is random. An id so tells where its job stands in the
order of all, even when the job is gone, and finds it by the table's own key.
"""

import re
import secrets

from inferd.services.errors import ServiceError, invalid

_ID = re.compile(r"chatcmpl-([0-7][0-9a-f]{15})[0-9a-f]{16}")


def new_job_id(seq: int) -> str:
    """The id of job number `seq`, unlike any other."""
    return f"chatcmpl-{seq:016x}{secrets.token_hex(8)}"


def seq_of(job_id: str) -> int | None:
    """The number of the job with that id; None where it is the id of no job."""
    found = _ID.fullmatch(job_id)
    return int(found[1], 16) if found else None


def seq_after(job_id: str) -> int:
    """The number in the `after` of a list. Raises ServiceError INVALID_ARGUMENT."""
    seq = seq_of(job_id)
    if seq is None:
        raise _not_an_id()
    return seq


def _not_an_id() -> ServiceError:
    return invalid("after", "after must be the id of a job: chatcmpl- and 32 hexadecimal digits")
