"""ChatService: a conversation in, the model's answer out."""

from collections.abc import AsyncIterator
from typing import Any

from inferd.services.api.chat_request import prepare_chat
from inferd.services.fleet.catalog import Catalog
from inferd.services.net.message_sink import message_sink
from inferd.v1 import chat_pb2 as pb
from inferd.v1 import chat_pb2_grpc


class ChatServicer(chat_pb2_grpc.ChatServiceServicer):
    """See protos/inferd/v1/chat.proto."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def CreateChatCompletion(
        self, request: pb.CreateChatCompletionRequest, context: Any
    ) -> pb.ChatCompletion:
        answer = await prepare_chat(self._catalog, request, stream=False)
        await answer.work.announce(context)
        return await answer.whole()

    async def StreamChatCompletion(
        self, request: pb.CreateChatCompletionRequest, context: Any
    ) -> AsyncIterator[pb.ChatCompletionChunk]:
        answer = await prepare_chat(self._catalog, request, stream=True)
        await answer.work.announce(context)
        chunks = answer.chunks(message_sink(context))
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            await chunks.aclose()
