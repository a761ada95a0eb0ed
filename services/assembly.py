"""From a configuration to the catalog of models: texts loaded, replicas over the scheduler protocol.

Launches nothing: by now every runtime has an address.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from services.catalog import Catalog, ServedModel
from services.config import Config, ModelConfig
from services.errors import ServiceError
from services.replicas import Replicas
from services.runtimes.base import Runtime
from services.runtimes.scheduler import SchedulerRuntime
from services.text.model_text import ModelText
from services.text.tokenizer import TokenizerError


async def build_catalog(config: Config, on_change: Callable[[], None]) -> Catalog:
    """The catalog of `config`; `on_change` is called whenever a runtime starts or stops serving.

    Raises TokenizerError where a model's tokenizer cannot be had.
    """
    return Catalog([await _model(model, on_change) for model in config.models])


async def _model(config: ModelConfig, on_change: Callable[[], None]) -> ServedModel:
    addresses = [runtime.grpc for runtime in config.runtimes if runtime.grpc is not None]
    runtimes = [SchedulerRuntime(address, on_change=on_change) for address in addresses]
    return ServedModel(
        id=config.id,
        aliases=config.aliases,
        created=await _created(config.path, runtimes),
        owned_by=config.owned_by or _organisation(config.path),
        text=await _text(config, runtimes),
        replicas=Replicas(config.id, runtimes),
    )


async def _text(config: ModelConfig, runtimes: Sequence[Runtime]) -> ModelText:
    """From the configured tokenizer, else the local folder, else a runtime that is up, else the hub."""
    if config.tokenizer is not None:
        return ModelText.load(config.tokenizer)
    if not _is_folder(config.path):
        for runtime in runtimes:
            with tempfile.TemporaryDirectory(prefix="inferd-tokenizer-") as folder:
                try:
                    await runtime.fetch_tokenizer(Path(folder))
                except ServiceError:
                    continue
                return ModelText.load(folder)
    try:
        return ModelText.load(config.path)
    except TokenizerError as error:
        raise TokenizerError(
            f"{error}\nNo runtime of {config.id} handed out its tokenizer either. Start one first, or set"
            " the model's `tokenizer` to a folder that has it."
        ) from error


async def _created(path: str, runtimes: Sequence[Runtime]) -> int:
    """When a local folder's configuration was written; else when a runtime was started; else now."""
    try:
        return int((Path(path) / "config.json").stat().st_mtime)
    except OSError:
        pass
    for runtime in runtimes:
        try:
            started = (await runtime.info()).started
        except ServiceError:
            continue
        if started:
            return started
    return int(time.time())


def _is_folder(path: str) -> bool:
    return Path(path).is_dir()


def _organisation(path: str) -> str:
    """The organisation of a Hugging Face id."""
    organisation, slash, _ = path.partition("/")
    return organisation if slash and organisation not in ("", ".", "..", "~") else "inferd"
