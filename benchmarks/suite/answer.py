"""The answers of the simulated runtimes: the tokens of an English text, from one of several starts.

The text is ordinary, so that a detokenizer has its ordinary work.
"""

from functools import lru_cache

from smg_grpc_proto import sglang_scheduler_pb2 as pb
from tokenizers import Tokenizer

_TEXT = (
    "A lighthouse keeper on a small island wrote a letter every evening, and every morning the boat that "
    "brought his bread took the letter away. He wrote about the weather first: the wind, the height of "
    "the waves, how far one could see. Then he wrote about the birds. In 1912 he counted 4,310 of them, "
    "more than in any year before; some rested for an hour, others stayed until spring. Nobody had asked "
    'him to count. "If I did not," he explained to his sister, "who would know that they had been here?" '
    "She kept all of his letters in a wooden box, sorted by date, and when she was old she gave the box "
    "to a museum. The scientists who opened it, years later, found the longest unbroken record of "
    "migration on that coast. They published it, with maps and tables, under his name. Today a plaque "
    "beside the door of the tower says what he saw, and the light, which is electric now, still turns "
    "every twelve seconds over the sea. "
)
#: Number of places in the text at which an answer may begin.
STARTS = 16
_LONGEST = 1024


class Answer:
    """The text's tokens, and the scheduler's messages with them. Each message is encoded once."""

    def __init__(self, tokenizer_file: str) -> None:
        tokenizer = Tokenizer.from_file(tokenizer_file)
        ids = tokenizer.encode(_TEXT, add_special_tokens=False).ids
        self._ids = ids * (_LONGEST // len(ids) + 3)
        self._step = len(ids) // STARTS
        self._tokenizer = tokenizer

    def token_ids(self, start: int, count: int) -> list[int]:
        """The first `count` tokens of the answer that begins at place `start`."""
        begin = start % STARTS * self._step
        return self._ids[begin : begin + count]

    def pieces(self, start: int, count: int) -> list[str]:
        """The texts of these tokens, one by one."""
        return [self._tokenizer.decode([token_id]) for token_id in self.token_ids(start, count)]

    @lru_cache(maxsize=4096)  # noqa: B019 - one for the process
    def chunks(self, start: int, count: int, prompt_tokens: int) -> list[bytes]:
        """A GenerateResponse for each token, without the request id; then the last message of `complete`."""
        ids = self.token_ids(start, count)
        messages = []
        for number, token_id in enumerate(ids, 1):
            chunk = pb.GenerateStreamChunk(
                token_ids=[token_id], prompt_tokens=prompt_tokens, completion_tokens=number
            )
            messages.append(pb.GenerateResponse(chunk=chunk).SerializeToString())
        return [*messages, self.complete(start, count, prompt_tokens, streamed=True)]

    @lru_cache(maxsize=4096)  # noqa: B019 - one for the process
    def complete(self, start: int, count: int, prompt_tokens: int, *, streamed: bool) -> bytes:
        """The last message of an answer. If the answer is not streamed, this is its only message."""
        ids = self.token_ids(start, count)
        complete = pb.GenerateComplete(
            output_ids=ids[-1:] if streamed else ids,
            finish_reason="length",
            prompt_tokens=prompt_tokens,
            completion_tokens=count,
        )
        return bytes(pb.GenerateResponse(complete=complete).SerializeToString())
