"""inferd itself, on the simulated runtime."""

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.suite.front import Context, Front
from benchmarks.suite.processes import Process, answers, free_port


def start_inferd(context: Context, name: str = "inferd", models: int = 1, replicas: int = 1) -> Front:
    """Start `inferd serve` with so many models, each with so many replicas. Raises NotStarted."""
    return serve(context, name, [context.runtime_port] * replicas, models)


def serve(
    context: Context, name: str, runtime_ports: Sequence[int], models: int = 1, model: Path | None = None
) -> Front:
    """Start `inferd serve` in front of the runtimes at these ports. Raises NotStarted."""
    grpc_port, rest_port = free_port(), free_port()
    config = {
        "models": [
            {
                "id": "m" if number == 0 else f"m{number}",
                "path": str(model or context.model),
                "runtimes": [{"grpc": f"127.0.0.1:{port}"} for port in runtime_ports],
            }
            for number in range(models)
        ],
        "server": {"grpc": f"127.0.0.1:{grpc_port}", "rest": f"127.0.0.1:{rest_port}", "grace": 1},
        "queue": {"url": f"sqlite:///{context.out / name}.db"},
    }
    file = context.out / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    command: list[str | Path] = [Path(sys.executable).with_name("inferd"), "serve", "--config", file]
    process = context.stack.enter_context(Process(command, context.out / f"{name}.log"))
    process.wait_until(lambda: answers(f"http://127.0.0.1:{rest_port}/health"), 60 + models, "inferd")
    return Front(
        name,
        "inferd",
        process,
        rest_port,
        grpc_port,
        body={"ignore_eos": True},
    )
