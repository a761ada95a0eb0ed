"""ModelService: lists the models and adapters that are served."""

import base64
from collections.abc import Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from inferd.services.errors import invalid
from inferd.services.fleet.catalog import Adapter, Catalog, ServedModel
from inferd.v1 import models_pb2 as pb
from inferd.v1 import models_pb2_grpc


class ModelServicer(models_pb2_grpc.ModelServiceServicer):
    """See protos/inferd/v1/models.proto."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        models = []
        for model in self._catalog:
            models.append(_model(model))
            models += [_adapter(model, adapter) for adapter in model.adapters]
        begin = _begin(request.page_token, models)
        end = begin + request.page_size if request.page_size else len(models)
        response = pb.ListModelsResponse(models=models[begin:end])
        if end < len(models):
            response.next_page_token = _token(models[end - 1])
        return response

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.Model:
        model = self._catalog.find(request.model)
        for adapter in model.adapters:
            if adapter.name == model.adapter:
                return _adapter(model, adapter)
        return _model(model)


def _token(last: pb.Model) -> str:
    """The token of the page after the model `last`. The token is opaque to clients."""
    return base64.urlsafe_b64encode(last.id.encode()).decode()


def _begin(token: str, models: Sequence[pb.Model]) -> int:
    """The index of the first model of the page with this token."""
    if not token:
        return 0
    for index, model in enumerate(models):
        if _token(model) == token:
            return index + 1
    raise invalid(
        "page_token", "page_token must be the next_page_token of another page", "INVALID_PAGE_TOKEN"
    )


def _model(model: ServedModel) -> pb.Model:
    return pb.Model(
        id=model.id,
        create_time=Timestamp(seconds=model.created),
        owned_by=model.owned_by,
        max_model_len=model.max_model_len,
        aliases=model.aliases,
        root=model.root,
    )


def _adapter(model: ServedModel, adapter: Adapter) -> pb.Model:
    """An adapter, as a model of its own."""
    return pb.Model(
        id=f"{model.id}:{adapter.name}",
        create_time=Timestamp(seconds=model.created),
        owned_by=model.owned_by,
        max_model_len=model.max_model_len,
        aliases=[*adapter.aliases, *(f"{alias}:{adapter.name}" for alias in model.aliases)],
        parent=model.id,
        root=model.id,
    )
