"""Measuring one front in one cell: the load's outcome, as the figures of the table."""

from dataclasses import dataclass, field, replace

from benchmarks.suite.cells import Cell
from benchmarks.suite.front import Asked, Context, Front, direct_job
from benchmarks.suite.job import Job, Outcome, percentile
from benchmarks.suite.processes import Controlled

#: Slow fronts are watched for longer: at few tokens a second they bring little in a moment.
_LONGER = 2.5


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured. CPU is the front's own; shares are of one core; times are in milliseconds."""

    front: str
    cell: str
    repeat: int
    #: Microseconds for each of the cell's units.
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
    #: Of whatever else ran on the machine, the kernel too.
    share_others: float
    failed: int
    errors: dict[str, int] = field(default_factory=dict)

    def line(self, unit: str) -> str:
        """For the one who waits."""
        return (
            f"{self.cell:28} {self.front:8} {self.cpu_us:8.1f} µs/{unit:7}"
            f" {self.tokens_per_second:7.0f} tok/s  ttft {self.ttft_p50:.2f}/{self.ttft_p99:.2f} ms"
            f"  {self.tokens_per_event:5.2f} tok/event  cores: front {self.share_front:.2f}"
            f" runtime {self.share_runtime:.2f} load {self.share_load:.2f}"
            f" others {self.share_others:.2f}  failed {self.failed}"
        )


class Bench:
    """The load generator and the runtime of a run, and how both are told what to do."""

    def __init__(self, context: Context, load: Controlled) -> None:
        self.context = context
        self._load = load

    def set_pace(self, asked: Asked, upstream: Controlled | None = None) -> None:
        (upstream or self.context.runtime).ask({"rate": asked.rate})

    def run(self, job: Job) -> Outcome:
        """Do one job. Raises NotStarted where the load generator is gone."""
        limit = job.spread + job.settle + job.seconds + job.drain + 30
        answer = self._load.ask(job.as_line(), limit)
        if "error" in answer:
            return Outcome(job.seconds, 0, 0, 0, [], [], {}, {answer["error"]: 1}, "")
        return Outcome(**answer)

    def measure(self, front: Front, cell: Cell, repeat: int) -> Figures:
        """One front, one cell."""
        asked = replace(cell.asked, seconds=cell.asked.seconds * _LONGER) if front.slow else cell.asked
        upstream = front.upstream or self.context.runtime
        self.set_pace(asked, upstream)
        job = front.job(asked)
        job.groups["front"] = front.pids()
        job.groups["runtime"] = front.engine_pids(self.context.runtime)
        return figures(front.name, cell, repeat, self.run(job))

    def direct(self, cell: Cell, repeat: int) -> Figures:
        """The runtime alone, asked for the same."""
        self.set_pace(cell.asked)
        job = direct_job(self.context.runtime_port, self.context.model, cell.asked)
        job.groups["runtime"] = [self.context.runtime.pid]
        return figures("runtime", cell, repeat, self.run(job))


def figures(front: str, cell: Cell, repeat: int, outcome: Outcome) -> Figures:
    """The outcome in the table's units."""
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
    """Seconds of CPU that the machine spent on what is not in the outcome's groups."""
    known = sum(seconds for name, seconds in outcome.cpu.items() if name != "machine")
    return max(outcome.cpu.get("machine", 0.0) - known, 0.0)
