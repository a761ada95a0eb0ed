"""A model's own tokenizer: text to token ids and back, and each token's bytes.

Loaded once a model from its files; holds no state of a request, and is safe to call from threads.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from inferd.services.text.byte_alphabet import BYTE_OF_CHARACTER
from inferd.services.text.words import words_of
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
#: The word boundary mark of SentencePiece pieces.
_SPACE_MARK = "\u2581"


#: Characters of a text that is encoded by the quickest call.
_SHORT = 4096


class TokenizerError(Exception):
    """The model's tokenizer cannot be used; the message says why and what to do."""


class Tokenizer:
    """Encodes and decodes with the `tokenizers` backend of a Hugging Face tokenizer."""

    def __init__(self, hf: Any) -> None:
        if not getattr(hf, "is_fast", False):
            raise TokenizerError(
                f"{hf.name_or_path}: there is no tokenizer.json that the tokenizers library can read;"
                " set `tokenizer` to a folder that has one"
            )
        self.backend: Backend = hf.backend_tokenizer
        # Left on, either would cut or lengthen what is encoded, and change the shared backend.
        self.backend.no_truncation()
        self.backend.no_padding()
        self.size: int = len(hf)
        self._words = words_of(self.backend, self._by_library)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text. Special tokens written out in the text are recognised."""
        if self._words is not None:
            return self._words.encode(text, add_special_tokens=add_special_tokens)
        return self._by_library(text, add_special_tokens=add_special_tokens)

    @property
    def encodes_words(self) -> bool:
        """Whether text is encoded by a table of words, and not by the library alone."""
        return self._words is not None

    def _by_library(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if len(text) <= _SHORT:
            return self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        # In a batch, though of one: `encode` holds the GIL for as long as it takes, a batch releases it.
        [encoding] = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return encoding.ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of tokens; U+FFFD where their bytes are no UTF-8."""
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    @cached_property
    def plain_texts(self) -> "PlainTexts":
        """The texts of tokens that are the same wherever they stand."""
        return PlainTexts(self)

    def is_added(self, token_id: int) -> bool:
        """Whether the token was added to the vocabulary, such as the special ones."""
        return token_id in self._added

    @cached_property
    def joins_bytes(self) -> bool:
        """Whether a text is its tokens' bytes, joined, and nothing else."""
        return type(self.backend.decoder) is ByteLevel

    def is_special(self, token_id: int) -> bool:
        """Whether the token is left out of a text without special tokens."""
        return token_id in self._special

    def ids_of(self, markers: frozenset[str]) -> frozenset[int]:
        """The special tokens whose texts are among `markers`."""
        special = self._special_by_text
        return frozenset(special[marker] for marker in markers if marker in special)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for by itself; empty for an id without a token."""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = self._piece_bytes(token_id)
        return found

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        return {}

    @cached_property
    def _added(self) -> dict[int, str]:
        return {i: token.content for i, token in self.backend.get_added_tokens_decoder().items()}

    @cached_property
    def _special(self) -> frozenset[int]:
        added = self.backend.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    @cached_property
    def _special_by_text(self) -> dict[str, int]:
        return {self._added[i]: i for i in self._special}

    @cached_property
    def _is_byte_level(self) -> bool:
        return "ByteLevel" in repr(self.backend.decoder)

    def _piece_bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self.backend.id_to_token(token_id)
        if piece is None:
            return b""
        if self._is_byte_level:
            return bytes(BYTE_OF_CHARACTER.get(character, 0x3F) for character in piece)
        if match := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        return piece.replace(_SPACE_MARK, " ").encode()


class PlainTexts(dict[int, str | None]):
    """Of each token, the text that it adds wherever it follows whole characters, or None: filled as asked."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token_id: int) -> str | None:
        tokenizer = self._tokenizer
        text = None
        if tokenizer.joins_bytes and not tokenizer.is_added(token_id):
            text = tokenizer.decode([token_id], skip_special_tokens=False)
            # Nothing, or half a character.
            if not text or "\ufffd" in text:
                text = None
        if 0 <= token_id < tokenizer.size:
            self[token_id] = text
        return text
