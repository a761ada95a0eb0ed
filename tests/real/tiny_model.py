"""A tiny Llama with random weights and SmolLM2's tokenizer, for tests that do not read the text's meaning."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HIDDEN = 64
LAYERS = 2
HEADS = 4
MLP = 128
VOCABULARY = 49152
CONTEXT = 2048

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write_tiny_model(folder: Path, tokenizer: Path) -> None:
    """Write the model, always the same, to a new `folder`, with the model folder `tokenizer`'s tokenizer."""
    random = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return random.normal(0, 0.05, shape).astype(np.float32)

    def ones() -> np.ndarray:
        return np.ones(HIDDEN, np.float32)

    weights = {"model.embed_tokens.weight": weight(VOCABULARY, HIDDEN), "model.norm.weight": ones()}
    for number in range(LAYERS):
        layer = f"model.layers.{number}"
        for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weights[f"{layer}.self_attn.{projection}.weight"] = weight(HIDDEN, HIDDEN)
        weights[f"{layer}.mlp.gate_proj.weight"] = weight(MLP, HIDDEN)
        weights[f"{layer}.mlp.up_proj.weight"] = weight(MLP, HIDDEN)
        weights[f"{layer}.mlp.down_proj.weight"] = weight(HIDDEN, MLP)
        weights[f"{layer}.input_layernorm.weight"] = ones()
        weights[f"{layer}.post_attention_layernorm.weight"] = ones()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HIDDEN // HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
        "vocab_size": VOCABULARY,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    for name in _TOKENIZER_FILES:
        shutil.copy(tokenizer / name, folder / name)
