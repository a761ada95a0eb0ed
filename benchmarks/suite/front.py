"""A front, which is a server under test: its ports, its processes, and the form of its requests.

Starts no front: `benchmarks.suite.fronts` does.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from smg_grpc_proto import sglang_scheduler_pb2 as pb
from tokenizers import Tokenizer

from benchmarks.suite.job import NUMBER, Job
from benchmarks.suite.processes import Controlled, Process
from inferd.v1 import completion_pb2, prompt_pb2

#: The beginning of each prompt. NUMBER becomes six digits, so that no two prompts begin with the same text.
_BEGIN = f"Letter {NUMBER}. "
_WORDS = (
    "The keeper wrote that the wind had turned to the north and that the sea was grey until noon, when a ship"
    " with two masts passed close to the rocks and somebody on board waved a red cloth at the tower. "
)


def prompt_of(tokens: int) -> str:
    """A text of about that many tokens of the benchmark's tokenizer. The text contains NUMBER."""
    # The beginning has 11 tokens, and 39 words have 41.
    words = (_WORDS * (tokens // 40 + 1)).split(" ")
    return _BEGIN + " ".join(words[: max(round((tokens - 11) * 39 / 41), 1)])


@dataclass(frozen=True, slots=True)
class Asked:
    """The requests of one cell, the same for every front."""

    streams: int
    #: Tokens a second of each stream. 0 means as fast as possible.
    rate: float
    seconds: float
    streamed: bool = True
    tokens: int = 100
    prompt_tokens: int = 20
    grpc: bool = False
    #: Whether the prompt is the user's message of a chat.
    chat: bool = False
    #: Stop after that many answers. 0 means to stop when the time is over.
    requests: int = 0
    #: Whether all requests have the same prompt. A real engine caches it.
    same_prompt: bool = False

    @property
    def prompt(self) -> str:
        """The text of the prompt. It contains NUMBER, unless all requests have the same prompt."""
        text = prompt_of(self.prompt_tokens)
        return text.replace(NUMBER, "100000") if self.same_prompt else text

    @property
    def spread(self) -> float:
        """Seconds over which the starts of the streams are spread: the time of one answer."""
        return min(self.tokens / self.rate, 12.0) if self.rate else 0.3


@dataclass
class Context:
    """What starting a front needs. `stack` ends all that was started. `runtime` is the simulated runtime.

    `rates` are all paces that will be measured, in tokens a second. Dynamo has to know them before it starts.
    """

    folder: Path
    model: Path
    out: Path
    stack: ExitStack
    runtime: Controlled
    runtime_port: int
    rates: tuple[float, ...] = ()


@dataclass
class Front:
    """A front that runs. All processes of `process` are measured, unless `cost` finds others."""

    name: str
    title: str
    process: Process
    rest_port: int
    grpc_port: int = 0
    note: str = ""
    #: Whether the front is measured in fewer cells, because it is slow.
    slow: bool = False
    cost: Callable[[], list[int]] | None = None
    #: A process behind the front, in place of the shared runtime. Its pace is set. It is not measured.
    upstream: Controlled | None = None
    #: The processes of an engine behind the front, in place of the shared runtime, at a pace of its own.
    engine: Callable[[], list[int]] | None = None
    #: The model's name. Dynamo has one model for each pace.
    model: Callable[[float], str] = lambda rate: "m"
    #: Fields of its requests, in addition to the common ones.
    body: dict[str, object] = field(default_factory=dict)
    #: The form of the prompt, and the paths of whole and of streamed answers.
    prompt: Callable[[str], object] = lambda text: text
    paths: tuple[str, str] = ("/v1/completions", "/v1/completions")
    #: The path of chats. "" means that the front takes none.
    chat_path: str = "/v1/chat/completions"
    #: The text before the count of tokens at the end of an answer, and the end of a stream.
    usage: str = '"completion_tokens":'
    done: str = "data: [DONE]"
    #: The fields that ask for a stream.
    streaming: dict[str, object] = field(
        default_factory=lambda: {"stream": True, "stream_options": {"include_usage": True}}
    )

    def pids(self) -> list[int]:
        """The processes that are measured."""
        return self.cost() if self.cost else self.process.tree()

    def engine_pids(self, shared: Controlled) -> list[int]:
        """The processes that make the tokens. `shared` is the runtime of fronts without their own."""
        if self.engine:
            return self.engine()
        return [(self.upstream or shared).pid]

    def takes(self, asked: Asked) -> bool:
        """Whether the front can serve these requests."""
        return bool((self.grpc_port or not asked.grpc) and (self.chat_path or not asked.chat))

    def job(self, asked: Asked) -> Job:
        """The job for the load generator: the requests of all fronts, in the form of this front."""
        if asked.grpc:
            return _grpc_job(self.grpc_port, asked)
        text = asked.prompt
        asks = {"messages": _conversation(text)} if asked.chat else {"prompt": self.prompt(text)}
        body = {
            "model": self.model(asked.rate),
            **asks,
            "max_tokens": asked.tokens,
            "user": f"user-{NUMBER}" if asked.same_prompt else "user",
            **self.body,
        }
        ends = [self.usage + str(asked.tokens)]
        if asked.streamed:
            body |= self.streaming
            ends.append(self.done)
        path = self.chat_path if asked.chat else self.paths[asked.streamed]
        # A chat's first token cannot be recognized, because the chunk with the role looks the same.
        first = "" if asked.chat else '"text"'
        return _job(asked, self.rest_port, path, json.dumps(body).encode(), ends, first=first)


def _conversation(text: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "You answer letters about the sea."},
        {"role": "user", "content": text},
    ]


def _job(
    asked: Asked,
    port: int,
    path: str,
    request: bytes,
    ends: list[str],
    *,
    first: str = "",
    grpc: bool = False,
) -> Job:
    return Job(
        port=port,
        path=path,
        request=request.hex(),
        streams=asked.streams,
        seconds=asked.seconds,
        spread=asked.spread,
        ends=ends,
        first=first,
        grpc=grpc,
        streamed=asked.streamed,
        tokens=asked.tokens,
        drain=asked.spread + 15,
        requests=asked.requests,
    )


def _grpc_job(port: int, asked: Asked) -> Job:
    request = completion_pb2.CreateCompletionRequest(
        model="m",
        prompt=[prompt_pb2.Prompt(text=asked.prompt)],
        max_tokens=asked.tokens,
        user=f"user-{NUMBER}" if asked.same_prompt else "user",
        ignore_eos=True,
        stream_options={"include_usage": True} if asked.streamed else None,
    )
    method = "StreamCompletion" if asked.streamed else "CreateCompletion"
    path = f"/inferd.v1.CompletionService/{method}"
    # The bytes of the usage's completion_tokens, and the tag of total_tokens, which comes next.
    usage = f"\x10{chr(asked.tokens)}\x18"
    return _job(asked, port, path, request.SerializeToString(), [usage], grpc=True)


def direct_job(port: int, model: Path, asked: Asked) -> Job:
    """The same load without a front: requests to the scheduler, in the scheduler's own protocol."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    text = prompt_of(asked.prompt_tokens).replace(NUMBER, "100000")
    request = pb.GenerateRequest(
        request_id=f"benchmark-{NUMBER}",
        tokenized=pb.TokenizedInput(original_text=text, input_ids=tokenizer.encode(text).ids),
        sampling_params=pb.SamplingParams(
            temperature=1,
            top_p=1,
            top_k=-1,
            repetition_penalty=1,
            max_new_tokens=asked.tokens,
            skip_special_tokens=True,
            spaces_between_special_tokens=True,
            n=1,
            ignore_eos=True,
        ),
        stream=asked.streamed,
    )
    path = "/sglang.grpc.scheduler.SglangScheduler/Generate"
    return _job(asked, port, path, request.SerializeToString(), ["length"], grpc=True)
