"""Log probabilities in the form of chat completion: a list with one entry a token."""

from collections.abc import Iterable

from inferd.services.runtimes.base import Logprobs
from inferd.services.text.tokenizer import Tokenizer
from inferd.v1 import chat_pb2 as pb


def chat_logprobs(parts: Iterable[Logprobs | None], tokenizer: Tokenizer) -> pb.ChatLogprobs | None:
    """The log probabilities of successive deltas' tokens; None if there are none."""
    content = [
        _token(token_id, value, top, tokenizer)
        for part in parts
        if part is not None
        for token_id, value, top in zip(part.token_ids, part.values, part.top, strict=True)
    ]
    return pb.ChatLogprobs(content=content) if content else None


def _token(
    token_id: int, value: float | None, top: Iterable[tuple[int, float]], tokenizer: Tokenizer
) -> pb.TokenLogprob:
    data = tokenizer.token_bytes(token_id)
    return pb.TokenLogprob(
        token=data.decode(errors="replace"),
        logprob=value,
        bytes=data,
        top_logprobs=[_top(other, logprob, tokenizer) for other, logprob in top],
    )


def _top(token_id: int, logprob: float, tokenizer: Tokenizer) -> pb.TopLogprob:
    data = tokenizer.token_bytes(token_id)
    return pb.TopLogprob(token=data.decode(errors="replace"), logprob=logprob, bytes=data)
