"""lm-eval's two OpenAI model classes, unchanged, run tasks to the end, and score the runtime's answers."""

import pytest

from tests.doubles.simulated_scheduler import logprob_of
from tests.support.evaluation import CAPITALS, PROMPT, evaluate


async def test_tasks_run_to_the_end_with_the_runtimes_scores(scripted, tmp_path):
    async with scripted.served(tmp_path, bridge_alone=False) as (url, _):
        found = await evaluate(url, "small", scripted.path, tmp_path)
    tokenizer = scripted.text.tokenizer

    def likelihood(context: str, text: str) -> float:
        """Of a text after a context; tokens may reach across both."""
        before = len(tokenizer.encode(context, add_special_tokens=False))
        ids = tokenizer.encode(context + text, add_special_tokens=False)
        return sum(logprob_of(i) for i in ids[before:])

    answers = found["text"]["answers"]
    for capital, choices in zip(CAPITALS, answers["capital_choice"], strict=True):
        context = PROMPT.format(**capital)
        texts = [f" {text}" for text in (capital["capital"], *capital["others"])]
        # The simulated runtime's token is the likeliest always.
        assert choices == [[[likelihood(context, text), True]] for text in texts]
    for capital, [[value]] in zip(CAPITALS, answers["capital_perplexity"], strict=True):
        assert value == likelihood("", f"{PROMPT.format(**capital)} {capital['capital']}")
    for way in ("text", "chat"):
        # The scripted model's answer to every prompt is Paris.
        task = f"capital_{way}"
        assert found[way]["answers"][task] == [[[" Paris"]]] * len(CAPITALS)
        assert found[way]["metrics"][task]["exact_match,stripped"] == pytest.approx(1 / 3)
