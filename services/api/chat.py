"""ChatService: a conversation in, the model's answer out."""

from inferd.services.api.answers import send_metadata
from inferd.services.api.chat_request import prepare_chat
from inferd.services.calls.context import CallContext
from inferd.services.fleet.catalog import Catalog
from inferd.v1 import chat_pb2 as pb
from inferd.v1 import chat_pb2_grpc


class ChatServicer(chat_pb2_grpc.ChatServiceServicer):
    """See protos/inferd/v1/chat.proto."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def CreateChatCompletion(
        self, request: pb.CreateChatCompletionRequest, context: CallContext
    ) -> pb.ChatCompletion:
        answer = await prepare_chat(self._catalog, request, stream=False)
        await send_metadata(answer.generation, context)
        return await answer.whole()

    async def StreamChatCompletion(
        self, request: pb.CreateChatCompletionRequest, context: CallContext
    ) -> None:
        answer = await prepare_chat(self._catalog, request, stream=True)
        await send_metadata(answer.generation, context)
        await answer.stream(context.writer)
