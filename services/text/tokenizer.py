"""The tokenizer of a model: text to token ids and back, and the bytes of each token.

Is loaded once for each model, and may be called from several threads. Holds no state of a request: text that
arrives token by token is decoded in `detokenizer`.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel

from inferd.services.text.byte_alphabet import BYTE_OF_CHARACTER
from inferd.services.text.word_encoder import make_word_encoder

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
#: The word boundary mark of SentencePiece pieces.
_SPACE_MARK = "\u2581"


#: Text of at most so many characters is encoded by the fastest call, which holds the GIL.
_SHORT_TEXT = 4096


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
        # Truncation would cut prompts, and padding would lengthen them.
        self.backend.no_truncation()
        self.backend.no_padding()
        self.size: int = len(hf)
        self._word_encoder = make_word_encoder(self.backend, self._encode_by_library)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The token ids of a text. Special tokens that are written in the text are recognised."""
        if self._word_encoder is not None:
            return self._word_encoder.encode(text, add_special_tokens=add_special_tokens)
        return self._encode_by_library(text, add_special_tokens=add_special_tokens)

    @property
    def encodes_words(self) -> bool:
        """Whether the word encoder encodes texts, and not the tokenizers library alone."""
        return self._word_encoder is not None

    def _encode_by_library(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if len(text) <= _SHORT_TEXT:
            return self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        # A batch of one text, because a batch releases the GIL and `encode` does not.
        [encoding] = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return encoding.ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of tokens. Bytes that are not UTF-8 become U+FFFD."""
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    @cached_property
    def plain_texts(self) -> "PlainTexts":
        """The texts of tokens whose text does not depend on the tokens around them."""
        return PlainTexts(self)

    def is_added(self, token_id: int) -> bool:
        """Whether a token was added to the vocabulary, as special tokens are."""
        return token_id in self._added

    @cached_property
    def joins_bytes(self) -> bool:
        """Whether decoding only joins the bytes of tokens."""
        return type(self.backend.decoder) is ByteLevel

    def is_special(self, token_id: int) -> bool:
        """Whether a token is special: `decode` with `skip_special_tokens` leaves it out."""
        return token_id in self._special

    def ids_of(self, markers: frozenset[str]) -> frozenset[int]:
        """The ids of the special tokens whose texts are among `markers`."""
        special = self._special_by_text
        return frozenset(special[marker] for marker in markers if marker in special)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a single token; empty for an id without a token."""
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
    """The text of each token that is decoded by itself, computed on first use.

    None if the token's text depends on other tokens: it may be a part of a character, or an added token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token_id: int) -> str | None:
        tokenizer = self._tokenizer
        text = None
        if tokenizer.joins_bytes and not tokenizer.is_added(token_id):
            text = tokenizer.decode([token_id], skip_special_tokens=False)
            # No text, or a part of a character.
            if not text or "\ufffd" in text:
                text = None
        if 0 <= token_id < tokenizer.size:
            self[token_id] = text
        return text
