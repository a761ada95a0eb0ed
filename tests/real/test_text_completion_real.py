"""Text completion on a real SGLang: what ended a text, its tokens, scored prompts and the best of several."""

import contextlib
from pathlib import Path

import openai
import pytest

from inferd.services.config import parse_config
from tests.support.running import Inferd, running_front

PARIS = {
    "model": "smollm2",
    "prompt": "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "temperature": 0,
    "max_tokens": 24,
}
ANSWER = "The capital of France is Paris."
END = 2


@pytest.fixture
async def client(smollm2_path: Path, smollm2_address: str, tmp_path: Path):
    config = {
        "models": [{"id": "smollm2", "path": str(smollm2_path), "runtimes": [{"grpc": smollm2_address}]}],
        "server": {"grpc": "127.0.0.1:0", "rest": "127.0.0.1:0", "grace": 1},
        "queue": {"url": f"sqlite:///{tmp_path}/queue.db"},
    }
    async with contextlib.AsyncExitStack() as stack:
        ports = await stack.enter_async_context(running_front(parse_config(config, "tests")))
        yield Inferd(*ports, stack).openai()


async def parts_of(client: openai.AsyncOpenAI, **request) -> list:
    stream = await client.completions.create(**request, stream=True)
    return [choice async for chunk in stream for choice in chunk.choices]


@pytest.mark.parametrize(
    ("fields", "text", "matched"),
    [
        ({}, ANSWER, END),
        ({"extra_body": {"skip_special_tokens": False}}, ANSWER, END),
        ({"extra_body": {"no_stop_trim": True}}, ANSWER, END),
        ({"extra_body": {"no_stop_trim": True, "skip_special_tokens": False}}, ANSWER + "<|im_end|>", END),
        ({"stop": ["France", "is Par"]}, "The capital of ", "France"),
        (
            {"stop": "ance is Pa", "extra_body": {"no_stop_trim": True}},
            "The capital of France is Pa",
            "ance is Pa",
        ),
        # The engine reads special tokens as text, and the answer has none.
        ({"stop": "<|im_end|>"}, ANSWER, "<|im_end|>"),
        ({"stop": ".<|im_end|>"}, ANSWER, ".<|im_end|>"),
        (
            {"stop": ".<|im_end|>", "extra_body": {"skip_special_tokens": False}},
            ANSWER.removesuffix("."),
            ".<|im_end|>",
        ),
        ({"max_tokens": 3}, "The capital of", None),
    ],
)
async def test_what_ended_a_text_is_told(client, fields, text, matched):
    [choice] = (await client.completions.create(**{**PARIS, **fields})).choices
    assert (choice.text, getattr(choice, "matched_stop", None)) == (text, matched)
    assert choice.finish_reason == ("length" if matched is None else "stop")
    parts = await parts_of(client, **{**PARIS, **fields})
    assert "".join(part.text for part in parts) == text
    assert getattr(parts[-1], "matched_stop", None) == matched
    assert parts[-1].finish_reason == choice.finish_reason


async def test_tokens_are_those_that_the_engine_read_and_wrote(client):
    request = {**PARIS, "extra_body": {"return_token_ids": True}}
    answer = await client.completions.create(**request)
    [choice] = answer.choices
    assert len(choice.prompt_token_ids) == answer.usage.prompt_tokens
    assert len(choice.token_ids) == answer.usage.completion_tokens
    assert choice.token_ids[-1] == END
    again = await client.completions.create(**{**request, "prompt": choice.prompt_token_ids})
    assert again.choices[0].token_ids == choice.token_ids
    parts = await parts_of(client, **request)
    assert [i for part in parts for i in getattr(part, "token_ids", ())] == choice.token_ids
    assert parts[0].prompt_token_ids == choice.prompt_token_ids


@pytest.mark.parametrize("max_tokens", [0, 2])
async def test_scored_prompts_are_the_same_streamed_and_as_tokens(client, max_tokens):
    request = {**PARIS, "prompt": ["The capital of France is", "é 🙂"], "max_tokens": max_tokens}
    request |= {"echo": True, "logprobs": 3, "extra_body": {"return_token_ids": True}}
    whole = (await client.completions.create(**request)).choices
    parts = await parts_of(client, **request)
    as_tokens = await client.completions.create(
        **{**request, "prompt": [choice.prompt_token_ids for choice in whole]}
    )
    for choice, other in zip(whole, as_tokens.choices, strict=True):
        mine = [part for part in parts if part.index == choice.index]
        assert other.text == choice.text == "".join(part.text for part in mine)
        assert len(choice.logprobs.tokens) == len(choice.prompt_token_ids) + max_tokens
        for logprobs in ([other.logprobs], [part.logprobs for part in mine if part.logprobs]):
            assert [token for part in logprobs for token in part.tokens] == choice.logprobs.tokens
            assert [at for part in logprobs for at in part.text_offset] == choice.logprobs.text_offset
            first, *values = [value for part in logprobs for value in part.token_logprobs]
            assert first is None
            assert values == pytest.approx(choice.logprobs.token_logprobs[1:], abs=1e-3)


async def test_the_best_come_first(client):
    request = {**PARIS, "prompt": "Once upon a time", "temperature": 1, "logprobs": 0}
    answer = await client.completions.create(**request, n=3, best_of=4)
    means = [
        sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs) for choice in answer.choices
    ]
    assert len(means) == 3
    assert means == sorted(means, reverse=True)
    counted = sum(len(choice.logprobs.tokens) for choice in answer.choices)
    assert counted < answer.usage.completion_tokens <= 4 * 24
