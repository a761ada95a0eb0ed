"""Converts a GGUF file to a model folder with float32 safetensors, because SGLang on a CPU cannot read GGUF.

Runs as a program of its own (`python -P gguf_conversion.py FILE FOLDER`), so that its gigabytes of memory are
freed and the server does not import torch. Needs transformers, torch and gguf. Downloads nothing.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.utils import logging


def convert(source: Path, destination: Path) -> None:
    """Write the model of `source` to `destination`, with its tokenizer and chat template."""
    located = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    print("reading the tokenizer", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(**located)
    config = AutoConfig.from_pretrained(**located)
    tokenizer.model_max_length = config.max_position_embeddings

    print("reading the weights", flush=True)
    # Not AutoModel's from_pretrained: it reads the file twice more, and its model counts as quantized and
    # cannot be saved. The model without weights tells which weight goes where.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    read = load_gguf_checkpoint(
        str(source), return_tensors=True, model_to_load=model, torch_dtype=torch.float32
    )
    _, unexpected = model.load_state_dict(read["tensors"], strict=False, assign=True)
    model.tie_weights()
    unset = [name for name, weight in model.named_parameters() if weight.is_meta]
    if unset or unexpected:
        raise SystemExit(f"{source.name} does not fit its architecture: lacks {unset}, has {unexpected} too")

    print("writing the weights", flush=True)
    model.save_pretrained(destination)
    tokenizer.save_pretrained(destination)


if __name__ == "__main__":
    logging.disable_progress_bar()
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
