"""What the front knows of a model from its files: tokenizer, template, context, and sampling defaults.

Reads configuration files only, never weights.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from inferd.v1 import message_pb2

from services.text.template import ChatTemplate
from services.text.tokenizer import Tokenizer, TokenizerError

#: Configuration keys of the context's length, in SGLang's order of preference
#: (`CONTEXT_LENGTH_KEYS` in srt/utils/hf_transformers/common.py).
_CONTEXT_KEYS = (
    "max_sequence_length",
    "seq_length",
    "max_seq_len",
    "model_max_length",
    "max_position_embeddings",
)
#: Sampling parameters for which a model's generation_config.json may name a default.
_DEFAULTED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")

#: Characters up to which text is encoded on the event loop: about a millisecond. Longer text goes to a
#: thread, so that no other stream waits for it.
_INLINE_CHARACTERS = 4096
_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tokenize")


@dataclass(frozen=True)
class ModelText:
    """Text in and out of one model.

    `context_length` and `vocabulary` are in tokens; `defaults` are the model's own sampling defaults,
    by the names of `SamplingParams`. `ends` are the tokens by which the model ends an answer.
    """

    tokenizer: Tokenizer
    template: ChatTemplate
    context_length: int
    vocabulary: int
    defaults: Mapping[str, float]
    ends: frozenset[int]

    @classmethod
    def load(cls, path: str | Path) -> "ModelText":
        """From a folder, or a Hugging Face id. Raises TokenizerError where it cannot be read."""
        # Not AutoTokenizer and AutoConfig: they import torch, which costs 10 s and 650 MB here.
        from transformers import PreTrainedTokenizerFast

        try:
            hf = PreTrainedTokenizerFast.from_pretrained(path)
            config = _json_file(path, "config.json")
        except (OSError, ValueError, KeyError) as error:
            raise TokenizerError(
                f"no tokenizer and configuration can be loaded from {path}: {error}"
            ) from error
        # A model of several modalities has its language model's configuration inside.
        config = config.get("text_config", config)
        generation = _json_file(path, "generation_config.json")
        tokenizer = Tokenizer(hf)
        return cls(
            tokenizer=tokenizer,
            template=ChatTemplate(hf),
            context_length=_context_length(config),
            vocabulary=min(tokenizer.size, config.get("vocab_size", tokenizer.size)),
            defaults={name: generation[name] for name in _DEFAULTED if generation.get(name) is not None},
            ends=_ends(hf.eos_token_id, config.get("eos_token_id"), generation.get("eos_token_id")),
        )

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text. A long one does not stall the event loop."""
        return await _off_loop(
            len(text), lambda: self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        )

    async def encode_chat(
        self, messages: Sequence[message_pb2.Message], tools: Iterable[message_pb2.Tool]
    ) -> list[int]:
        """Token ids of a conversation, rendered; raises as `ChatTemplate.render` does."""

        def encode() -> list[int]:
            # The template writes the special tokens itself.
            return self.tokenizer.encode(self.template.render(messages, tools), add_special_tokens=False)

        return await _off_loop(sum(message.ByteSize() for message in messages), encode)


async def _off_loop(size: int, encode: Callable[[], list[int]]) -> list[int]:
    if size <= _INLINE_CHARACTERS:
        return encode()
    return await asyncio.get_running_loop().run_in_executor(_threads, encode)


def _json_file(path: str | Path, name: str) -> dict[str, Any]:
    """A JSON file of a model: of a folder, or of a Hugging Face id; empty where there is none."""
    from transformers.utils.hub import cached_file

    found = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
    document = orjson.loads(Path(found).read_bytes()) if found else {}
    return document if isinstance(document, dict) else {}


def _ends(*given: int | list[int] | None) -> frozenset[int]:
    """End-of-sequence tokens: files name one, several, or none."""
    found: set[int] = set()
    for ids in given:
        found.update(ids if isinstance(ids, list) else () if ids is None else (ids,))
    return frozenset(found)


def _context_length(config: Mapping[str, Any]) -> int:
    """As SGLang reads it (`get_context_length`), rope scaling included."""
    scaling: Mapping[str, Any] = config.get("rope_scaling") or config.get("rope_parameters") or {}
    factor = scaling.get("factor") or 1
    kind = scaling.get("rope_type", scaling.get("type"))
    if "original_max_position_embeddings" in scaling or kind == "llama3":
        factor = 1
    for key in _CONTEXT_KEYS:
        if config.get(key) is not None:
            return int(factor * config[key])
    return 2048
