"""What a runtime is to the rest of inferd: token ids in, token ids out, and whether it serves.

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

    `field` is the path of the request field that asked for it: errors name it.
    """

    kind: Literal["json_schema", "regex", "ebnf", "structural_tag"]
    text: str
    field: str | None = None


# Neither this nor the request is frozen: of so many fields, that costs 5 µs a request.
@dataclass(slots=True)
class SamplingParams:
    """How to pick tokens and when to stop. Every field is explicit: adapters send them all.

    Ranges are SGLang's (`SamplingParams` in `srt/sampling/sampling_params.py`) and were checked before.
    `max_new_tokens` is in tokens; `top_k` is -1 for all. `stop_regex` and `no_stop_trim` are for
    those who read the tokens' text: no runtime is sent them.
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
    """An image or a recording of the prompt, as a data URL. `field` is the path of the request field that it
    came by."""

    kind: Literal["image", "audio"]
    url: str
    field: str


@dataclass(slots=True)
class GenerateRequest:
    """One continuation of one prompt.

    `stream` asks for tokens as they are made; otherwise one final delta holds them all. `background` work
    is not what somebody waits for.
    `adapter` is the LoRA adapter to generate with, by its name in the runtime. `media` are those of the
    prompt, in order: the runtime puts their tokens where the prompt has the model's placeholder for one.
    `logprobs` asks for the log probability of each new token, with `top_logprobs` likely others;
    `prompt_logprobs` for those of the prompt's tokens too.
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
    """Log probabilities (natural) of successive tokens: parallel sequences, one element a token.

    A value is None where a token has none (the first of a prompt). `top` holds (token id, logprob)
    pairs, most likely first; empty where none were asked for.
    """

    token_ids: Sequence[int]
    values: Sequence[float | None]
    top: Sequence[Sequence[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class Finish:
    """Why generation ended. `matched_token_id` is the stop token, `matched_text` the stop string, where one
    ended it."""

    reason: Literal["stop", "length"]
    matched_token_id: int | None = None
    matched_text: str | None = None


# Not frozen: one is made for every token, and a frozen one costs a microsecond more.
@dataclass(slots=True)
class Delta:
    """Tokens generated since the last delta. The last delta of a generation has `finish`.

    `token_ids` includes the stop token, where one ended the generation. `prompt_logprobs` comes once.
    `cached_tokens` is how many of the prompt's tokens the runtime had cached, the same in each delta;
    `prompt_tokens` how many there were, where the runtime says so: more than were sent, where there were
    media.
    """

    token_ids: Sequence[int]
    logprobs: Logprobs | None = None
    prompt_logprobs: Logprobs | None = None
    finish: Finish | None = None
    cached_tokens: int = 0
    prompt_tokens: int | None = None


def joined(deltas: Sequence[Delta]) -> Delta:
    """Successive deltas of a generation as one."""
    last = deltas[-1]
    if len(deltas) == 1:
        return last
    logprobs = [delta.logprobs for delta in deltas if delta.logprobs is not None]
    return Delta(
        [token_id for delta in deltas for token_id in delta.token_ids],
        _joined_logprobs(logprobs) if logprobs else None,
        next((delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs is not None), None),
        last.finish,
        last.cached_tokens,
        last.prompt_tokens,
    )


def _joined_logprobs(parts: Sequence[Logprobs]) -> Logprobs:
    return Logprobs(
        [token_id for part in parts for token_id in part.token_ids],
        [value for part in parts for value in part.values],
        [top for part in parts for top in part.top],
    )


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What a runtime says of itself. None: it does not say.

    `max_total_tokens` is how many tokens its KV cache holds, over all requests; `started` is in Unix
    seconds.
    """

    model_path: str | None = None
    max_total_tokens: int | None = None
    started: int | None = None


class Runtime(Protocol):
    """One replica of one model."""

    #: Where it is, for people: "grpc 10.0.0.5:30000".
    name: str
    #: Names of `SamplingParams` fields that this adapter cannot honour.
    unsupported: frozenset[str]
    #: Kinds of `Medium` that it can pass on.
    media: frozenset[str]

    @property
    def serving(self) -> bool:
        """Whether it takes requests now, as far as known."""
        ...

    async def start(self) -> None:
        """Begin to watch the runtime's health. Returns at once; never fails because it is down."""
        ...

    async def close(self) -> None:
        """Stop watching and release what is held. Generations under way end with UNAVAILABLE."""
        ...

    async def info(self) -> RuntimeInfo:
        """What the runtime says of itself. Raises ServiceError where it is down or does not answer."""
        ...

    async def waiting(self) -> int:
        """How many requests wait in it for others to end, as far as it tells.

        Raises ServiceError: UNAVAILABLE where it is down, UNIMPLEMENTED where it does not tell.
        """
        ...

    async def fetch_tokenizer(self, folder: Path) -> None:
        """Write its model's tokenizer and configuration files into `folder`.

        Raises ServiceError: UNAVAILABLE where it is down, UNIMPLEMENTED where it hands out none.
        """
        ...

    async def generate(self, request: GenerateRequest, sink: "TokenSink") -> None:
        """Generate, and push every delta to `sink` until the last one, or until the sink wants no more.

        While the sink's flow is paused, the engine's stream is not read on. Cancelling it aborts the work in
        the engine. Raises ServiceError: INVALID_ARGUMENT for a request that the engine refuses (reason
        INVALID_CONSTRAINT if a grammar does not compile), RESOURCE_EXHAUSTED if its queue is full, and
        UNAVAILABLE if it is down, is starting, or dies under way.
        """
        ...
