"""SMG, the gateway in Rust, on the same simulated runtime by the same protocol."""

from pathlib import Path

from benchmarks.suite.environments import python_of
from benchmarks.suite.front import Context, Front
from benchmarks.suite.processes import Process, answers, free_port


def start_smg(context: Context) -> Front:
    """Start SMG with its defaults, except that it logs warnings only. Raises NotStarted."""
    port = free_port()
    command: list[str | Path] = [
        python_of("smg", context.folder).with_name("smg"),
        *("launch", "--host", "127.0.0.1", "--port", str(port)),
        *("--worker-urls", f"grpc://127.0.0.1:{context.runtime_port}"),
        *("--model-path", str(context.model), "--log-level", "warn"),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
    ]
    process = context.stack.enter_context(Process(command, context.out / "smg.log"))
    body = b'{"model": "m", "prompt": "x", "max_tokens": 1}'
    process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/v1/completions", body), 60, "smg")
    return Front("smg", "SMG 1.13.0", process, port, body={"ignore_eos": True})
