"""ModelService: what is served."""

from typing import Any

from inferd.v1 import models_pb2 as pb
from inferd.v1 import models_pb2_grpc

from services.catalog import Catalog, ServedModel


class ModelServicer(models_pb2_grpc.ModelServiceServicer):
    """See protos/inferd/v1/models.proto."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[_model(model) for model in self._catalog])

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.Model:
        return _model(self._catalog.find(request.model))


def _model(model: ServedModel) -> pb.Model:
    return pb.Model(
        id=model.id,
        created=model.created,
        owned_by=model.owned_by,
        max_model_len=model.max_model_len,
        aliases=model.aliases,
    )
