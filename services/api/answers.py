"""The common parts of answers to chat and text completion: the sink of chunks, ids, finish reasons.

Knows nothing of a chunk's contents.
"""

from collections.abc import Callable

from google.protobuf.message import Message

from inferd.services.calls.context import CallContext
from inferd.services.generation.delta_sink import DeltaSink, TextDelta
from inferd.services.generation.generation import Generation
from inferd.services.net.message_writer import MessageWriter
from inferd.services.net.random_id import random_id
from inferd.v1 import sampling_pb2

FINISH_REASONS = {
    "stop": sampling_pb2.FINISH_REASON_STOP,
    "length": sampling_pb2.FINISH_REASON_LENGTH,
    "error": sampling_pb2.FINISH_REASON_ERROR,
    None: sampling_pb2.FINISH_REASON_UNSPECIFIED,
}

#: A chunk; the part of the chunk that has the text; and the name of the text's field.
TextChunk = tuple[Message, Message, str]


class ChunkSink(DeltaSink):
    """Pushes the chunks of one choice to `writer`.

    `make_chunk` makes the chunk of a delta, or None if the delta has nothing for the client. If all chunks
    but the first and the last differ only in their text, `text_chunk` makes such a chunk; else it is None.
    """

    def __init__(
        self,
        writer: MessageWriter,
        make_chunk: Callable[[TextDelta], Message | None],
        text_chunk: Callable[[], TextChunk] | None,
    ) -> None:
        super().__init__()
        self._writer = writer
        self._make_chunk = make_chunk
        self._text_chunk = text_chunk

    def push(self, delta: TextDelta) -> None:
        chunk = self._make_chunk(delta)
        if chunk is None:
            return
        self._writer.push(chunk)
        if self._text_chunk is not None and self.texts is None:
            self.texts = self._writer.text_sink(*self._text_chunk())


async def send_metadata(generation: Generation, context: CallContext) -> None:
    """Send the generation's metadata ahead of the answer, if there is any."""
    metadata = generation.metadata()
    if metadata:
        await context.send_initial_metadata(metadata)


def matched_stop(delta: TextDelta) -> sampling_pb2.MatchedStop | None:
    """The stop token or stop string that ended the continuation, if one did."""
    if delta.matched is None:
        return None
    if isinstance(delta.matched, str):
        return sampling_pb2.MatchedStop(text=delta.matched)
    return sampling_pb2.MatchedStop(token_id=delta.matched)


def new_id(prefix: str) -> str:
    """An id such as "chatcmpl-" and 32 hexadecimal digits."""
    return f"{prefix}-{random_id()}"
