"""Keeps Python's bytecode for the programs that inferd starts, because SGLang imports thousands of modules in
each of its processes. Compiles nothing itself.
"""

from collections.abc import Mapping

import platformdirs


def with_bytecode_cache(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment; if it forbids to write bytecode beside the sources, bytecode goes to inferd's cache.

    uv does not compile packages that it installs, and containers often set PYTHONDONTWRITEBYTECODE. Without a
    cache, each process of SGLang would compile SGLang, torch and transformers at each start.
    """
    environment = dict(environ)
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        folder = platformdirs.user_cache_path("inferd") / "bytecode"
        environment.setdefault("PYTHONPYCACHEPREFIX", str(folder))
    return environment
