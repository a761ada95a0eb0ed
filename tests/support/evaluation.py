"""Runs lm-eval on small tasks of this file against a running inferd, without access to any hub."""

import json
from pathlib import Path
from typing import Any

import yaml

from tests.support.clients import run_program

CAPITALS = [
    {"country": "France", "capital": "Paris", "others": ["London", "a spoon"]},
    {"country": "Italy", "capital": "Rome", "others": ["Berlin", "seven"]},
    {"country": "Spain", "capital": "Madrid", "others": ["Oslo", "blue green"]},
]
PROMPT = "The capital of {country} is"
_GENERATED: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_target": "{{capital}}",
    "generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 12},
    "filter_list": [
        {"name": "stripped", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
    ],
    "metric_list": [{"metric": "exact_match"}],
}
#: A task for each kind of request that lm-eval makes.
_TASKS: dict[str, dict[str, Any]] = {
    "capital_choice": {
        "output_type": "multiple_choice",
        "doc_to_choice": "{{[capital] + others}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    },
    "capital_text": _GENERATED,
    "capital_chat": {**_GENERATED, "doc_to_text": "What is the capital of {{country}}?"},
    "capital_perplexity": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "The capital of {{country}} is {{capital}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
}


async def evaluate(url: str, model: str, tokenizer: Path, folder: Path) -> dict[str, Any]:
    """What lm-eval finds by "text" and by "chat" completion: each task's "metrics"; and its "answers", by
    sample, in the order of `CAPITALS`, and request: a text, or [log likelihood, whether it is greedy].

    The tasks and lm-eval's caches go into `folder`.
    """
    tasks = folder / "tasks"
    _write_tasks(tasks)
    variables = {"HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return await run_program("lm_eval_tasks.py", url, model, str(tokenizer), str(tasks), **variables)


def _write_tasks(folder: Path) -> None:
    folder.mkdir(parents=True)
    data = folder / "capitals.jsonl"
    data.write_text("".join(json.dumps(capital) + "\n" for capital in CAPITALS))
    for name, task in _TASKS.items():
        document = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "doc_to_text": PROMPT.replace("{", "{{").replace("}", "}}"),
            **task,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))
