"""NVIDIA Dynamo's frontend, on its own mocker, because it speaks no protocol of the simulated runtime."""

import subprocess
from pathlib import Path

from benchmarks.suite.environments import python_of
from benchmarks.suite.front import Context, Front
from benchmarks.suite.processes import NotStarted, Process, answers, free_port

_NOTE = (
    "over its own mocker by TCP, one for each pace, with a constant time between tokens; the first token is"
    " one of those later, so that its TTFT does not compare"
)
#: A program that writes the mocker's times, the same for every load. It needs the numpy of that environment.
_TIMES = """
import sys
import numpy as np
np.savez(
    sys.argv[1],
    prefill_isl=np.array([1.0, 100.0, 1e6]),
    prefill_ttft_ms=np.full(3, 0.01),
    decode_active_kv_tokens=np.array([0.0, 1e3, 1e9]),
    decode_context_length=np.array([0.0, 1e3, 1e6]),
    decode_itl=np.full((3, 3), float(sys.argv[2])),
)
"""


def start_dynamo(context: Context) -> Front:
    """Start the frontend with its defaults, and a mocker for each rate. Raises NotStarted."""
    python = python_of("dynamo", context.folder)
    port = free_port()
    folder = context.out / "dynamo"
    (folder / "discovery").mkdir(parents=True)
    # The broker for its events does not run. If none were named, the mocker would listen on all addresses.
    broker = f"xsub=tcp://127.0.0.1:{free_port()} , xpub=tcp://127.0.0.1:{free_port()}"
    environment = {
        "DYN_TCP_RPC_HOST": "127.0.0.1",
        "DYN_TCP_RESPONSE_STREAM_HOST": "lo",
        "DYN_FILE_KV": str(folder / "discovery"),
        "DYN_SELF_HOST_METADATA": "0",
        "DYN_ZMQ_BROKER_URL": broker,
        "DYN_LOG": "error",
        "HF_HUB_OFFLINE": "1",
    }
    planes = ["--discovery-backend", "file", "--request-plane", "tcp", "--event-plane", "zmq"]
    command: list[str | Path] = [
        python,
        "-m",
        "dynamo.frontend",
        "--http-host",
        "127.0.0.1",
        "--http-port",
        str(port),
        *planes,
    ]
    frontend = context.stack.enter_context(Process(command, context.out / "dynamo.log", environment))
    mockers = []
    for rate in context.rates:
        # The name of a model is the path of its folder, because the frontend reads the tokenizer there.
        model = folder / f"m{rate:g}"
        model.symlink_to(context.model)
        pace = ["--speedup-ratio", "0"]
        if rate:
            times = folder / f"m{rate:g}.npz"
            subprocess.run([str(python), "-c", _TIMES, str(times), str(1000 / rate)], check=True, timeout=60)
            pace = ["--planner-profile-data", str(times)]
        command = [
            python,
            "-m",
            "dynamo.mocker",
            "--model-path",
            model,
            *planes,
            "--max-num-seqs",
            "1024",
            *pace,
        ]
        command += [
            "--num-gpu-blocks-override",
            "100000",
            "--endpoint",
            f"dyn://pace{rate:g}.backend.generate",
        ]
        log = context.out / f"dynamo-mocker-{rate:g}.log"
        mockers.append(context.stack.enter_context(Process(command, log, environment)))
    for rate in context.rates:
        body = b'{"model": "%s", "prompt": "x", "max_tokens": 1}' % str(folder / f"m{rate:g}").encode()
        url = f"http://127.0.0.1:{port}/v1/completions"
        frontend.wait_until(lambda url=url, body=body: answers(url, body), 90, "dynamo")  # type: ignore[misc]
    for mocker in mockers:
        mocker.check()
    if not mockers:
        raise NotStarted("no pace to start a mocker for")
    return Front(
        "dynamo",
        "Dynamo 1.4.2 frontend",
        frontend,
        port,
        note=_NOTE,
        engine=lambda: [pid for mocker in mockers for pid in mocker.tree()],
        model=lambda rate: str(folder / f"m{rate:g}"),
        body={"ignore_eos": True},
    )
