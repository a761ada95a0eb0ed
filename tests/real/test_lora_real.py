"""LoRA adapters on a real SGLang that `inferd serve` launches: two random ones of the tiny model."""

import asyncio
import json
from pathlib import Path

import numpy as np
import openai
from safetensors.numpy import save_file

from tests.real.test_serve_real import serving
from tests.real.tiny_model import HIDDEN, LAYERS

_RANK = 4


def write_adapter(folder: Path, seed: int) -> Path:
    """A random adapter of the tiny model's attention, loud enough to change what it says."""
    random = np.random.default_rng(seed)
    weights = {}
    for number in range(LAYERS):
        for projection in ("q_proj", "v_proj"):
            name = f"base_model.model.model.layers.{number}.self_attn.{projection}"
            weights[f"{name}.lora_A.weight"] = random.normal(0, 1, (_RANK, HIDDEN)).astype(np.float32)
            weights[f"{name}.lora_B.weight"] = random.normal(0, 1, (HIDDEN, _RANK)).astype(np.float32)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": _RANK,
        "lora_alpha": 2 * _RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
    }
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


async def test_each_adapter_says_its_own(tiny_model_path: Path, tmp_path: Path) -> None:
    one_path, two_path = (str(write_adapter(tmp_path / name, seed)) for seed, name in enumerate(("a", "b")))
    adapters = [{"name": "one", "aliases": ["uno"], "path": one_path}, {"name": "two", "path": two_path}]
    async with (
        serving(tiny_model_path, tmp_path, adapters=adapters) as (_, port),
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client,
    ):

        async def say(model: str, **extra: str) -> str:
            answer = await client.completions.create(
                model=model,
                prompt="once upon a time",
                max_tokens=12,
                temperature=0,
                extra_body={"ignore_eos": True, **extra},
            )
            return answer.choices[0].text

        base, one, two = await say("tiny"), await say("tiny:one"), await say("tiny:two")
        assert len({base, one, two}) == 3
        assert [await say("uno"), await say("tiny", lora_path="two")] == [one, two]
        # One batch, with several adapters and none; and no prefix of another's is taken.
        names = ["tiny", "tiny:one", "tiny:two", "uno"] * 2
        assert await asyncio.gather(*map(say, names)) == [base, one, two, one] * 2
        listed = [model.id async for model in client.models.list()]
        assert listed == ["tiny", "tiny:one", "tiny:two"]
