"""Builds the catalog of models from the configuration: loads tokenizers and templates, and connects runtimes.

It launches nothing: `serve` has launched local runtimes before, so that every runtime has an address.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from inferd.services.config import Config, ModelConfig, RuntimeConfig
from inferd.services.errors import ServiceError
from inferd.services.fleet.catalog import Adapter, Catalog, ServedModel
from inferd.services.fleet.replicas import Replicas
from inferd.services.prompt.media import MediaReader
from inferd.services.prompt.media_fetch import MediaFetcher
from inferd.services.runtimes.base import Runtime
from inferd.services.runtimes.http import HttpRuntime
from inferd.services.runtimes.scheduler import SchedulerRuntime
from inferd.services.text.model_text import ModelText
from inferd.services.text.output.format_choice import choose_format
from inferd.services.text.tokenizer import TokenizerError

_Load = Callable[[str | Path, str | Path | None], ModelText]


async def load_models(config: Config, on_change: Callable[[], None]) -> Catalog:
    """Build the catalog of `config`. `on_change` is called whenever a runtime begins or ceases to serve.

    Raises TokenizerError if the tokenizer of a model cannot be loaded.
    """
    fetcher = MediaFetcher(config.media)
    # Models with the same files share one ModelText.
    load = cache(ModelText.load)
    return Catalog([await _model(model, fetcher, load, on_change) for model in config.models])


async def _model(
    config: ModelConfig, fetcher: MediaFetcher, load: _Load, on_change: Callable[[], None]
) -> ServedModel:
    runtimes = [_runtime(runtime, on_change) for runtime in config.runtimes]
    text = await _text(config, load, runtimes)
    replicas = Replicas(config.id, runtimes)
    return ServedModel(
        id=config.id,
        aliases=config.aliases,
        created=int(config.created.timestamp()),
        owned_by=config.owned_by or _organisation(config.path),
        text=text,
        output=choose_format(config.tool_call_parser, config.reasoning_parser, text.template_source),
        media=MediaReader(lambda: text.modalities & replicas.media, fetcher),
        replicas=replicas,
        root=_weights_name(config.path),
        adapters=[Adapter(adapter.name, adapter.aliases) for adapter in config.adapters],
    )


def _runtime(config: RuntimeConfig, on_change: Callable[[], None]) -> Runtime:
    if config.http is not None:
        return HttpRuntime(config.http, on_change=on_change)
    assert config.grpc is not None, "a launched runtime has an address by now"
    return SchedulerRuntime(config.grpc, on_change=on_change)


async def _text(config: ModelConfig, load: _Load, runtimes: Sequence[Runtime]) -> ModelText:
    """Load from the configured tokenizer, else the local folder, else a runtime, else Hugging Face."""
    if config.tokenizer is not None:
        return load(config.tokenizer, config.chat_template)
    if not _is_folder(config.path):
        for runtime in runtimes:
            with tempfile.TemporaryDirectory(prefix="inferd-tokenizer-") as folder:
                try:
                    await runtime.fetch_tokenizer(Path(folder))
                except ServiceError:
                    continue
                return ModelText.load(folder, config.chat_template)
    try:
        return load(config.path, config.chat_template)
    except TokenizerError as error:
        raise TokenizerError(
            f"{error}\nNo runtime of {config.id} handed out its tokenizer either (an http one never does)."
            " Start one first, or set the model's `tokenizer` to a folder or Hugging Face id that has it."
        ) from error


def _is_folder(path: str) -> bool:
    return Path(path).is_dir()


def _weights_name(path: str) -> str:
    """The Hugging Face id, or the name of the local folder. Its whole path is not shown to clients."""
    return Path(path).resolve().name if _is_folder(path) else path


def _organisation(path: str) -> str:
    """The organisation in a Hugging Face id; "inferd" for a folder."""
    organisation, slash, _ = path.partition("/")
    return organisation if slash and organisation not in ("", ".", "..", "~") else "inferd"
