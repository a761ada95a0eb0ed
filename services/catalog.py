"""The models that are served, by name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc

from services.errors import ServiceError
from services.replicas import Replicas
from services.text.model_text import ModelText


@dataclass(frozen=True)
class ServedModel:
    """One model: its names, its text, its replicas. `created` is in Unix seconds."""

    id: str
    aliases: Sequence[str]
    created: int
    owned_by: str
    text: ModelText
    replicas: Replicas

    @property
    def max_model_len(self) -> int:
        """How many tokens a prompt and its answer may have together."""
        return self.text.context_length


class Catalog:
    """Finds models by id or alias. Raises ValueError where two models share a name."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = models
        self._by_name: dict[str, ServedModel] = {}
        for model in models:
            for name in (model.id, *model.aliases):
                if self._by_name.setdefault(name, model) is not model:
                    raise ValueError(f"two models are named {name}")

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def find(self, name: str) -> ServedModel:
        """The model of that id or alias. Raises ServiceError NOT_FOUND."""
        model = self._by_name.get(name)
        if model is None:
            raise ServiceError(
                grpc.StatusCode.NOT_FOUND,
                "MODEL_NOT_FOUND",
                f"the model {name!r} does not exist",
                field="model",
                metadata={"model": name[:512]},
            )
        return model
