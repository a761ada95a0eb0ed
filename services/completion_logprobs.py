"""Log probabilities in text completion's shape: parallel lists, and where each token begins."""

import codecs
from collections.abc import Iterable

from inferd.v1 import completion_pb2 as pb

from services.generation import Piece
from services.runtimes.base import Logprobs
from services.text.tokenizer import Tokenizer


class LogprobsWriter:
    """The log probabilities of one continuation, piece by piece; offsets count on from piece to piece."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._offset = 0
        # A character of several tokens begins with the first of them, and counts with the last.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, pieces: Iterable[Piece]) -> pb.CompletionLogprobs:
        """The log probabilities of these pieces' tokens, an echoed prompt's included."""
        written = pb.CompletionLogprobs()
        for piece in pieces:
            for part in (piece.prompt_logprobs, piece.logprobs):
                if part is not None:
                    self._append(written, part)
        return written

    def _append(self, written: pb.CompletionLogprobs, part: Logprobs) -> None:
        for token_id, value, top in zip(part.token_ids, part.values, part.top, strict=True):
            token = self._text(token_id)
            written.tokens.append(token)
            written.text_offset.append(self._offset)
            if not (self._skip and self._tokenizer.is_special(token_id)):
                self._offset += len(self._decoder.decode(self._tokenizer.token_bytes(token_id)))
            if value is None:
                written.token_logprobs.add()
                written.top_logprobs.add()
                continue
            written.token_logprobs.add(logprob=value)
            likely = {self._text(other): logprob for other, logprob in reversed(top)}
            likely[token] = value
            written.top_logprobs.add(top=pb.TopLogprobs(logprobs=likely))

    def _text(self, token_id: int) -> str:
        data = self._tokenizer.token_bytes(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
