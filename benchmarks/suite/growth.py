"""Measures how cost grows with streams, the prompt's length, models, replicas and past requests."""

from contextlib import ExitStack
from dataclasses import dataclass, replace

from benchmarks.suite.cells import PACE, stream, unary
from benchmarks.suite.front import Asked, Front
from benchmarks.suite.fronts.inferd import serve, start_inferd
from benchmarks.suite.measure import Bench
from benchmarks.suite.own import start_runtime
from benchmarks.suite.usage import memory_mb

_PROMPTS = (250, 1000, 4000, 8000)
_MODELS = (1, 10, 100)
_REPLICAS = (1, 8)


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a curve. `cpu_us` is µs of CPU: of a token in the curve `streams`, else of a request."""

    curve: str
    front: str
    x: int
    cpu_us: float
    failed: int
    #: Tokens in one event of a stream. A front that cannot keep up with the pace puts more than one in.
    tokens_per_event: float = 1.0
    #: Resident memory of the front after the measurement, in MB.
    rss_mb: float = 0.0


def by_streams(bench: Bench, front: Front, seconds: float) -> list[Point]:
    """The cost of a token, at each number of streams."""
    points = []
    for streams in PACE:
        figures = bench.measure(front, stream(streams, seconds), 0)
        points.append(
            Point("streams", front.name, streams, figures.cpu_us, figures.failed, figures.tokens_per_event)
        )
    return points


def by_prompt(bench: Bench, front: Front, seconds: float) -> list[Point]:
    """The cost of a request, at each length of the prompt."""
    points = []
    for tokens in _PROMPTS:
        figures = bench.measure(front, unary(seconds, prompt_tokens=tokens, at_once=4), 0)
        points.append(Point("prompt tokens", front.name, tokens, figures.cpu_us, figures.failed))
    return points


def by_models(bench: Bench, seconds: float) -> list[Point]:
    """The cost of a request, for each number of configured models. Raises NotStarted."""
    points = []
    for models in _MODELS:
        with ExitStack() as stack:
            context = replace(bench.context, stack=stack)
            front = start_inferd(context, f"inferd-{models}-models", models=models)
            figures = bench.measure(front, unary(seconds), 0)
            rss = memory_mb(front.pids())
            points.append(Point("models", "inferd", models, figures.cpu_us, figures.failed, rss_mb=rss))
    return points


def by_replicas(bench: Bench, seconds: float) -> list[Point]:
    """The cost of a request, for each number of runtimes behind the model. Raises NotStarted."""
    points = []
    for replicas in _REPLICAS:
        with ExitStack() as stack:
            context = replace(bench.context, stack=stack)
            cell = unary(seconds)
            ports = [context.runtime_port]
            for number in range(1, replicas):
                runtime, port = start_runtime(stack, context.model, context.out / f"runtime-{number}.log")
                runtime.ask({"rate": cell.asked.rate})
                ports.append(port)
            front = serve(context, f"inferd-{replicas}-replicas", ports)
            figures = bench.measure(front, cell, 0)
            points.append(Point("replicas", "inferd", replicas, figures.cpu_us, figures.failed))
    return points


def by_past_requests(bench: Bench, front: Front, requests: int) -> list[Point]:
    """The cost of a request and the memory of the front, after each tenth of so many `requests`."""
    part = requests // 10
    points = [Point("past requests", front.name, 0, 0.0, 0, rss_mb=memory_mb(front.pids()))]
    for number in range(1, 11):
        asked = Asked(64, 0, 120, streamed=False, tokens=10, requests=part)
        bench.set_pace(asked)
        job = front.job(asked)
        job.groups["front"] = front.pids()
        outcome = bench.run(job)
        cpu = outcome.cpu.get("front", 0.0) / max(outcome.requests, 1) * 1e6
        rss = memory_mb(front.pids())
        points.append(Point("past requests", front.name, number * part, cpu, outcome.failed, rss_mb=rss))
    return points
