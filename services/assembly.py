"""From a configuration to the catalog of models: texts loaded, replicas over the scheduler protocol.

Launches nothing: by now every runtime has an address.
"""

import time
from collections.abc import Callable
from pathlib import Path

from services.catalog import Catalog, ServedModel
from services.config import Config, ModelConfig
from services.replicas import Replicas
from services.runtimes.scheduler import SchedulerRuntime
from services.text.model_text import ModelText


def build_catalog(config: Config, on_change: Callable[[], None]) -> Catalog:
    """The catalog of `config`; `on_change` is called whenever a runtime starts or stops serving.

    Raises TokenizerError where a model's files cannot be read.
    """
    return Catalog([_model(model, on_change) for model in config.models])


def _model(config: ModelConfig, on_change: Callable[[], None]) -> ServedModel:
    addresses = [runtime.grpc for runtime in config.runtimes if runtime.grpc is not None]
    runtimes = [SchedulerRuntime(address, on_change=on_change) for address in addresses]
    return ServedModel(
        id=config.id,
        aliases=config.aliases,
        created=_created(config.path),
        owned_by=config.owned_by or _organisation(config.path),
        text=ModelText.load(config.tokenizer or config.path),
        replicas=Replicas(config.id, runtimes),
    )


def _created(path: str) -> int:
    """When a local folder's configuration was written; now, for a model that is not on this machine."""
    try:
        return int((Path(path) / "config.json").stat().st_mtime)
    except OSError:
        return int(time.time())


def _organisation(path: str) -> str:
    """The organisation of a Hugging Face id."""
    organisation, slash, _ = path.partition("/")
    return organisation if slash and organisation not in ("", ".", "..", "~") else "inferd"
