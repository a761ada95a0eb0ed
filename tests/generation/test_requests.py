"""What a request asks of the runtimes, and what it costs. Without a front, over scripted replicas."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import grpc
import pytest

from inferd.services.errors import ServiceError
from inferd.services.generation.generation import Generation
from inferd.services.generation.sampling import sampling_params
from inferd.services.runtimes.base import Constraint, Delta, Finish, GenerateRequest, Medium, SamplingParams
from inferd.services.runtimes.token_sink import TokenSink
from inferd.v1 import chat_pb2, completion_pb2, sampling_pb2


class Scripted:
    """Stands for a model's replicas; `answer` says what each request gets."""

    def __init__(self, answer: Callable[[GenerateRequest], Sequence[Delta | Exception]]) -> None:
        self.answer = answer
        self.requests: list[GenerateRequest] = []
        self.unsupported: frozenset[str] = frozenset()

    async def generate(self, request: GenerateRequest, sink: TokenSink) -> None:
        self.requests.append(request)
        for item in self.answer(request):
            if isinstance(item, Exception):
                raise item
            sink.push(item)


def model_of(small_text, replicas: Scripted) -> SimpleNamespace:
    return SimpleNamespace(text=small_text, replicas=replicas, adapter="tuned", max_model_len=512)


def last(*token_ids: int, **fields) -> Delta:
    return Delta(token_ids, finish=Finish("length"), **fields)


async def test_everything_that_is_asked_for_reaches_each_request(small_text):
    replicas = Scripted(lambda request: [last(5)])
    media = (Medium("image", "data:image/png;base64,", "messages[0].content[1]"),)
    sampling = SamplingParams(4, priority=3)
    work = Generation(
        model_of(small_text, replicas),
        [[3, 4], [6]],
        sampling,
        n=2,
        stream=True,
        background=True,
        logprobs=True,
        top_logprobs=5,
        prompt_logprobs=True,
        media=media,
    )
    await work.collect()
    assert sorted(replicas.requests, key=lambda request: request.token_ids) == [
        GenerateRequest(
            prompt,
            sampling,
            stream=True,
            background=True,
            adapter="tuned",
            media=media,
            logprobs=True,
            top_logprobs=5,
            prompt_logprobs=True,
        )
        for prompt in ([3, 4], [3, 4], [6], [6])
    ]


async def test_usage_counts_what_the_runtime_says_it_read_and_saves_nothing_twice(small_text):
    def answer(request: GenerateRequest) -> list[Delta]:
        read = 100 if request.token_ids == [3, 4] else None
        # The second of a prompt finds all of it cached.
        cached = 2 if replicas.requests.index(request) < len(replicas.requests) - 1 else 1
        return [last(5, 6, cached_tokens=cached, prompt_tokens=read)]

    replicas = Scripted(answer)
    work = Generation(
        model_of(small_text, replicas), [[3, 4], [6, 7, 8]], SamplingParams(4), n=2, stream=False
    )
    before, after = sampling_pb2.Usage(), sampling_pb2.Usage()
    work.write_usage(before)
    assert before.total_tokens == 5
    await work.collect()
    work.write_usage(after, reasoning_tokens=3)
    assert after == sampling_pb2.Usage(
        prompt_tokens=103,
        completion_tokens=8,
        total_tokens=111,
        prompt_tokens_details=sampling_pb2.PromptTokensDetails(cached_tokens=2),
        completion_tokens_details=sampling_pb2.CompletionTokensDetails(reasoning_tokens=3),
    )


async def test_background_work_fails_as_a_whole(small_text):
    error = ServiceError(grpc.StatusCode.UNAVAILABLE, "RUNTIME_UNAVAILABLE", "gone")

    def work(*, background: bool) -> Generation:
        replicas = Scripted(lambda request: [error] if request.token_ids == [3] else [Delta((5,)), last(6)])
        model = model_of(small_text, replicas)
        return Generation(model, [[3], [4]], SamplingParams(4), n=1, stream=False, background=background)

    with pytest.raises(ServiceError) as raised:
        await work(background=True).collect()
    assert raised.value is error
    [[failed], answered] = await work(background=False).collect()
    assert (failed.text, failed.finish, failed.error) == ("", "error", error)
    assert [delta.finish for delta in answered] == [None, "length"]


@pytest.mark.parametrize(
    "request_type", [chat_pb2.CreateChatCompletionRequest, completion_pb2.CreateCompletionRequest]
)
def test_every_sampling_field_of_a_request(small_text, request_type):
    model = model_of(small_text, Scripted(lambda request: []))
    request = request_type(
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        min_p=0.125,
        frequency_penalty=1,
        presence_penalty=-1,
        repetition_penalty=1.5,
        stop=["a"],
        stop_regex=["b+"],
        stop_token_ids=[4],
        no_stop_trim=True,
        ignore_eos=True,
        skip_special_tokens=False,
        logit_bias={5: -1},
        seed=0,
        runtime_priority=0,
        cache_salt="salt",
        extra_key="key",
    )
    constraint = Constraint("regex", "x+", "regex")
    expected = SamplingParams(
        max_new_tokens=9,
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        min_p=0.125,
        frequency_penalty=1,
        presence_penalty=-1,
        repetition_penalty=1.5,
        stop=("a",),
        stop_regex=("b+",),
        stop_token_ids=(4,),
        no_stop_trim=True,
        ignore_eos=True,
        skip_special_tokens=False,
        constraint=constraint,
        logit_bias=((5, -1),),
        seed=0,
        priority=0,
        cache_salt="salt",
        extra_key="key",
    )
    assert sampling_params(request, model, [[3]], 9, constraint=constraint) == expected
    # No form can be kept by an answer that may not end when it is complete.
    assert sampling_params(request_type(min_tokens=2), model, [[3]], 9).min_new_tokens == 2
    # Without any: the defaults, and all of the context that is left.
    assert sampling_params(request_type(), model, [[3], [3, 4]], None) == SamplingParams(510)
    for name in ("priority", "cache_salt", "extra_key"):
        model.replicas.unsupported = frozenset({"seed", name})
        with pytest.raises(ServiceError) as raised:
            sampling_params(request, model, [[3]], 9)
        field = "runtime_priority" if name == "priority" else name
        assert (raised.value.field, raised.value.reason) == (field, "UNSUPPORTED_PARAMETER")
