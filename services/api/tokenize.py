"""TokenizeService: counts and converts tokens with the model's own tokenizer and template."""

from typing import Any

from inferd.services.errors import missing
from inferd.services.fleet.catalog import Catalog
from inferd.services.prompt.prompt_tokens import chat_prompt, completion_tokens
from inferd.services.prompt.tools import tools_of
from inferd.services.text.model_text import check_token_ids
from inferd.v1 import tokenize_pb2 as pb
from inferd.v1 import tokenize_pb2_grpc

_TOKENIZER_TYPE = "huggingface_tokenizer"


class TokenizeServicer(tokenize_pb2_grpc.TokenizeServiceServicer):
    """See protos/inferd/v1/tokenize.proto."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def CountTokens(self, request: pb.CountTokensRequest, context: Any) -> pb.CountTokensResponse:
        model = self._catalog.find(request.model)
        if request.messages or request.input_ids:
            total = len((await chat_prompt(model.text, request, tools_of(request))).token_ids)
        elif request.prompt:
            total = sum(map(len, await completion_tokens(model.text, request.prompt, ())))
        else:
            raise missing("messages", "prompt")
        return pb.CountTokensResponse(
            total_tokens=total,
            request_model=request.model,
            model_used=model.id,
            tokenizer_type=_TOKENIZER_TYPE,
        )

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        model = self._catalog.find(request.model)
        if request.HasField("prompt"):
            special = request.add_special_tokens if request.HasField("add_special_tokens") else True
            tokens = await model.text.encode(request.prompt, add_special_tokens=special)
        elif request.messages:
            chat = pb.CountTokensRequest(messages=request.messages, tools=request.tools)
            tokens = list((await chat_prompt(model.text, chat, tools_of(chat))).token_ids)
        else:
            raise missing("prompt", "messages")
        return pb.TokenizeResponse(tokens=tokens, count=len(tokens), max_model_len=model.max_model_len)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Any) -> pb.DetokenizeResponse:
        model = self._catalog.find(request.model)
        check_token_ids(request.tokens, model.text, "tokens")
        text = model.text.tokenizer.decode(request.tokens, skip_special_tokens=request.skip_special_tokens)
        return pb.DetokenizeResponse(text=text)
