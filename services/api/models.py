"""ModelService: lists the models and adapters that are served."""

from typing import Any

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
        return pb.ListModelsResponse(models=models)

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.Model:
        model = self._catalog.find(request.model)
        for adapter in model.adapters:
            if adapter.name == model.adapter:
                return _adapter(model, adapter)
        return _model(model)


def _model(model: ServedModel) -> pb.Model:
    return pb.Model(
        id=model.id,
        created=model.created,
        owned_by=model.owned_by,
        max_model_len=model.max_model_len,
        aliases=model.aliases,
        root=model.root,
    )


def _adapter(model: ServedModel, adapter: Adapter) -> pb.Model:
    """An adapter, as a model of its own."""
    return pb.Model(
        id=f"{model.id}:{adapter.name}",
        created=model.created,
        owned_by=model.owned_by,
        max_model_len=model.max_model_len,
        aliases=[*adapter.aliases, *(f"{alias}:{adapter.name}" for alias in model.aliases)],
        parent=model.id,
        root=model.id,
    )
