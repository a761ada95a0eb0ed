"""The text side of a model, read from its files: tokenizer, chat template, context length, sampling defaults.

Reads configuration files only, never weights.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from inferd.services.errors import invalid
from inferd.services.text.template import ChatTemplate, Conversation, RenderedPrompt
from inferd.services.text.tokenizer import Tokenizer, TokenizerError

#: Configuration keys of the context length, in SGLang's order of preference
#: (`CONTEXT_LENGTH_KEYS` in srt/utils/hf_transformers/common.py).
_CONTEXT_KEYS = (
    "max_sequence_length",
    "seq_length",
    "max_seq_len",
    "model_max_length",
    "max_position_embeddings",
)
#: Sampling parameters for which a model's generation_config.json may give a default.
_SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")

#: Keys that show that a model has an encoder for a kind of media. They are those that SGLang looks for, and
#: those in the code of older models.
_MODALITY_KEYS = {
    "image": ("vision_config", "vision_tower", "mm_vision_tower", "visual", "img_processor"),
    "audio": ("audio_config", "sound_config", "audio_processor"),
}

#: Text of at most so many characters is encoded on the event loop, in about a millisecond. Longer text is
#: encoded in a thread, so that no stream waits for it.
_INLINE_CHARACTERS = 4096
#: How many times faster the word encoder is than the tokenizers library.
_WORD_ENCODER_SPEEDUP = 5
_tokenizer_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tokenize")

_Encoded = TypeVar("_Encoded")


@dataclass(frozen=True)
class ModelText:
    """Converts text to and from the tokens of one model.

    `context_length` and `vocabulary_size` are in tokens. `sampling_defaults` are the model's own defaults, by
    the names of `SamplingParams`. `end_token_ids` are the tokens that end an answer. `modalities` are the
    kinds of media that the model takes beside text: "image", "audio".
    """

    tokenizer: Tokenizer
    template: ChatTemplate
    context_length: int
    vocabulary_size: int
    sampling_defaults: Mapping[str, Any]
    end_token_ids: frozenset[int]
    modalities: frozenset[str] = frozenset()

    @classmethod
    def load(cls, path: str | Path, chat_template: str | Path | None = None) -> "ModelText":
        """Load the model text from a folder, or from a Hugging Face id.

        `chat_template` is a file that replaces the model's own template. Raises TokenizerError if a file is
        missing or cannot be read.
        """
        # Not AutoTokenizer and AutoConfig: they import torch, which costs 10 s and 650 MB.
        from transformers import PreTrainedTokenizerFast

        try:
            hf = PreTrainedTokenizerFast.from_pretrained(path)
            config = _json_file(path, "config.json")
            # Multimodal models kept their template in this file before tokenizers read it themselves.
            template = _json_file(path, "chat_template.json").get("chat_template")
        except (OSError, ValueError, KeyError) as error:
            raise TokenizerError(
                f"no tokenizer and configuration can be loaded from {path}: {error}"
            ) from error
        if template and not hf.chat_template:
            hf.chat_template = template
        modalities = _modalities(config)
        # The configuration of a multimodal model contains that of its language model.
        config = config.get("thinker_config") or config
        config = config.get("text_config") or config
        generation = _json_file(path, "generation_config.json")
        tokenizer = Tokenizer(hf)
        return cls(
            tokenizer=tokenizer,
            template=_template(hf, chat_template),
            context_length=_context_length(config),
            vocabulary_size=min(tokenizer.size, config.get("vocab_size", tokenizer.size)),
            sampling_defaults={
                name: generation[name] for name in _SAMPLING_FIELDS if generation.get(name) is not None
            },
            end_token_ids=_end_token_ids(
                hf.eos_token_id, config.get("eos_token_id"), generation.get("eos_token_id")
            ),
            modalities=modalities,
        )

    @property
    def template_source(self) -> str:
        """The source of the chat template; of several templates, all sources joined; "" if there is none."""
        return self.template.source

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The token ids of a text. A long text is encoded in a thread, and does not block the event loop."""

        def encode() -> list[int]:
            return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)

        return encode() if self._is_encoded_inline(len(text), (text,)) else await _in_thread(encode)

    async def encode_chat(self, conversation: Conversation) -> tuple[RenderedPrompt, list[int]]:
        """The rendered prompt of a conversation, and its token ids. Raises as `ChatTemplate.render` does."""

        def encode() -> tuple[RenderedPrompt, list[int]]:
            rendered = self.template.render(conversation)
            # Without special tokens, because the template writes them itself.
            return rendered, self.tokenizer.encode(rendered.text, add_special_tokens=False)

        size = sum([message.ByteSize() for message in conversation.messages[:]])
        size += sum([function.size for function in conversation.functions])
        texts = (part.text for message in conversation.messages for part in message.content)
        return encode() if self._is_encoded_inline(size, texts) else await _in_thread(encode)

    def _is_encoded_inline(self, size: int, texts: Iterable[str]) -> bool:
        """Whether a prompt of `size` characters that contains these texts is encoded on the event loop."""
        if size <= _INLINE_CHARACTERS:
            return True
        is_quick = size <= _INLINE_CHARACTERS * _WORD_ENCODER_SPEEDUP and self.tokenizer.encodes_words
        return is_quick and all(map(str.isascii, texts))


