"""Other people's clients, unchanged, on a real engine: constrained answers and scores."""

import contextlib
import re
from collections.abc import AsyncIterator

import pytest

from inferd.services.config import parse_config
from tests.support.clients import run_program
from tests.support.evaluation import CAPITALS, PROMPT, evaluate
from tests.support.running import running_front


@contextlib.asynccontextmanager
async def served(name: str, path, address: str, folder) -> AsyncIterator[str]:
    """An inferd over an engine; its URL."""
    config = parse_config(
        {
            "models": [{"id": name, "path": str(path), "runtimes": [{"grpc": address}]}],
            "server": {"grpc": "127.0.0.1:0", "rest": "127.0.0.1:0", "grace": 1},
            "queue": {"url": f"sqlite:///{folder}/queue.db"},
        },
        "tests",
    )
    async with running_front(config) as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def smollm2(smollm2_path, smollm2_address, tmp_path) -> AsyncIterator[str]:
    async with served("smollm2", smollm2_path, smollm2_address, tmp_path) as url:
        yield url


async def test_python_sdk(smollm2):
    seen = await run_program("structured_python.py", smollm2)
    assert seen["parse"] == ["Car", "stop"]
    assert seen["parse_several"] == [["Sell", "stop"]] * 2
    assert seen["parse_streamed"] == ["Car", "stop"]
    matches, name, *told = seen["required"]
    assert matches
    assert name in ("Car", "Sell")
    assert told == ["", "tool_calls"]
    assert seen["named"] == [True, "Sell", "", "tool_calls"]
    forms = seen["forms"]
    assert re.fullmatch("(red|green) [0-9]{2}", forms["regex"])
    assert forms["ebnf"] in ("yes a", "yes b")
    assert forms["choice"] in ("up", "down and away")
    form, function = "response_format.json_schema.schema", "tools[0].function.parameters"
    assert [code for code, _ in seen["refused"]] == ["invalid_constraint"] * 4
    assert [param.split(".properties")[0] for _, param in seen["refused"]] == [form] * 2 + [function] * 2


async def test_node_sdk(smollm2):
    assert await run_program("structured_node.mjs", smollm2) == {
        "parse": True,
        "stream": True,
        "required": [1, True, "tool_calls"],
        # A named function is called once; the runner ends there.
        "runTools": [1, ["user", "assistant", "tool"]],
    }


async def test_langchain(smollm2):
    seen = await run_program("structured_langchain.py", smollm2)
    assert seen.pop("required") in (["sell", "tool"], ["wash", "tool"])
    assert seen == {
        "named": ["wash", "tool"],
        "function_calling": ["Car", None],
        "json_schema": ["Car", None],
        "json_mode": ["dict", None],
        "streamed": True,
    }


async def test_lm_eval_scores_as_the_model_does(tiny_model_path, sglang_address, tmp_path):
    """The likelihoods are those that transformers computes of the same weights."""
    async with served("tiny", tiny_model_path, sglang_address, tmp_path) as url:
        found = await evaluate(url, "tiny", tiny_model_path, tmp_path)
    answers = found["text"]["answers"]
    score = scorer(tiny_model_path)
    for capital, choices in zip(CAPITALS, answers["capital_choice"], strict=True):
        texts = [f" {text}" for text in (capital["capital"], *capital["others"])]
        for text, [[value, greedy]] in zip(texts, choices, strict=True):
            expected, likeliest = score(PROMPT.format(**capital), text)
            assert value == pytest.approx(expected, abs=1e-3)
            assert greedy == likeliest
    for capital, [[value]] in zip(CAPITALS, answers["capital_perplexity"], strict=True):
        text = f"{PROMPT.format(**capital)} {capital['capital']}"
        assert value == pytest.approx(score("", text)[0], abs=1e-3)


def scorer(path):
    """Scores a text after a context by transformers: its log likelihood, and whether it is the greedy one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)

    def score(context: str, text: str) -> tuple[float, bool]:
        # An empty context is the token that begins a text.
        before = tokenizer.encode(context) or [tokenizer.bos_token_id]
        ids = before + tokenizer.encode(context + text)[len(tokenizer.encode(context)) :]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, len(before) - 1 : -1]
        logprobs = torch.log_softmax(logits.double(), -1)
        wanted = torch.tensor(ids[len(before) :])
        value = logprobs.gather(1, wanted[:, None]).sum().item()
        return value, bool((logits.argmax(-1) == wanted).all())

    return score


async def test_lm_eval_sees_what_the_model_knows(smollm2, smollm2_path, tmp_path):
    found = await evaluate(smollm2, "smollm2", smollm2_path, tmp_path)
    assert found["text"]["metrics"]["capital_choice"]["acc,none"] == 1
    assert found["text"]["metrics"]["capital_text"]["exact_match,stripped"] == 1
    # In a chat, the model knows only the first of the capitals.
    assert found["chat"]["answers"]["capital_chat"][0] == [["The capital of France is Paris"]]
