"""Imported before inferd, has its compiled modules run as the Python that they are made of: to count what it
executes, to put clocks around functions, and for tests of what runs where there is no compiler.
"""

import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_PACKAGES = ("inferd.services", "inferd.rest_bridge")


class _Sources(importlib.machinery.PathFinder):
    """Finds sources only, in inferd's packages."""

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
