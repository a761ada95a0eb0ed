"""The order and the grouping of tests that pytest-xdist runs side by side (`make test`).

One worker runs all tests of a file. The tests with real engines are two groups, because each engine takes
2.5 GB or more: those that share engines, and those that start engines of their own.
"""

from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Files of tests/real whose tests start engines of their own. Their group is the longest, so it comes first.
OWN_ENGINES = (
    "test_architectures_real.py",
    "test_engine_death_real.py",
    "test_launch_real.py",
    "test_lora_real.py",
    "test_media_real.py",
    "test_serve_real.py",
)
#: What takes longest comes first, so that no worker begins with it when the others are done.
_FIRST = (*OWN_ENGINES, "real", "interop", "test_compiled.py", "queue", "app")


def slowest_first(items: list[pytest.Item]) -> None:
    """Sort tests by their files and folders."""

    def place(item: pytest.Item) -> int:
        names = {item.path.name, *(folder.name for folder in item.path.parents)}
        return next((place for place, name in enumerate(_FIRST) if name in names), len(_FIRST))

    items.sort(key=place)


class FileScheduling(LoadScopeScheduling):
    """Gives each file, or group of files, to one worker, in the order of `slowest_first`."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        if file.parent.name != "real":
            return str(file)
        return "engines of one test" if file.name in OWN_ENGINES else "shared engines"
