"""The architectures of the API document's three models, as tiny models with random weights."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inferd.services.config import parse_config
from tests.real.engine_process import running_engine
from tests.real.tiny_model import CONTEXT, HEADS, HIDDEN, LAYERS, MLP, VOCABULARY
from tests.support.running import Inferd, running_front

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS // 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}

ARCHITECTURES = {
    "Mixtral-8x7B-Instruct-v0.1": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "Qwen2-72B-Instruct": ("qwen2", {}),
    "deepseek-coder-33b-instruct": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
}

#: Makes a model in a process of its own: torch stays out of the tests'.
_MAKE = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
kind, settings, folder = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
torch.manual_seed(0)
config = AutoConfig.for_model(kind, **settings)
AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
"""


def make(folder: Path, tokenizer: Path, kind: str, settings: dict[str, object]) -> None:
    subprocess.run(
        [sys.executable, "-c", _MAKE, kind, json.dumps({**COMMON, **settings}), str(folder)], check=True
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer / name, folder / name)


@pytest.mark.parametrize("model", ARCHITECTURES)
async def test_a_model_of_the_document_is_served(model, smollm2_path, tmp_path):
    kind, settings = ARCHITECTURES[model]
    folder = tmp_path / model
    make(folder, smollm2_path, kind, settings)
    with running_engine(folder, tmp_path / "logs", "--max-total-tokens", "4096") as engine:
        engine.wait_for("ready")
        config = parse_config(
            {
                "models": [{"id": model, "path": str(folder), "runtimes": [{"grpc": engine.address}]}],
                "server": {"grpc": "127.0.0.1:0", "rest": "127.0.0.1:0", "grace": 1},
                "queue": {"url": f"sqlite:///{tmp_path}/queue.db"},
            },
            "tests",
        )
        async with contextlib.AsyncExitStack() as stack:
            ports = await stack.enter_async_context(running_front(config))
            client = Inferd(*ports, stack).openai()
            request = {
                "model": model,
                "messages": [{"role": "user", "content": "Hello"}],
                "max_tokens": 8,
                "temperature": 0,
                "extra_body": {"ignore_eos": True},
            }
            whole = await client.chat.completions.create(**request)
            assert whole.model == model
            assert whole.usage.completion_tokens == 8
            stream = await client.chat.completions.create(**request, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert text == whole.choices[0].message.content
