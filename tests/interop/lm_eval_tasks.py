"""lm-eval's two OpenAI model classes on the tasks of a folder, against an inferd. Prints metrics and samples.

Arguments: the URL, the model, the folder of its tokenizer, that of the tasks.
"""

import json
import sys

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

url, model, tokenizer, folder = sys.argv[1:]
# Without lm-eval's own tasks, which take long to list.
tasks = TaskManager(include_path=folder, include_defaults=False)


def evaluate(kind: str, names: list[str], path: str, **options):
    found = simple_evaluate(
        model=kind,
        model_args={"model": model, "base_url": url + path, **options.pop("model_args")},
        tasks=names,
        task_manager=tasks,
        log_samples=True,
        bootstrap_iters=0,
        **options,
    )
    samples = {
        name: [sample["resps"] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
        for name, samples in found["samples"].items()
    }
    return {"metrics": found["results"], "answers": samples}


text = evaluate(
    "local-completions",
    ["capital_choice", "capital_text", "capital_perplexity"],
    "/v1/completions",
    model_args={"tokenizer": tokenizer, "num_concurrent": 2},
    batch_size=2,
)
chat = evaluate(
    "local-chat-completions",
    ["capital_chat"],
    "/v1/chat/completions",
    model_args={"num_concurrent": 2},
    apply_chat_template=True,
)
print(json.dumps({"text": text, "chat": chat}))
