"""Makes inferd's compiled modules run as Python, if it is imported before inferd (`python -m pytest -p …`).

The benchmarks need this to count what Python executes, and to put clocks around functions. The tests need it
to check the modules as they run on machines without a C compiler.
"""

import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_PACKAGES = ("inferd.services", "inferd.rest_bridge")


class _Sources(importlib.machinery.PathFinder):
    """Finds only the sources of inferd's packages, and none of their compiled modules."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if path is None or not fullname.startswith(_PACKAGES):
            return None
        loader = (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES)
        for folder in path:
            found = importlib.machinery.FileFinder(folder, loader).find_spec(fullname)
            if found is not None:
                return found
        return None


if any(name.startswith(_PACKAGES) for name in sys.modules):
    raise ImportError("inferd is imported already")
sys.meta_path.insert(0, _Sources)
