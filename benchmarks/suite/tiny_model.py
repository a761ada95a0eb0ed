"""The tests' tiny random Llama, for measurements that need an engine and no meaningful text."""

import importlib.util
from pathlib import Path

_FILE = Path(__file__).parents[2] / "tests" / "real" / "tiny_model.py"


def tiny_model(folder: Path, tokenizer: Path) -> Path:
    """The folder of the model. It is made if it is missing."""
    if not (folder / "config.json").is_file():
        spec = importlib.util.spec_from_file_location("tiny_model", _FILE)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.write_tiny_model(folder, tokenizer)
    return folder
