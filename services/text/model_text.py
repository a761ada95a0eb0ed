"""What the front knows of a model from its files: tokenizer, template, context, and sampling defaults.

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
from inferd.services.text.template import ChatTemplate, Conversation, Rendered
from inferd.services.text.tokenizer import Tokenizer, TokenizerError

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

#: Keys of a configuration that has a part for that kind of medium, as SGLang tells them, and as older models'
#: own code names them.
_MODALITY_KEYS = {
    "image": ("vision_config", "vision_tower", "mm_vision_tower", "visual", "img_processor"),
    "audio": ("audio_config", "sound_config", "audio_processor"),
}

#: Characters up to which text is encoded on the event loop: about a millisecond. Longer text goes to a
#: thread, so that no other stream waits for it.
_INLINE_CHARACTERS = 4096
#: How many times quicker text is encoded by words.
_QUICKER = 5
#: What a function adds to that, of characters in a prompt, as a rule.
_FUNCTION_CHARACTERS = 512
_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tokenize")

_Encoded = TypeVar("_Encoded")


@dataclass(frozen=True)
class ModelText:
    """Text in and out of one model.

    `context_length` and `vocabulary` are in tokens; `defaults` are the model's own sampling defaults,
    by the names of `SamplingParams`. `ends` are the tokens by which the model ends an answer. `modalities`
    are the kinds of media that it takes beside text: "image", "audio".
    """

    tokenizer: Tokenizer
    template: ChatTemplate
    context_length: int
    vocabulary: int
    defaults: Mapping[str, Any]
    ends: frozenset[int]
    modalities: frozenset[str] = frozenset()

    @classmethod
    def load(cls, path: str | Path, chat_template: str | Path | None = None) -> "ModelText":
        """From a folder, or a Hugging Face id; with the template of a file in place of the model's own.

        Raises TokenizerError where it cannot be read.
        """
        # Not AutoTokenizer and AutoConfig: they import torch, which costs 10 s and 650 MB here.
        from transformers import PreTrainedTokenizerFast

        try:
            hf = PreTrainedTokenizerFast.from_pretrained(path)
            config = _json_file(path, "config.json")
            # Where models of several modalities kept theirs, before tokenizers read it themselves.
            template = _json_file(path, "chat_template.json").get("chat_template")
        except (OSError, ValueError, KeyError) as error:
            raise TokenizerError(
                f"no tokenizer and configuration can be loaded from {path}: {error}"
            ) from error
        if template and not hf.chat_template:
            hf.chat_template = template
        modalities = _modalities(config)
        # A model of several modalities has its language model's configuration inside.
        config = config.get("thinker_config") or config
        config = config.get("text_config") or config
        generation = _json_file(path, "generation_config.json")
        tokenizer = Tokenizer(hf)
        return cls(
            tokenizer=tokenizer,
            template=_template(hf, chat_template),
            context_length=_context_length(config),
            vocabulary=min(tokenizer.size, config.get("vocab_size", tokenizer.size)),
            defaults={name: generation[name] for name in _DEFAULTED if generation.get(name) is not None},
            ends=_ends(hf.eos_token_id, config.get("eos_token_id"), generation.get("eos_token_id")),
            modalities=modalities,
        )

    @property
    def template_source(self) -> str:
        """The text of the chat template, all of them where there are several; "" where there is none."""
        return self.template.source

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text. A long one does not stall the event loop."""

        def encode() -> list[int]:
            return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)

        return encode() if self._is_short(len(text), (text,)) else await _in_thread(encode)

    async def encode_chat(self, conversation: Conversation) -> tuple[Rendered, list[int]]:
        """A conversation, rendered, and its token ids; raises as `ChatTemplate.render` does."""

        def encode() -> tuple[Rendered, list[int]]:
            rendered = self.template.render(conversation)
            # The template writes the special tokens itself.
            return rendered, self.tokenizer.encode(rendered.text, add_special_tokens=False)

        size = sum([message.ByteSize() for message in conversation.messages[:]])
        size += len(conversation.functions) * _FUNCTION_CHARACTERS
        texts = (part.text for message in conversation.messages for part in message.content)
        return encode() if self._is_short(size, texts) else await _in_thread(encode)

    def _is_short(self, size: int, texts: Iterable[str]) -> bool:
        """Whether a prompt of so many characters, with these texts, is encoded on the event loop."""
        if size <= _INLINE_CHARACTERS:
            return True
        is_quick = size <= _INLINE_CHARACTERS * _QUICKER and self.tokenizer.encodes_words
        return is_quick and all(map(str.isascii, texts))


def check_token_ids(ids: Iterable[int], text: ModelText, field: str) -> None:
    """Raise ServiceError INVALID_ARGUMENT (OUT_OF_RANGE) if the model has no token for one of the ids.

    An engine may crash if it gets such an id. `field` is the path of the request field: a list of ids, or a
    map whose keys are ids.
    """
    for index, token_id in enumerate(ids):
        if token_id >= text.vocabulary:
            path = f'{field}["{token_id}"]' if isinstance(ids, Mapping) else f"{field}[{index}]"
            last = text.vocabulary - 1
            raise invalid(
                path, f"{path}: the model's token ids are 0 to {last}, not {token_id}", "OUT_OF_RANGE"
            )


async def _in_thread(encode: Callable[[], _Encoded]) -> _Encoded:
    return await asyncio.get_running_loop().run_in_executor(_threads, encode)


def _json_file(path: str | Path, name: str) -> dict[str, Any]:
    """A JSON file of a model: of a folder, or of a Hugging Face id; empty where there is none."""
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
    """The kinds of media that a model has an encoder for, by its configuration."""
    inside: Mapping[str, Any] = config.get("thinker_config") or {}
    return frozenset(
        kind
        for kind, keys in _MODALITY_KEYS.items()
        if any(config.get(key) or inside.get(key) for key in keys)
    )


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