def check_token_ids(ids: Iterable[int], text: ModelText, field: str) -> None:
    """Raise ServiceError INVALID_ARGUMENT (OUT_OF_RANGE) if the model has no token for one of the ids.

    An engine may crash if it gets such an id. `field` is the path of the request field: a list of ids, or a
    map whose keys are ids.
    """
    for index, token_id in enumerate(ids):
        if token_id >= text.vocabulary_size:
            path = f'{field}["{token_id}"]' if isinstance(ids, Mapping) else f"{field}[{index}]"
            last = text.vocabulary_size - 1
            raise invalid(
                path, f"{path}: the model's token ids are 0 to {last}, not {token_id}", "OUT_OF_RANGE"
            )


async def _in_thread(encode: Callable[[], _Encoded]) -> _Encoded:
    return await asyncio.get_running_loop().run_in_executor(_tokenizer_threads, encode)


def _json_file(path: str | Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of a model, by folder or Hugging Face id; empty if there is no such file."""
    from transformers.utils.hub import cached_file

    found = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
    document = orjson.loads(Path(found).read_bytes()) if found else {}
    return document if isinstance(document, dict) else {}


def _template(hf: Any, path: str | Path | None) -> ChatTemplate:
    if path is None:
        return ChatTemplate(hf)
    try:
        return ChatTemplate(hf, Path(path).read_text())
    except (OSError, UnicodeDecodeError, TokenizerError) as error:
        raise TokenizerError(f"{path}: is no chat template: {error}") from error


def _modalities(config: Mapping[str, Any]) -> frozenset[str]:
    """The kinds of media for which a model's configuration has an encoder."""
    inside: Mapping[str, Any] = config.get("thinker_config") or {}
    return frozenset(
        kind
        for kind, keys in _MODALITY_KEYS.items()
        if any(config.get(key) or inside.get(key) for key in keys)
    )


def _end_token_ids(*given: int | list[int] | None) -> frozenset[int]:
    """All end-of-sequence tokens. A file may give one, several, or none."""
    found: set[int] = set()
    for ids in given:
        found.update(ids if isinstance(ids, list) else () if ids is None else (ids,))
    return frozenset(found)


def _context_length(config: Mapping[str, Any]) -> int:
    """The context length as SGLang computes it (`get_context_length`), with RoPE scaling applied."""
    scaling: Mapping[str, Any] = config.get("rope_scaling") or config.get("rope_parameters") or {}
    factor = scaling.get("factor") or 1
    kind = scaling.get("rope_type", scaling.get("type"))
    if "original_max_position_embeddings" in scaling or kind == "llama3":
        factor = 1
    for key in _CONTEXT_KEYS:
        if config.get(key) is not None:
            return int(factor * config[key])
    return 2048
