"""CompletionService: prompts in, their continuations out."""

from inferd.services.api.answers import send_metadata
from inferd.services.api.completion_request import prepare_completion
from inferd.services.calls.context import CallContext
from inferd.services.fleet.catalog import Catalog
from inferd.v1 import completion_pb2 as pb
from inferd.v1 import completion_pb2_grpc


class CompletionServicer(completion_pb2_grpc.CompletionServiceServicer):
    """See protos/inferd/v1/completion.proto."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def CreateCompletion(
        self, request: pb.CreateCompletionRequest, context: CallContext
    ) -> pb.Completion:
        answer = await prepare_completion(self._catalog, request, stream=False)
        await send_metadata(answer.generation, context)
        return await answer.whole()

    async def StreamCompletion(self, request: pb.CreateCompletionRequest, context: CallContext) -> None:
        answer = await prepare_completion(self._catalog, request, stream=True)
        await send_metadata(answer.generation, context)
        await answer.stream(context.writer)
