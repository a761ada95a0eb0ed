"""The catalog of served models and their LoRA adapters, by name.

It finds the model of a request. It does not load models, and does not choose a runtime (`replicas`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import grpc

from inferd.services.errors import ServiceError, invalid, resource
from inferd.services.fleet.replicas import Replicas
from inferd.services.prompt.media import MediaReader
from inferd.services.text.model_text import ModelText
from inferd.services.text.output.formats import OutputFormat


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: its name in the runtimes, and its aliases, which need no model name before them."""

    name: str
    aliases: Sequence[str] = ()


@dataclass(frozen=True)
class ServedModel:
    """A model, or a model with one of its adapters.

    `created` is in Unix seconds. `root` is the Hugging Face id or the folder's name of
    the weights. `adapter` is the name of the adapter to use, None for the model without an adapter.
    """

    id: str
    aliases: Sequence[str]
    created: int
    owned_by: str
    text: ModelText
    output: OutputFormat
    media: MediaReader
    replicas: Replicas
    root: str
    adapters: Sequence[Adapter] = ()
    adapter: str | None = None

    @property
    def max_model_len(self) -> int:
        """The most tokens that a prompt and its answer may have together."""
        return self.text.context_length


class Catalog:
    """Finds a model by its id or an alias, or a model with an adapter by "model:adapter" or the adapter's
    alias.

    The constructor raises ValueError if two models or adapters share a name.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = models
        self._by_name: dict[str, ServedModel] = {}
        for model in models:
            names = (model.id, *model.aliases)
            self._add(model, *names)
            for adapter in model.adapters:
                combined = [f"{name}:{adapter.name}" for name in names]
                self._add(replace(model, adapter=adapter.name), *combined, *adapter.aliases)

    def _add(self, model: ServedModel, *names: str) -> None:
        for name in names:
            if self._by_name.setdefault(name, model) is not model:
                raise ValueError(f"two models are named {name}")

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def find(self, name: str, adapter: str | None = None) -> ServedModel:
        """The model `name`, with the adapter `adapter` (a name or an alias) if one is given.

        Raises ServiceError NOT_FOUND, and INVALID_ARGUMENT if `name` names another adapter.
        """
        model = self._by_name.get(name)
        if model is None:
            raise _not_found(f"the model {name!r} does not exist", "model", name)
        if adapter is None:
            return model
        found = self._by_name.get(f"{model.id}:{adapter}") or self._by_name.get(adapter)
        if found is None or found.adapter is None or found.id != model.id:
            raise _not_found(f"the model {model.id!r} has no adapter {adapter!r}", "lora_path", adapter)
        if model.adapter not in (None, found.adapter):
            raise invalid(
                "lora_path", f"lora_path is {adapter!r}, but the model {name!r} is that of another adapter"
            )
        return found


def _not_found(message: str, field: str, name: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        "MODEL_NOT_FOUND",
        message,
        field=field,
        metadata={"model": name[:512]},
        details=[resource("Model", name[:512], message)],
    )
