"""Writes the choice of a text completion from the text deltas of a continuation, whole or delta by delta."""

from collections.abc import Sequence

from inferd.services.api.answers import FINISH_REASONS, matched_stop
from inferd.services.api.completion_logprobs import LogprobsWriter
from inferd.services.generation.delta_sink import TextDelta
from inferd.v1 import completion_pb2 as pb


class ChoiceWriter:
    """Writes the choices of one continuation. The first one also has the prompt, if asked for.

    `echoed` is the text of the prompt if the answer begins with it, else empty. `prompt` are the tokens of
    the prompt; None: no token ids are returned.
    """

    def __init__(self, echoed: str, logprobs: LogprobsWriter | None, prompt: Sequence[int] | None) -> None:
        self._echoed = echoed
        self._logprobs = logprobs
        self._with_tokens = prompt is not None
        self._prompt = prompt

    def write(
        self,
        choice: pb.CompletionChoice | pb.CompletionChunkChoice,
        index: int,
        deltas: Sequence[TextDelta],
    ) -> None:
        """Fill in the choice of the next deltas."""
        last = deltas[-1]
        text = last.text if len(deltas) == 1 else "".join([delta.text for delta in deltas])
        choice.index = index
        choice.text = self._echoed + text
        if last.finish is not None:
            choice.finish_reason = FINISH_REASONS[last.finish]
            if (matched := matched_stop(last)) is not None:
                choice.matched_stop.CopyFrom(matched)
            if last.error is not None:
                choice.error.CopyFrom(last.error.to_status())
        if self._logprobs is not None:
            choice.logprobs.CopyFrom(self._logprobs.write(deltas))
        if self._prompt is not None:
            choice.prompt_token_ids.extend(self._prompt)
        self._echoed, self._prompt = "", None
        if self._with_tokens:
            for delta in deltas:
                choice.token_ids.extend(delta.token_ids)
