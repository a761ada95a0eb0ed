"""Measures one front in one cell, and turns the outcome of the load into the figures of the table."""

from dataclasses import dataclass, field, replace

from benchmarks.suite.cells import Cell
from benchmarks.suite.front import Asked, Context, Front, direct_job
from benchmarks.suite.job import Job, Outcome, percentile
from benchmarks.suite.processes import Controlled

#: Slow fronts are watched for longer, because they send few tokens a second.
_LONGER = 2.5


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one measurement. CPU time is the front's. Shares are of one core. Times are in ms."""

    front: str
    cell: str
    repeat: int
    #: µs of CPU for each unit of the cell, which is a token or a request.
    cpu_us: float
    ttft_p50: float
    ttft_p99: float
    latency_p50: float
    tokens_per_second: float
    requests_per_second: float
    tokens_per_event: float
    share_front: float
    share_runtime: float
    share_load: float
    #: The share of everything else on the machine, the kernel included.
    share_others: float
    failed: int
    errors: dict[str, int] = field(default_factory=dict)

    def line(self, unit: str) -> str:
        """One line for the person who waits for the run."""
        return (
            f"{self.cell:28} {self.front:8} {self.cpu_us:8.1f} µs/{unit:7}"
            f" {self.tokens_per_second:7.0f} tok/s  ttft {self.ttft_p50:.2f}/{self.ttft_p99:.2f} ms"
            f"  {self.tokens_per_event:5.2f} tok/event  cores: front {self.share_front:.2f}"
            f" runtime {self.share_runtime:.2f} load {self.share_load:.2f}"
            f" others {self.share_others:.2f}  failed {self.failed}"
        )


class Bench:
    """The load generator and the simulated runtime of a run. Tells both what to do."""

    def __init__(self, context: Context, load: Controlled) -> None:
        self.context = context
        self._load = load

    def set_pace(self, asked: Asked, upstream: Controlled | None = None) -> None:
        (upstream or self.context.runtime).ask({"rate": asked.rate})

    def run(self, job: Job) -> Outcome:
        """Have the load generator do one job. Raises NotStarted if the load generator has ended."""
        limit = job.spread + job.settle + job.seconds + job.drain + 30
        answer = self._load.ask(job.as_line(), limit)
        if "error" in answer:
            return Outcome(job.seconds, 0, 0, 0, [], [], {}, {answer["error"]: 1}, "")
        return Outcome(**answer)

    def measure(self, front: Front, cell: Cell, repeat: int) -> Figures:
        """Measure one front in one cell."""
        asked = replace(cell.asked, seconds=cell.asked.seconds * _LONGER) if front.slow else cell.asked
        upstream = front.upstream or self.context.runtime
        self.set_pace(asked, upstream)
        job = front.job(asked)
        job.groups["front"] = front.pids()
        job.groups["runtime"] = front.engine_pids(self.context.runtime)
        return figures(front.name, cell, repeat, self.run(job))

    def direct(self, cell: Cell, repeat: int) -> Figures:
        """Measure the runtime alone, with the same requests."""
        self.set_pace(cell.asked)
        job = direct_job(self.context.runtime_port, self.context.model, cell.asked)
        job.groups["runtime"] = [self.context.runtime.pid]
        return figures("runtime", cell, repeat, self.run(job))


def figures(front: str, cell: Cell, repeat: int, outcome: Outcome) -> Figures:
    """The outcome as figures, in the units of the table."""
    units = outcome.tokens if cell.unit == "token" else outcome.requests
    cpu = outcome.cpu.get("front", 0.0)
    return Figures(
        front=front,
        cell=cell.name,
        repeat=repeat,
        cpu_us=cpu / units * 1e6 if units else 0.0,
        ttft_p50=percentile(outcome.ttft, 0.5),
        ttft_p99=percentile(outcome.ttft, 0.99),
        latency_p50=percentile(outcome.latency, 0.5),
        tokens_per_second=outcome.tokens / outcome.seconds,
        requests_per_second=outcome.requests / outcome.seconds,
        tokens_per_event=outcome.tokens / outcome.events if outcome.events else 0.0,
        share_front=cpu / outcome.seconds,
        share_runtime=outcome.cpu.get("runtime", 0.0) / outcome.seconds,
        share_load=outcome.cpu.get("load", 0.0) / outcome.seconds,
        share_others=_others(outcome) / outcome.seconds,
        failed=outcome.failed,
        errors=outcome.errors,
    )


def _others(outcome: Outcome) -> float:
    """Seconds of CPU that the machine spent on processes outside the outcome's groups."""
    known = sum(seconds for name, seconds in outcome.cpu.items() if name != "machine")
    return max(outcome.cpu.get("machine", 0.0) - known, 0.0)
