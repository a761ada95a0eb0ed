"""Identifies jobs and their runs. A job id is "chatcmpl-", the job's number and a random number.

Both numbers have 16 hexadecimal digits. The job's number (`seq`) grows with each job and is the primary key
of the jobs table. Because the id contains the number, a job is found by the primary key, and a list can go on
after a job that was deleted.
"""

import re
import secrets
from dataclasses import dataclass

_ID = re.compile(r"chatcmpl-([0-7][0-9a-f]{15})[0-9a-f]{16}")


def new_job_id(seq: int) -> str:
    """A new, unique id for job number `seq`."""
    return f"chatcmpl-{seq:016x}{secrets.token_hex(8)}"


def seq_of(job_id: str) -> int | None:
    """The job's number in its id; None if the text is not an id of a job."""
    found = _ID.fullmatch(job_id)
    return int(found[1], 16) if found else None


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job: the `number`-th start of job `seq`, by the process `worker`.

    Writes are fenced by it: they count only while the job is still this run's.
    """

    seq: int
    number: int
    worker: str
