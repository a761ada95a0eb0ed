"""The interface of a runtime: token ids in, token ids out, and whether the runtime serves.

Knows nothing of text, models' names or the wire.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from inferd.services.runtimes.token_sink import TokenSink


@dataclass(frozen=True, slots=True)
class Constraint:
    """A form that the output must have, enforced by the runtime's grammar backend.

    `text` is the schema, the expression, the grammar or the tag. `field` is the path of the request field
    that asked for the form; errors name it.
    """

    kind: Literal["json_schema", "regex", "ebnf", "structural_tag"]
    text: str
    field: str | None = None


# Neither this class nor GenerateRequest is frozen, because with so many fields that costs 5 µs a request.
@dataclass(slots=True)
class SamplingParams:
    """How to pick tokens and when to stop. Adapters send every field, also if it has its default.

    Ranges are those of SGLang (`SamplingParams` in `srt/sampling/sampling_params.py`), and were checked
    before. `max_new_tokens` and `min_new_tokens` are in tokens. `top_k` is -1 for all tokens. `stop_regex`
    and `no_stop_trim` are not sent to runtimes: `services/generation` honours them.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_regex: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    no_stop_trim: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    constraint: Constraint | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    priority: int | None = None
    cache_salt: str | None = None
    extra_key: str | None = None


@dataclass(frozen=True, slots=True)
class Medium:
    """An image or a recording of the prompt, as a data URL. `field` is the path of its request field."""

    kind: Literal["image", "audio"]
    url: str
    field: str


@dataclass(slots=True)
class GenerateRequest:
    """One continuation of one prompt.

    `stream` asks for tokens as they are made; otherwise one final delta holds them all. Nobody waits for
    `background` work. `adapter` is the LoRA adapter to generate with, by its name in the runtime. `media` are
    the prompt's media, in order: the runtime replaces the prompt's placeholders by the tokens of the media.
    `logprobs` asks for the log probability of each new token, and of the `top_logprobs` likeliest tokens in
    its place. `prompt_logprobs` asks for the same of each token of the prompt.
    """

    token_ids: Sequence[int]
    sampling: SamplingParams
    stream: bool
    background: bool = False
    adapter: str | None = None
    media: tuple[Medium, ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log probabilities (natural logarithm) of successive tokens: parallel sequences, one element a token.

    The value of a prompt's first token is None. `top` holds, for each token, pairs of a token id and its log
    probability, the likeliest first; no pairs if none were asked for.
    """

    token_ids: Sequence[int]
    values: Sequence[float | None]
    top: Sequence[Sequence[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class Finish:
    """Why generation ended. `matched_token_id` is the stop token, and `matched_text` the stop string, that
    ended it; None if it ended otherwise."""

    reason: Literal["stop", "length"]
    matched_token_id: int | None = None
    matched_text: str | None = None


# Not frozen, because one is made for nearly every token, and a frozen one takes a microsecond more.
@dataclass(slots=True)
class Delta:
    """Tokens generated since the last delta. The last delta of a generation has `finish`.

    `token_ids` includes the stop token that ended the generation. `prompt_logprobs` comes once.
    `cached_tokens` is the number of the prompt's tokens that the runtime had in its cache, the same in each
    delta. `prompt_tokens` is the length of the prompt by the runtime's count, which includes the tokens of
    media; None: the runtime does not tell.
    """

    token_ids: Sequence[int]
    logprobs: Logprobs | None = None
    prompt_logprobs: Logprobs | None = None
    finish: Finish | None = None
    cached_tokens: int = 0
    prompt_tokens: int | None = None


def join_deltas(deltas: Sequence[Delta]) -> Delta:
    """Successive deltas of a generation as one."""
    last = deltas[-1]
    if len(deltas) == 1:
        return last
    logprobs = [delta.logprobs for delta in deltas if delta.logprobs is not None]
    return Delta(
        [token_id for delta in deltas for token_id in delta.token_ids],
        _join_logprobs(logprobs) if logprobs else None,
        next((delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs is not None), None),
        last.finish,
        last.cached_tokens,
        last.prompt_tokens,
    )


def _join_logprobs(parts: Sequence[Logprobs]) -> Logprobs:
    return Logprobs(
        [token_id for part in parts for token_id in part.token_ids],
        [value for part in parts for value in part.values],
        [top for part in parts for top in part.top],
    )


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """Facts that a runtime reports about itself. None: it does not report this one.

    `max_total_tokens` is the number of tokens that its KV cache holds, for all requests together.
    """

    model_path: str | None = None
    max_total_tokens: int | None = None


class Runtime(Protocol):
    """One replica of one model."""

    #: For logs and messages: "grpc 10.0.0.5:30000".
    name: str
    #: Names of `SamplingParams` fields that it cannot honour.
    unsupported: frozenset[str]
    #: Kinds of `Medium` that it takes.
    media: frozenset[str]

    @property
    def serving(self) -> bool:
        """Whether it takes requests, by the last health check."""
        ...

    async def start(self) -> None:
        """Begin to watch the runtime's health. Returns at once, and does not fail if the runtime is down."""
        ...

    async def close(self) -> None:
        """Stop watching, and close the connections. Generations under way end with UNAVAILABLE."""
        ...

    async def info(self) -> RuntimeInfo:
        """Ask the runtime about itself. Raises ServiceError if it is down or does not answer."""
        ...

    async def waiting(self) -> int:
        """The number of requests in its queue, which wait for others to end.

        Raises ServiceError: UNAVAILABLE if it is down, UNIMPLEMENTED if it does not tell.
        """
        ...

    async def fetch_tokenizer(self, folder: Path) -> None:
        """Write its model's tokenizer and configuration files into `folder`.

        Raises ServiceError: UNAVAILABLE if it is down, UNIMPLEMENTED if it hands out no tokenizer.
        """
        ...

    async def generate(self, request: GenerateRequest, sink: "TokenSink") -> None:
        """Generate, and push every delta to `sink` until the last one, or until the sink wants no more.

        While the sink's flow is paused, the engine's stream is not read. Cancelling this coroutine aborts the
        work in the engine. Raises ServiceError: INVALID_ARGUMENT for a request that the engine refuses
        (reason INVALID_CONSTRAINT if a grammar does not compile), RESOURCE_EXHAUSTED if its queue is full,
        and UNAVAILABLE if it is down, is starting, or dies during the generation.
        """
        ...
