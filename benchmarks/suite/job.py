"""A job for the load generator, and its outcome. Both are exchanged as lines of JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

#: Replaced by the request's number in each request, so that no two requests are the same.
NUMBER = "######"


@dataclass(frozen=True, slots=True)
class Job:
    """Send `streams` requests at once, each again when its answer ends, and watch them for `seconds`.

    `request` is the HTTP body or the gRPC message, in hex; it contains NUMBER. The starts are spread over
    `spread` seconds, and watching begins `settle` seconds after the last. The end of a good answer contains
    all of `ends`. The event of its first token contains `first`. `groups` are the processes whose CPU time is
    read when watching begins and ends, by a name for each group.
    """

    port: int
    path: str
    request: str
    streams: int
    seconds: float
    spread: float
    ends: list[str]
    first: str = ""
    grpc: bool = False
    streamed: bool = True
    settle: float = 0.3
    tokens: int = 100
    drain: float = 15.0
    #: Stop after that many answers, even if the time is not over. 0 means to stop when the time is over.
    requests: int = 0
    groups: dict[str, list[int]] = field(default_factory=dict)

    def as_line(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened while the load generator watched. An answer that was watched in part counts by its share
    of bytes.

    `ttft` has the times to the first token of all requests that began while watching, in milliseconds,
    sorted. `latency` has the times of whole answers. `cpu` is in seconds, by group of processes; the group
    `load` is the load generator, and `machine` is the whole machine. `events` is the number of events or
    messages. `errors` is the number of requests that failed, by their error.
    """

    seconds: float
    tokens: float
    requests: float
    events: int
    ttft: list[float]
    latency: list[float]
    cpu: dict[str, float]
    errors: dict[str, int]
    answer: str

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


def percentile(values: list[float], share: float) -> float:
    """The value at `share` (0 to 1) of sorted values; 0 if there are none."""
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0
