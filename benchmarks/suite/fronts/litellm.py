"""LiteLLM's proxy, in front of a simulated OpenAI-style server with the runtime's tokens and pace."""

from pathlib import Path

import yaml

from benchmarks.suite.environments import PINS, python_of
from benchmarks.suite.front import Context, Front
from benchmarks.suite.own import start_upstream
from benchmarks.suite.processes import Process, answers, free_port

_NOTE = "over an OpenAI-style server with the same tokens and pace; smaller rounds"


def start_litellm(context: Context) -> Front:
    """Start the proxy with one worker and without a database. Raises NotStarted."""
    python = python_of("litellm", context.folder)
    upstream, upstream_port = start_upstream(
        context.stack, context.model, context.out / "litellm-upstream.log"
    )
    port = free_port()
    config = {
        "model_list": [
            {
                "model_name": "m",
                "litellm_params": {
                    "model": "text-completion-openai/m",
                    "api_base": f"http://127.0.0.1:{upstream_port}/v1",
                    "api_key": "none",
                },
            }
        ],
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
        "litellm_settings": {"telemetry": False, "drop_params": True},
    }
    file = context.out / "litellm.yaml"
    file.write_text(yaml.safe_dump(config))
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
    command: list[str | Path] = [python.with_name("litellm"), "--config", file, "--num_workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    process = context.stack.enter_context(Process(command, context.out / "litellm.log", environment))
    body = b'{"model": "m", "prompt": "x", "max_tokens": 1}'
    process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/v1/completions", body), 120, "litellm")
    title = PINS["litellm"][0].replace("litellm[proxy]==", "LiteLLM ") + " proxy"
    return Front("litellm", title, process, port, note=_NOTE, slow=True, upstream=upstream)
