"""Log probabilities in the form of text completion: parallel lists, and the offsets of tokens."""

import codecs
from collections.abc import Iterable

from inferd.services.generation.delta_sink import TextDelta
from inferd.services.runtimes.base import Logprobs
from inferd.services.text.tokenizer import Tokenizer
from inferd.v1 import completion_pb2 as pb


class LogprobsWriter:
    """Writes the log probabilities of one continuation, delta by delta. Offsets count through all deltas.

    `echoed` is the text of the prompt if the answer begins with it, else empty.
    """

    def __init__(self, tokenizer: Tokenizer, echoed: str, *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._echoed = echoed
        self._skip = skip_special_tokens
        self._offset = 0
        # The offset counts characters. A character of several tokens counts at the last of them.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, deltas: Iterable[TextDelta]) -> pb.CompletionLogprobs:
        """The log probabilities of these deltas' tokens, and of the tokens of an echoed prompt."""
        written = pb.CompletionLogprobs()
        for delta in deltas:
            if delta.prompt_logprobs is not None:
                self._append(written, delta.prompt_logprobs, prompt=True)
            if delta.logprobs is not None:
                self._append(written, delta.logprobs)
        return written

    def _append(self, written: pb.CompletionLogprobs, part: Logprobs, *, prompt: bool = False) -> None:
        for token_id, value, top in zip(part.token_ids, part.values, part.top, strict=True):
            token = self._text(token_id)
            written.tokens.append(token)
            written.text_offset.append(self._offset)
            if self._is_shown(token_id, token, prompt):
                self._offset += len(self._decoder.decode(self._tokenizer.token_bytes(token_id)))
            if value is None:
                written.token_logprobs.add()
                written.top_logprobs.add()
                continue
            written.token_logprobs.add(logprob=value)
            likely = {token_id: value, **dict(top)}
            pairs = [
                pb.CompletionTopLogprob(token=self._text(other), logprob=logprob)
                for other, logprob in sorted(likely.items(), key=lambda pair: -pair[1])
            ]
            written.top_logprobs.add(top=pb.TopLogprobs(logprobs=pairs))

    def _is_shown(self, token_id: int, token: str, prompt: bool) -> bool:
        """Whether the token is in the text.

        An echoed prompt shows special tokens that the caller wrote, but none that the tokenizer added.
        """
        if not self._tokenizer.is_special(token_id):
            return True
        return self._echoed.startswith(token, self._offset) if prompt else not self._skip

    def _text(self, token_id: int) -> str:
        data = self._tokenizer.token_bytes(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
