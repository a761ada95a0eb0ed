"""Token ids to text as they come: what is appended is final, and never half a character."""

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from services.text.tokenizer import Tokenizer

#: Tokens of the prompt that the first new token is decoded after, so that a word boundary (the leading
#: space of a SentencePiece piece) is kept. SGLang's own detokenizer takes as many.
_CONTEXT = 5


class Detokenizer:
    """The text of one continuation. The pieces that `add` and `finish` return, joined, are all of it."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._context = list(prompt[-_CONTEXT:])
        #: Tokens whose text is not out yet.
        self._pending: list[int] = []
        self._stream = DecodeStream(ids=self._context, skip_special_tokens=skip_special_tokens)

    def add(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        self._pending.append(token_id)
        try:
            text = self._stream.step(self._tokenizer.backend, token_id)
        except Exception:
            # The stream refuses tokens whose text does not go on from what it had ("Invalid prefix"):
            # decode what is pending by itself and go on from there.
            text = self.finish()
            self._stream = DecodeStream(ids=self._context, skip_special_tokens=self._skip)
            return text
        if text is None:
            return ""
        self._context = self._pending[-_CONTEXT:]
        self._pending.clear()
        return text

    def finish(self) -> str:
        """The text of tokens still held back: U+FFFD stands for bytes that never became a character."""
        if not self._pending:
            return ""
        before = self._tokenizer.decode(self._context, skip_special_tokens=self._skip)
        whole = self._tokenizer.decode(self._context + self._pending, skip_special_tokens=self._skip)
        self._context = self._pending[-_CONTEXT:]
        self._pending = []
        return whole[len(before) :] if whole.startswith(before) else whole
