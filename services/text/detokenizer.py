"""Token ids to text as they come: what is appended is final, and never half a character."""

from collections.abc import Sequence

from inferd.services.text.tokenizer import Tokenizer
from tokenizers.decoders import DecodeStream

#: Tokens of the prompt that the first new token is decoded after, so that a word boundary (the leading
#: space of a SentencePiece piece) is kept. SGLang's own detokenizer takes as many.
_CONTEXT = 5


class Detokenizer:
    """The text of one continuation. The pieces that `add` and `finish` return, joined, are all of it.

    Where special tokens are skipped, those in `keep` are not: their text stands as it is in the vocabulary.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        *,
        skip_special_tokens: bool,
        keep: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        # The library skips all special tokens or none: to keep some, the others are left out before it.
        self._keep = keep if skip_special_tokens else frozenset()
        self._skip = skip_special_tokens and not keep
        #: The last tokens whose text is out.
        self._context: Sequence[int] = [
            i for i in prompt[-_CONTEXT:] if not (self._keep and self._is_dropped(i))
        ]
        self._plain = tokenizer.plain_texts
        #: Tokens whose text is not out yet.
        self._pending: list[int] = []
        #: Decodes what is not plain. None: it has not seen the last tokens.
        self._stream: DecodeStream | None = None

    def add(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        if self._keep:
            if token_id in self._keep:
                return self._marker(token_id)
            if self._is_dropped(token_id):
                return ""
        pending = self._pending
        if not pending:
            plain = self._plain[token_id]
            if plain is not None:
                self.passed()
                return plain
        pending.append(token_id)
        if self._stream is None:
            self._stream = DecodeStream(ids=[*self._context], skip_special_tokens=self._skip)
        try:
            text = self._stream.step(self._tokenizer.backend, token_id)
        except Exception:
            # The stream refuses tokens whose text does not go on from what it had ("Invalid prefix"):
            # decode what is pending by itself and go on from there.
            self._stream = None
            return self.finish()
        if text is None:
            return ""
        self._context = pending[-_CONTEXT:]
        pending.clear()
        return text

    def text_of(self, token_id: int) -> str | None:
        """What `add` would return, where that is the token's own text; it counts as added once `passed` is
        called. None: it is to be added."""
        return None if self._pending else self._plain[token_id]

    def passed(self) -> None:
        """The text of a token went out by itself."""
        # Only of tokenizers by which texts are bytes, joined: what comes next has no need of it.
        self._context = ()
        self._stream = None

    def add_all(self, ids: Sequence[int]) -> str:
        """The text that these tokens complete."""
        return self.add(ids[0]) if len(ids) == 1 else "".join(map(self.add, ids))

    def finish(self) -> str:
        """The text of tokens still held back: U+FFFD stands for bytes that never became a character."""
        if not self._pending:
            return ""
        before = self._tokenizer.decode([*self._context], skip_special_tokens=self._skip)
        whole = self._tokenizer.decode([*self._context, *self._pending], skip_special_tokens=self._skip)
        self._context = self._pending[-_CONTEXT:]
        self._pending.clear()
        return whole[len(before) :] if whole.startswith(before) else whole

    def _is_dropped(self, token_id: int) -> bool:
        return self._tokenizer.is_special(token_id) and token_id not in self._keep

    def _marker(self, token_id: int) -> str:
        """What was held back, and the marker; what comes next is decoded after it."""
        # Not by the library: a decoder that turns U+2581 into a space would do so inside a marker too.
        text = self.finish() + self._tokenizer.token_bytes(token_id).decode()
        self._context = (token_id,)
        self._stream = None
        return text
