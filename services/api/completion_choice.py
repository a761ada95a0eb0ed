"""A text completion's choices, made of the pieces of a continuation: whole, or piece by piece."""

from collections.abc import Sequence

from inferd.services.api.completion_logprobs import LogprobsWriter
from inferd.services.generation.piece_reader import Piece
from inferd.services.generation.work import FINISH_REASONS, matched_stop
from inferd.v1 import completion_pb2 as pb


class ChoiceWriter:
    """The choices of one continuation: what is told of its prompt goes before its first piece.

    `echoed` is the prompt's text, where it is part of the answer's. `prompt` are the prompt's tokens, where
    tokens are returned.
    """

    def __init__(self, echoed: str, logprobs: LogprobsWriter | None, prompt: Sequence[int] | None) -> None:
        self._echoed = echoed
        self._logprobs = logprobs
        self._with_tokens = prompt is not None
        self._prompt = prompt

    def write(self, choice: pb.CompletionChoice, index: int, pieces: Sequence[Piece]) -> None:
        """Fill in the choice of these pieces, which go on from those before."""
        last = pieces[-1]
        text = last.text if len(pieces) == 1 else "".join([piece.text for piece in pieces])
        choice.index = index
        choice.text = self._echoed + text
        if last.finish is not None:
            choice.finish_reason = FINISH_REASONS[last.finish]
            if (matched := matched_stop(last)) is not None:
                choice.matched_stop.CopyFrom(matched)
            if last.error is not None:
                choice.error.CopyFrom(last.error.to_status())
        if self._logprobs is not None:
            choice.logprobs.CopyFrom(self._logprobs.write(pieces))
        if self._prompt is not None:
            choice.prompt_token_ids.extend(self._prompt)
        self._echoed, self._prompt = "", None
        if self._with_tokens:
            for piece in pieces:
                choice.token_ids.extend(piece.token_ids)
