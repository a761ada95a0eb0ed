"""SGLang's own HTTP server, on its own engine with a tiny random model, because it takes no other runtime."""

import os
from importlib.metadata import version
from pathlib import Path

from benchmarks.suite.front import Context, Front
from benchmarks.suite.processes import Process, answers, free_port
from benchmarks.suite.tiny_model import tiny_model
from benchmarks.suite.usage import command_line
from inferd.services.launch.sglang_command import sglang_command

_NOTE = (
    "over its own engine on this CPU, a tiny random Llama, at its own pace; its cost is of all its processes"
    " but the scheduler's; smaller rounds"
)
#: Options of the scheduler protocol, and the number of values of each. They are left out here.
_GRPC_OPTIONS = {"--smg-grpc-mode": 0, "--smg-http-sidecar-port": 1, "--grpc-port": 1}


def start_sglang(context: Context) -> Front:
    """Start SGLang as inferd launches it on this machine, but with its own HTTP server. Raises NotStarted."""
    port = free_port()
    model = tiny_model(context.folder / "tiny-model", context.model)
    launch = sglang_command(model, ["--served-model-name", "m"], port, free_port(), os.environ)
    command: list[str | Path] = []
    arguments = iter(launch.args)
    for argument in arguments:
        if argument in _GRPC_OPTIONS:
            for _ in range(_GRPC_OPTIONS[argument]):
                next(arguments)
        else:
            command.append(argument)
    process = context.stack.enter_context(Process(command, context.out / "sglang.log", launch.environment))
    body = b'{"model": "m", "prompt": "x", "max_tokens": 1}'
    process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/v1/completions", body), 240, "sglang")

    def is_scheduler(pid: int) -> bool:
        return "scheduler" in command_line(pid)

    return Front(
        "sglang",
        f"SGLang {version('sglang')} HTTP server",
        process,
        port,
        note=_NOTE,
        slow=True,
        cost=lambda: [pid for pid in process.tree() if not is_scheduler(pid)],
        engine=lambda: [pid for pid in process.tree() if is_scheduler(pid)],
        body={"ignore_eos": True},
    )
