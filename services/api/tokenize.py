"""TokenizeService: counts and converts tokens with the model's own tokenizer and template."""

from collections.abc import Sequence
from typing import Any

from inferd.services.calls.context import CallContext
from inferd.services.errors import errors_within, invalid
from inferd.services.fleet.catalog import Catalog, ServedModel
from inferd.services.generation.sampling import ignored_metadata
from inferd.services.prompt.prompt_tokens import chat_prompt, completion_tokens, ignored_by_completion
from inferd.services.prompt.tools import tools_of
from inferd.services.text.model_text import check_token_ids
from inferd.v1 import chat_pb2, completion_pb2, tokenize_pb2_grpc
from inferd.v1 import tokenize_pb2 as pb

_TOKENIZER_TYPE = "huggingface_tokenizer"


class TokenizeServicer(tokenize_pb2_grpc.TokenizeServiceServicer):
    """See protos/inferd/v1/tokenize.proto."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def CountTokens(
        self, request: pb.CountTokensRequest, context: CallContext
    ) -> pb.CountTokensResponse:
        model, prompts = await self._prompts(request, context)
        return pb.CountTokensResponse(
            total_tokens=sum(map(len, prompts)),
            request_model=_given(request).model,
            model_used=model.id,
            tokenizer_type=_TOKENIZER_TYPE,
        )

    async def Tokenize(self, request: pb.TokenizeRequest, context: CallContext) -> pb.TokenizeResponse:
        special = not request.HasField("add_special_tokens") or request.add_special_tokens
        if len(request.completion.prompt) > 1:
            raise invalid(
                "completion.prompt", "completion.prompt must be one prompt, because the tokens are one list"
            )
        model, [tokens] = await self._prompts(request, context, add_special_tokens=special)
        return pb.TokenizeResponse(tokens=tokens, count=len(tokens), max_model_len=model.max_model_len)

    async def _prompts(
        self,
        request: pb.CountTokensRequest | pb.TokenizeRequest,
        context: CallContext,
        *,
        add_special_tokens: bool = True,
    ) -> tuple[ServedModel, list[Sequence[int]]]:
        """The model of a request, and the token ids of each prompt, as the RPC of its kind makes them.

        Sends the names of the fields that the prompts ignore as initial metadata.
        """
        given = _given(request)
        with errors_within("chat" if request.HasField("chat") else "completion"):
            model = self._catalog.find(given.model, given.lora_path or None)
            if isinstance(given, chat_pb2.CreateChatCompletionRequest):
                prompt = await chat_prompt(model.text, given, tools_of(given))
                await _send_ignored(prompt.ignored, context)
                return model, [prompt.token_ids]
            prompts = await completion_tokens(
                model.text, given.prompt, given.messages, add_special_tokens=add_special_tokens
            )
            await _send_ignored(ignored_by_completion(given), context)
            return model, list(prompts)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Any) -> pb.DetokenizeResponse:
        model = self._catalog.find(request.model)
        check_token_ids(request.tokens, model.text, "tokens")
        text = model.text.tokenizer.decode(request.tokens, skip_special_tokens=request.skip_special_tokens)
        return pb.DetokenizeResponse(text=text)


async def _send_ignored(names: Sequence[str], context: CallContext) -> None:
    if names:
        await context.send_initial_metadata(ignored_metadata(names))


def _given(
    request: pb.CountTokensRequest | pb.TokenizeRequest,
) -> chat_pb2.CreateChatCompletionRequest | completion_pb2.CreateCompletionRequest:
    return request.chat if request.HasField("chat") else request.completion
