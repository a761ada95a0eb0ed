"""Text to token ids by a table of words, for byte-level vocabularies and ASCII text: the same ids as the
tokenizers library's, in a fifth of its time. The library encodes each word once, and all other text.
"""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, product
from typing import Protocol

from inferd.services.text import word_pattern
from inferd.services.text.byte_alphabet import CHARACTER_OF_BYTE
from inferd.services.text.word_pattern import UnknownForm, normalizers
from tokenizers import Tokenizer as Backend

#: Words that are kept, and their longest in characters: some 10 MB.
_MAX_WORDS = 32_768
_MAX_LENGTH = 48
#: While text is cut, or a word encoded, no other thread runs. The library lets them: it has longer texts than
#: this, in characters (some 2 ms), and all of a text with a longer word (1 ms).
_MAX_TEXT = 65_536
_MAX_WORD = 4096
#: Characters of texts between added tokens whose ids are kept: with the ids, some 10 MB.
_MAX_KEPT = 2_000_000
#: Added tokens that are looked for one by one.
_MAX_ADDED = 4096

log = logging.getLogger(__name__)


class Encode(Protocol):
    """Token ids of a text; with those that the model's tokenizer puts around it, or without."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


def words_of(backend: Backend, by_library: Encode) -> "Words | None":
    """The table of a tokenizer; None where it does not encode word by word, or not by bytes."""
    try:
        words = Words(backend, by_library)
    except UnknownForm as reason:
        log.debug("text is encoded by the library alone: %s", reason)
        return None
    for text in _samples(backend):
        for special in (True, False):
            if words.encode(text, add_special_tokens=special) != by_library(text, add_special_tokens=special):
                log.warning("text is encoded by the library alone: its ids of %.60r are others", text)
                return None
    return words


class Words:
    """Encodes by the table what is ASCII, and by the library what is not, between the added tokens.

    What is between them is kept: a chat's earlier messages, and system prompts, come again with each request.
    """

    def __init__(self, backend: Backend, by_library: Encode) -> None:
        """Raises UnknownForm."""
        if getattr(backend.model, "dropout", None):
            raise UnknownForm("dropout")
        first, *others = word_pattern.word_patterns(backend)
        self._cut = first.findall
        self._cut_again = [pattern.findall for pattern in others]
        self._table = _Table(backend)
        self._by_library = by_library
        self._before, self._after = _around(by_library)
        self._added, self._added_later = _added_tokens(backend)
        self._kept = _Kept(self._encode)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text; added tokens written out in it are recognised."""
        ids = self._added.encode(text, self._kept.__getitem__)
        return self._before + ids + self._after if add_special_tokens else ids

    def _encode(self, text: str) -> list[int]:
        """Of what is between added tokens."""
        if len(text) > _MAX_TEXT or not text.isascii():
            return self._by_library(text, add_special_tokens=False)
        return self._added_later.encode(text, self._in_words)

    def _in_words(self, text: str) -> list[int]:
        words = self._cut(text)
        for cut in self._cut_again:
            words = list(chain.from_iterable(map(cut, words)))
        if len(text) > _MAX_WORD and max(map(len, words)) > _MAX_WORD:
            return self._by_library(text, add_special_tokens=False)
        return list(chain.from_iterable(map(self._table.__getitem__, words)))


class _AddedTokens:
    """Finds added tokens in a text, by their own texts."""

    def __init__(self, ids: dict[str, int]) -> None:
        self._ids = ids
        # Where several begin, the library takes the longest.
        longest = sorted(ids, key=len, reverse=True)
        self._cut = re.compile(f"({'|'.join(map(re.escape, longest))})").split if ids else None

    def encode(self, text: str, between: Callable[[str], Sequence[int]]) -> list[int]:
        """Token ids of a text, where `between` encodes what is between them."""
        if self._cut is None:
            return list(between(text))
        first, *others = self._cut(text)
        ids = list(between(first)) if first else []
        for index in range(0, len(others), 2):
            ids.append(self._ids[others[index]])
            if rest := others[index + 1]:
                ids += between(rest)
        return ids


class _Kept(dict[str, Sequence[int]]):
    """The token ids of texts, kept as they are asked for."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        self._encode = encode
        self._characters = 0

    def __missing__(self, text: str) -> Sequence[int]:
        ids = tuple(self._encode(text))
        if len(text) <= _MAX_TEXT:
            if self._characters > _MAX_KEPT:
                self.clear()
                self._characters = 0
            self[text] = ids
            self._characters += len(text)
        return ids


class _Table(dict[str, Sequence[int]]):
    """The token ids of words, filled as asked."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._tokenize = backend.model.tokenize

    def __missing__(self, word: str) -> Sequence[int]:
        spelled = word.translate(CHARACTER_OF_BYTE)
        ids = tuple(token.id for token in self._tokenize(spelled))
        if len(word) <= _MAX_LENGTH:
            if len(self) >= _MAX_WORDS:
                self.clear()
            self[word] = ids
        return ids


def _added_tokens(backend: Backend) -> tuple[_AddedTokens, _AddedTokens]:
    """The added tokens: those that are looked for in all of a text, and those ("normalized") in what is left.
    Raises UnknownForm where they take more than their text, or other texts than theirs."""
    added = backend.get_added_tokens_decoder()
    if len(added) > _MAX_ADDED or backend.encode_special_tokens:
        raise UnknownForm("added tokens")
    changes = bool(normalizers(backend))
    for token in added.values():
        takes_more = token.lstrip or token.rstrip or token.single_word
        if takes_more or (token.normalized and changes) or not token.content:
            raise UnknownForm(f"added token {token.content!r}")
    first, later = (
        {token.content: token_id for token_id, token in added.items() if token.normalized is normalized}
        for normalized in (False, True)
    )
    return _AddedTokens(first), _AddedTokens(later)


def _around(by_library: Encode) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after the tokens of a text. Raises UnknownForm."""
    alone, whole = (by_library("a", add_special_tokens=special) for special in (False, True))
    for start in range(len(whole) - len(alone) + 1):
        if whole[start:][: len(alone)] == alone:
            return whole[:start], whole[start + len(alone) :]
    raise UnknownForm("post-processor")


def _samples(backend: Backend) -> Iterable[str]:
    """Texts that tell whether the library's words are these: any two characters, and what the expressions of
    tokenizers are about."""
    characters = [chr(code) for code in range(128)]
    yield "".join(map("".join, product(characters, characters)))
    yield "I'll say: it's DON'T, we've, You'D ... x'S\n\n  if (a1 == 12345):\r\n\treturn  -1.5e10 \n \n"
    yield "  CamelCase HTTPServer snake_case 1234567 http://a.b/c?d=e&f  \t\t  end   "
    yield "".join(f"a {token.content}\n" for token in backend.get_added_tokens_decoder().values())
    yield ""
