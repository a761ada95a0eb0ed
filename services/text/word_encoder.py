"""Encodes ASCII text with a cache of the token ids of words: the same ids as the tokenizers library, five
times faster.

Needs a byte-level vocabulary. The library encodes each word once, and all text that is not ASCII.
"""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, product
from typing import Protocol

from tokenizers import Tokenizer as Backend

from inferd.services.text import word_pattern
from inferd.services.text.byte_alphabet import CHARACTER_OF_BYTE
from inferd.services.text.word_pattern import UnsupportedTokenizer, normalizers

#: How many words are cached, and the most characters of a cached word: about 10 MB.
_MAX_WORDS = 32_768
_MAX_CACHED_WORD = 48
#: Splitting a text, or encoding a word, holds the GIL; the library's batch call does not. So the library
#: encodes a text of more than _MAX_SEGMENT characters (about 2 ms), and a text with a word of more than
#: _MAX_WORD characters (about 1 ms).
_MAX_SEGMENT = 65_536
_MAX_WORD = 4096
#: Characters of the texts between added tokens that are cached: about 10 MB with their ids.
_MAX_SEGMENT_CHARACTERS = 2_000_000
#: The most added tokens for which one expression finds all of them.
_MAX_ADDED = 4096

log = logging.getLogger(__name__)


class EncodeByLibrary(Protocol):
    """Encodes a text with the tokenizers library. `add_special_tokens`: with the tokens that the tokenizer
    puts around a text."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


def make_word_encoder(backend: Backend, encode_by_library: EncodeByLibrary) -> "WordEncoder | None":
    """A word encoder for a tokenizer; None if its ids would differ from the library's."""
    try:
        encoder = WordEncoder(backend, encode_by_library)
    except UnsupportedTokenizer as reason:
        log.debug("text is encoded by the library alone: %s", reason)
        return None
    for text in _samples(backend):
        for special in (True, False):
            if encoder.encode(text, add_special_tokens=special) != encode_by_library(
                text, add_special_tokens=special
            ):
                log.warning("text is encoded by the library alone: its ids of %.60r are others", text)
                return None
    return encoder


class WordEncoder:
    """Encodes texts like the tokenizers library, with two caches.

    One has the ids of words. The other has the ids of segments, which are the texts between added tokens: the
    system prompt and the earlier messages of a chat come again with each request.
    """

    def __init__(self, backend: Backend, encode_by_library: EncodeByLibrary) -> None:
        """Raises UnsupportedTokenizer if the tokenizer does not split text into words as `word_pattern`
        needs."""
        if getattr(backend.model, "dropout", None):
            raise UnsupportedTokenizer("dropout")
        first, *others = word_pattern.word_patterns(backend)
        self._split = first.findall
        self._split_again = [pattern.findall for pattern in others]
        self._word_ids = _WordIds(backend)
        self._encode_by_library = encode_by_library
        self._before, self._after = _surrounding_ids(encode_by_library)
        self._added_tokens, self._normalized_tokens = _added_tokens(backend)
        self._segment_ids = _SegmentIds(self._encode_segment)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The token ids of a text. Added tokens that are written in the text are recognised."""
        ids = self._added_tokens.encode(text, self._segment_ids.__getitem__)
        return self._before + ids + self._after if add_special_tokens else ids

    def _encode_segment(self, text: str) -> list[int]:
        """The token ids of a text between added tokens."""
        if len(text) > _MAX_SEGMENT or not text.isascii():
            return self._encode_by_library(text, add_special_tokens=False)
        return self._normalized_tokens.encode(text, self._encode_words)

    def _encode_words(self, text: str) -> list[int]:
        words = self._split(text)
        for cut in self._split_again:
            words = list(chain.from_iterable(map(cut, words)))
        if len(text) > _MAX_WORD and max(map(len, words)) > _MAX_WORD:
            return self._encode_by_library(text, add_special_tokens=False)
        return list(chain.from_iterable(map(self._word_ids.__getitem__, words)))


class _AddedTokens:
    """Finds added tokens in a text."""

    def __init__(self, ids: dict[str, int]) -> None:
        self._ids = ids
        # If several tokens begin at the same place, the library takes the longest.
        longest = sorted(ids, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest))})").split if ids else None

    def encode(self, text: str, between: Callable[[str], Sequence[int]]) -> list[int]:
        """The token ids of a text. `between` encodes the texts between added tokens."""
        if self._split is None:
            return list(between(text))
        first, *others = self._split(text)
        ids = list(between(first)) if first else []
        for index in range(0, len(others), 2):
            ids.append(self._ids[others[index]])
            if rest := others[index + 1]:
                ids += between(rest)
        return ids


class _SegmentIds(dict[str, Sequence[int]]):
    """The token ids of segments, computed on first use. Is emptied if it grows too large."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        self._encode_segment = encode
        self._characters = 0

    def __missing__(self, text: str) -> Sequence[int]:
        ids = tuple(self._encode_segment(text))
        if len(text) <= _MAX_SEGMENT:
            if self._characters > _MAX_SEGMENT_CHARACTERS:
                self.clear()
                self._characters = 0
            self[text] = ids
            self._characters += len(text)
        return ids


