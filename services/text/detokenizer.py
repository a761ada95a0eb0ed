"""Decodes the tokens of one continuation as they arrive. Its text is final, and has no half characters.

Knows nothing of stop strings.
"""

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from inferd.services.text.tokenizer import Tokenizer

#: Tokens before a new token that are decoded together with it, so that a word boundary is kept (the leading
#: space of a SentencePiece piece). SGLang's detokenizer has the same number.
_CONTEXT = 5


class Detokenizer:
    """The text of one continuation. `add`, `add_tokens`, `plain_text` and `finish` return its pieces.

    If `skip_special_tokens` is set, special tokens have no text, except for those in `keep`. The text of
    those is their entry in the vocabulary.
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
        # The library skips all special tokens or none. To keep some, the others are left out here.
        self._keep = keep if skip_special_tokens else frozenset()
        self._skip = skip_special_tokens and not keep
        #: The last tokens whose text was returned.
        self._context: Sequence[int] = [
            i for i in prompt[-_CONTEXT:] if not (self._keep and self._is_skipped(i))
        ]
        self._plain_texts = tokenizer.plain_texts
        #: Tokens whose text was not returned yet.
        self._pending: list[int] = []
        #: Decodes tokens that have no plain text. None: a new one is needed.
        self._stream: DecodeStream | None = None

    def add(self, token_id: int) -> str:
        """The text that this token completes; empty if a character is incomplete."""
        if self._keep:
            if token_id in self._keep:
                return self._add_marker(token_id)
            if self._is_skipped(token_id):
                return ""
        pending = self._pending
        if not pending:
            plain = self._plain_texts[token_id]
            if plain is not None:
                self.forget_context()
                return plain
        pending.append(token_id)
        if self._stream is None:
            self._stream = DecodeStream(ids=[*self._context], skip_special_tokens=self._skip)
        try:
            text = self._stream.step(self._tokenizer.backend, token_id)
        except Exception:
            # The stream refuses a token that changes the text before it ("Invalid prefix"). The pending
            # tokens are then decoded without the stream.
            self._stream = None
            return self.finish()
        if text is None:
            return ""
        self._context = pending[-_CONTEXT:]
        pending.clear()
        return text

    def plain_text(self, token_id: int) -> str | None:
        """The text of a token, if it depends on no other token; else None, and the token must be added.

        If the text is used, `forget_context` must be called next.
        """
        return None if self._pending else self._plain_texts[token_id]

    def forget_context(self) -> None:
        """Count a token as added, because its `plain_text` was used."""
        # Only byte-level tokenizers have plain texts, and with them no text depends on the tokens before.
        self._context = ()
        self._stream = None

    def add_tokens(self, ids: Sequence[int]) -> str:
        """The text that these tokens complete."""
        return self.add(ids[0]) if len(ids) == 1 else "".join(map(self.add, ids))

    def finish(self) -> str:
        """The text of the pending tokens. U+FFFD stands for bytes that are no complete character."""
        if not self._pending:
            return ""
        before = self._tokenizer.decode([*self._context], skip_special_tokens=self._skip)
        whole = self._tokenizer.decode([*self._context, *self._pending], skip_special_tokens=self._skip)
        self._context = self._pending[-_CONTEXT:]
        self._pending.clear()
        return whole[len(before) :] if whole.startswith(before) else whole

    def _is_skipped(self, token_id: int) -> bool:
        return self._tokenizer.is_special(token_id) and token_id not in self._keep

    def _add_marker(self, token_id: int) -> str:
        """The text of the pending tokens, and of a special token that is kept."""
        # The library is not used, because its decoder may turn U+2581 in a special token into a space.
        text = self.finish() + self._tokenizer.token_bytes(token_id).decode()
        self._context = (token_id,)
        self._stream = None
        return text
