"""One piece of work for the load generator, and what it found: the lines between it and the suite."""

from dataclasses import asdict, dataclass, field
from typing import Any

#: Replaced in each request by its number, so that no two requests are the same.
NUMBER = "######"


@dataclass(frozen=True, slots=True)
class Job:
    """`streams` requests at once, each started anew as it ends, watched for `seconds`.

    `request` is HTTP's body or the gRPC message, in hex, with NUMBER in it. Starts are spread over `spread`
    seconds, and watching begins `settle` seconds later. `ends` are what the end of a good answer holds: all
    of them. `first` is what its first token's event holds. `groups` are the processes whose CPU time is read
    when watching begins and ends.
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
    #: Stop once that many requests were answered, before the time is over; 0: only then.
    requests: int = 0
    groups: dict[str, list[int]] = field(default_factory=dict)

    def as_line(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen while watching. `tokens` counts what was asked for, by each stream's part of its bytes.

    `ttft` are milliseconds, sorted, of the requests that began while watching; `latency` likewise, of whole
    answers. `cpu` is seconds per group of processes; the load generator's own are `load`, those of all of the
    machine `machine`. `events` is how many events or messages came, and `errors` how many requests went
    wrong, by what was wrong.
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
    """Of sorted values; 0 of none."""
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0