class _WordIds(dict[str, Sequence[int]]):
    """The token ids of words, computed on first use. Is emptied if it grows too large."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._tokenize = backend.model.tokenize

    def __missing__(self, word: str) -> Sequence[int]:
        spelled = word.translate(CHARACTER_OF_BYTE)
        ids = tuple(token.id for token in self._tokenize(spelled))
        if len(word) <= _MAX_CACHED_WORD:
            if len(self) >= _MAX_WORDS:
                self.clear()
            self[word] = ids
        return ids


def _added_tokens(backend: Backend) -> tuple[_AddedTokens, _AddedTokens]:
    """The added tokens that are searched first, and the added tokens that are searched in the rest of the
    text (those with the flag "normalized").

    Raises UnsupportedTokenizer if a token matches more than its own text, or another text.
    """
    added = backend.get_added_tokens_decoder()
    if len(added) > _MAX_ADDED or backend.encode_special_tokens:
        raise UnsupportedTokenizer("added tokens")
    changes = bool(normalizers(backend))
    for token in added.values():
        takes_more = token.lstrip or token.rstrip or token.single_word
        if takes_more or (token.normalized and changes) or not token.content:
            raise UnsupportedTokenizer(f"added token {token.content!r}")
    first, later = (
        {token.content: token_id for token_id, token in added.items() if token.normalized is normalized}
        for normalized in (False, True)
    )
    return _AddedTokens(first), _AddedTokens(later)


def _surrounding_ids(encode_by_library: EncodeByLibrary) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after those of a text. Raises UnsupportedTokenizer."""
    alone, whole = (encode_by_library("a", add_special_tokens=special) for special in (False, True))
    for start in range(len(whole) - len(alone) + 1):
        if whole[start:][: len(alone)] == alone:
            return whole[:start], whole[start + len(alone) :]
    raise UnsupportedTokenizer("post-processor")


def _samples(backend: Backend) -> Iterable[str]:
    """Texts that show whether the library splits text in the same way: all pairs of ASCII characters, and
    cases that the expressions of tokenizers treat specially."""
    characters = [chr(code) for code in range(128)]
    yield "".join(map("".join, product(characters, characters)))
    yield "I'll say: it's DON'T, we've, You'D ... x'S\n\n  if (a1 == 12345):\r\n\treturn  -1.5e10 \n \n"
    yield "  CamelCase HTTPServer snake_case 1234567 http://a.b/c?d=e&f  \t\t  end   "
    yield "".join(f"a {token.content}\n" for token in backend.get_added_tokens_decoder().values())
    yield ""
