"""One prepared generation: the continuations that chat and text completion are made of.

Knows nothing of messages, chunks or protocols.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from inferd.services.errors import ServiceError
from inferd.services.fleet.catalog import ServedModel
from inferd.services.generation.continuation_failures import ContinuationFailures
from inferd.services.generation.delta_sink import Collector, DeltaSink, TextDelta
from inferd.services.generation.sampling import ignored_fields, ignored_metadata
from inferd.services.generation.text_deltas import TextDeltas
from inferd.services.generation.token_usage import TokenUsage
from inferd.services.net.flow import Flow
from inferd.services.net.message_writer import Metadata
from inferd.services.runtimes.base import GenerateRequest, Medium, SamplingParams
from inferd.v1 import sampling_pb2


@dataclass
class Generation:
    """`n` continuations of each prompt, numbered prompt by prompt.

    `token_ends` asks for `TextDelta.ends`. `keep` are special tokens whose text is kept if others are
    skipped. `media` are the media of the prompt. In `background` work, which nobody waits for, no
    continuation fails alone, because the work can be done again as a whole. `ignored` are names of fields of
    the request that have no effect on this model. `created` is in Unix seconds.
    """

    model: ServedModel
    prompts: Sequence[Sequence[int]]
    sampling: SamplingParams
    n: int
    stream: bool
    background: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    token_ends: bool = False
    keep: frozenset[int] = frozenset()
    media: tuple[Medium, ...] = ()
    ignored: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.usage = TokenUsage(self.prompts, self.n)

    @property
    def size(self) -> int:
        """The number of continuations."""
        return len(self.prompts) * self.n

    def metadata(self) -> Metadata:
        """Initial metadata of the answer: the names of fields of the request that have no effect."""
        return ignored_metadata([*self.ignored, *ignored_fields(self.sampling, self.model)])

    async def run(self, sinks: Sequence[DeltaSink], flow: Flow) -> None:
        """Generate all continuations, and push each one's text deltas to the sink of its index.

        Returns when all are complete. Cancelling it aborts the work in the runtimes. If one of several fails,
        the others go on: see `ContinuationFailures`. Raises ServiceError as `Replicas.generate` does.
        """
        if self.size == 1:
            await self._generate(0, sinks[0], flow)
            return
        failures = ContinuationFailures(sinks, all_or_none=self.background)
        tasks = [
            asyncio.create_task(self._generate_beside_others(index, sink, flow, failures))
            for index, sink in enumerate(sinks)
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def collect(self) -> list[list[TextDelta]]:
        """The text deltas of each continuation, once all are complete. Raises as `run` does."""
        collectors = [Collector() for _ in range(self.size)]
        await self.run(collectors, Flow())
        return [collector.deltas for collector in collectors]

    def write_usage(self, usage: sampling_pb2.Usage, reasoning_tokens: int = 0) -> None:
        """Fill in the tokens read and written so far, of which `reasoning_tokens` were reasoning."""
        counted = self.usage
        prompt_tokens, completion_tokens = counted.prompt_tokens, counted.completion_tokens
        usage.prompt_tokens = prompt_tokens
        usage.completion_tokens = completion_tokens
        usage.total_tokens = prompt_tokens + completion_tokens
        # Both are set, even to 0, so that the details are present.
        usage.prompt_tokens_details.cached_tokens = counted.cached_tokens
        usage.completion_tokens_details.reasoning_tokens = reasoning_tokens

    async def _generate_beside_others(
        self, index: int, sink: DeltaSink, flow: Flow, failures: ContinuationFailures
    ) -> None:
        try:
            await self._generate(index, sink, flow, failures)
        except ServiceError as error:
            failures.add(index, error)

    async def _generate(
        self, index: int, sink: DeltaSink, flow: Flow, failures: ContinuationFailures | None = None
    ) -> None:
        request = self._request(self.prompts[index // self.n])
        tokens = TextDeltas(
            self.model.text,
            request,
            sink,
            flow,
            self.usage,
            index,
            token_ends=self.token_ends,
            keep=self.keep,
        )
        if failures is not None:
            tokens.on_begin = lambda: failures.set_begun(index)
        if request.sampling.stop_regex:
            # Only this process looks for the expressions. SGLang would do so in its scheduler, at every step:
            # one client's slow expression would stop all other clients.
            request = replace(request, stream=True, sampling=replace(request.sampling, stop_regex=()))
        await self.model.replicas.generate(request, tokens)

    def _request(self, prompt: Sequence[int]) -> GenerateRequest:
        return GenerateRequest(
            token_ids=prompt,
            sampling=self.sampling,
            stream=self.stream,
            background=self.background,
            adapter=self.model.adapter,
            media=self.media,
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs,
            prompt_logprobs=self.prompt_logprobs,
        )
